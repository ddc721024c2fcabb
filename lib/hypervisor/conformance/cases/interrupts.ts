import type { GuestTest } from "../guest_test.ts";

/** The guests. */
export const INTERRUPT_TESTS: readonly GuestTest[] = [];
