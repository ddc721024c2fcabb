import type { GuestTest } from "../guest_test.ts";

/** The guests. */
export const PAGING_TESTS: readonly GuestTest[] = [];
