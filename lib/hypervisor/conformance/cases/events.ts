import type { GuestTest } from "../guest_test.ts";

/** The guests. */
export const EVENT_TESTS: readonly GuestTest[] = [];
