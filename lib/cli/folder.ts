/**
 * Where the program was started.
 *
 * @module
 */

/** The folder from which relative paths of the command line start. */
export function currentFolder(): string {
  try {
    return Deno.cwd();
  } catch {
    // It was removed under us; absolute paths still work.
    return "/";
  }
}
