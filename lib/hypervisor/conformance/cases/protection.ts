import type { GuestTest } from "../guest_test.ts";

/** The guests. */
export const PROTECTION_TESTS: readonly GuestTest[] = [];
