import type { GuestTest } from "../guest_test.ts";

/** The guests. */
export const MODE_TESTS: readonly GuestTest[] = [];
