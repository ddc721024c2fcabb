/**
 * Data that the executable brings along, see scripts/build.
 *
 * @module
 */

/** Function in which the executable gives its parts by their names. */
const PARTS = "VMCTL_PART";

/** What the executable has under `name`; undefined where the program is not built. */
export function embeddedPart(name: string): Uint8Array<ArrayBuffer> | undefined {
  const parts: unknown = Reflect.get(globalThis, PARTS);
  const bytes: unknown = typeof parts === "function" ? parts(name) : undefined;
  return bytes instanceof Uint8Array && bytes.buffer instanceof ArrayBuffer
    ? bytes as Uint8Array<ArrayBuffer>
    : undefined;
}
