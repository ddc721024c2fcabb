/**
 * Where policy files are read from.
 *
 * @module
 */

import { dirname, isAbsolute, join } from "node:path";
import { concatBytes } from "../../base/mod.ts";
import { inheritedFdOfPath } from "../../host/mod.ts";

/** A set of files that policies are read from. */
export interface PolicySource {
  /**
   * Text of the file at `path`.
   * @throws {Error} why it cannot be read.
   */
  read(path: string): string;
}

const MAX_FILE_BYTES = 1 << 20;
const CHUNK_BYTES = 1 << 16;

/**
 * Files of the host. Opening or reading what is no file, such as a FIFO that nobody writes to, may take for
 * ever, so it is refused, but for what this process was given as a descriptor: `/dev/stdin`, `/dev/fd/N`.
 */
export const hostFiles: PolicySource = {
  read(path: string): string {
    const status = Deno.statSync(path);
    const isGiven = path === "/dev/stdin" || inheritedFdOfPath(path) !== undefined;
    // Why folders cannot be read, reading them tells.
    if (!status.isFile && !status.isDirectory && !isGiven) {
      throw new Error(`expected a regular file, got ${kindOf(status)}`);
    }
    using file = Deno.openSync(path);
    return new TextDecoder().decode(readAll(file));
  },
};

function kindOf({ isFifo, isSocket, isBlockDevice }: Deno.FileInfo): string {
  if (isFifo === true) return "a FIFO";
  if (isSocket === true) return "a socket";
  return isBlockDevice === true ? "a block device" : "a character device";
}

/** @throws {Error} where it is longer than a policy may be. */
function readAll(file: Deno.FsFile): Uint8Array {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const chunk = new Uint8Array(CHUNK_BYTES);
    const count = file.readSync(chunk);
    if (count === null) return concatBytes(chunks);
    chunks.push(chunk.subarray(0, count));
    length += count;
    if (length > MAX_FILE_BYTES) throw new Error(`expected at most ${MAX_FILE_BYTES} bytes`);
  }
}

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
