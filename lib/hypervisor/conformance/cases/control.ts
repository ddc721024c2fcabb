import type { GuestTest } from "../guest_test.ts";

/** The guests. */
export const CONTROL_TESTS: readonly GuestTest[] = [];
