/**
 * The licenses of what the executable contains.
 *
 * @module
 */

import { embeddedPart } from "../base/mod.ts";

/** Name of their text in the executable, see scripts/build. */
const LICENSES_PART = "licenses";

/** Their text, or where to look for it where the program is not built so. */
export function licenses(): string {
  const part = embeddedPart(LICENSES_PART);
  return part === undefined
    ? "vmctl: see LICENSE in its sources, or beside an executable the file .licenses.txt. The packages that " +
      "deno.json names have licenses of their own.\n"
    : new TextDecoder().decode(part);
}
