/**
 * What the software engine does not do, by the name of the guest that shows it. Each is skipped with
 * its reason; a name that no guest has is an error.
 *
 * @module
 */

/** Name of a guest to the reason. */
export const SOFT_GAPS: Readonly<Record<string, string>> = {};
