import type { GuestTest } from "../guest_test.ts";

/** The guests. */
export const SMP_TESTS: readonly GuestTest[] = [];
