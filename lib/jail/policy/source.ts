/**
 * Where policy files are read from.
 *
 * @module
 */

import { dirname, isAbsolute, join } from "node:path";

/** A set of files that policies are read from. */
export interface PolicySource {
  /**
   * Text of the file at `path`.
   * @throws {Error} why it cannot be read.
   */
  read(path: string): string;
}

/** Files of the host. */
export const hostFiles: PolicySource = {
  read(path: string): string {
    const { size, isFile } = Deno.statSync(path);
    if (isFile && size > MAX_FILE_BYTES) {
      throw new Error(`expected at most ${MAX_FILE_BYTES} bytes, got ${size}`);
    }
    return Deno.readTextFileSync(path);
  },
};

const MAX_FILE_BYTES = 1 << 20;

/** Files that are in memory, by path. */
export function memoryFiles(files: Readonly<Record<string, string>>): PolicySource {
  return {
    read(path: string): string {
      const text = Object.hasOwn(files, path) ? files[path] : undefined;
      if (text === undefined) throw new Error("no such file");
      return text;
    },
  };
}

/** `path` as the file `from` names it. */
export function resolveInclude(from: string, path: string): string {
  return isAbsolute(path) ? join(path) : join(dirname(from), path);
}
