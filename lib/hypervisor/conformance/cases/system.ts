import type { GuestTest } from "../guest_test.ts";

/** The guests. */
export const SYSTEM_TESTS: readonly GuestTest[] = [];
