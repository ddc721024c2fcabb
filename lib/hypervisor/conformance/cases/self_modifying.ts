import type { GuestTest } from "../guest_test.ts";

/** The guests. */
export const SELF_MODIFYING_TESTS: readonly GuestTest[] = [];
