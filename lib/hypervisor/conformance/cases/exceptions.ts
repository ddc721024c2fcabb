import type { GuestTest } from "../guest_test.ts";

/** The guests. */
export const EXCEPTION_TESTS: readonly GuestTest[] = [];
