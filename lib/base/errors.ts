/**
 * The root of vmctl's errors. Every layer has one subclass, so that a handler can tell where an
 * error comes from and a stray programming error never passes for an expected one.
 *
 * @module
 */

/** An expected failure: its message is fit to be shown to the user. */
export class VmctlError extends Error {
  override readonly name: string = "VmctlError";
}

/** Marks a branch that the types rule out; throws when it is reached all the same. */
export function assertNever(value: never, what = "value"): never {
  throw new VmctlError(`unexpected ${what}: ${String(value)}`);
}

/** The message of whatever was thrown, with those of its causes. */
export function describeError(error: unknown): string {
  const parts: string[] = [];
  let current: unknown = error;
  // A cycle of causes must not hang the report.
  for (let depth = 0; depth < 8 && current !== undefined && current !== null; depth++) {
    const text = current instanceof Error ? current.message : String(current);
    if (!parts.some((part) => part.includes(text))) parts.push(text);
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.join(": ");
}

/** Why the runtime could not do something with a file, in a few words and without its path. */
export function describeFileError(error: unknown): string {
  if (error instanceof Deno.errors.NotFound) return "no such file";
  if (error instanceof Deno.errors.PermissionDenied) return "permission denied";
  if (error instanceof Deno.errors.IsADirectory) return "it is a folder";
  if (error instanceof Deno.errors.NotADirectory) return "a part of the path is not a folder";
  if (error instanceof Deno.errors.FilesystemLoop) return "too many symbolic links";
  return describeError(error).replace(/ \(os error \d+\).*$/, "");
}
