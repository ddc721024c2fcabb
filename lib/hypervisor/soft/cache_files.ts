/**
 * Files that cost only time when they are lost: read with suspicion, replaced in one step, thrown away
 * when they become many.
 *
 * @module
 */

import { join } from "node:path";
import { describeError, Logger } from "../../base/mod.ts";

const log = new Logger("cache");

/** What writers that were killed leave begins so. */
const TEMPORARY = ".unfinished-";
/** After this time nobody is writing such a file any more, in milliseconds. */
const ABANDONED_MS = 3_600_000;

/**
 * The file at `path`; undefined where it is not there, longer than `limitBytes`, or somebody else's or
 * writable for others: what is in it runs.
 */
export function readOwnFile(
  path: string,
  limitBytes: number,
): Uint8Array<ArrayBuffer> | undefined {
  try {
    const { isFile, uid, mode, size } = Deno.statSync(path);
    const mine = uid === null || uid === Deno.uid();
    if (!isFile || !mine || ((mode ?? 0) & 0o022) !== 0 || size > limitBytes) return undefined;
    return Deno.readFileSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) log.debug(`${path}: ${describeError(error)}`);
    return undefined;
  }
}

/** Puts `bytes` at `name` in `folder`, which is made where needed; false where that cannot be. */
export function replaceFile(
  folder: string,
  name: string,
  bytes: Uint8Array<ArrayBuffer>,
): boolean {
  let temporary: string | undefined;
  try {
    Deno.mkdirSync(folder, { recursive: true, mode: 0o700 });
    temporary = Deno.makeTempFileSync({ dir: folder, prefix: TEMPORARY });
    Deno.writeFileSync(temporary, bytes);
    Deno.renameSync(temporary, join(folder, name));
    return true;
  } catch (error) {
    log.debug(`${join(folder, name)}: not written: ${describeError(error)}`);
    if (temporary !== undefined) removeQuietly(temporary);
    return false;
  }
}

/**
 * Removes files in `folder` whose names begin with `prefix`, but for the `keep` that were changed last,
 * and what writers that were killed left.
 */
export function removeOldFiles(folder: string, options: { prefix: string; keep: number }): void {
  try {
    const files: { path: string; changed: number; temporary: boolean }[] = [];
    for (const { name, isFile } of Deno.readDirSync(folder)) {
      const temporary = name.startsWith(TEMPORARY);
      if (!isFile || (!temporary && !name.startsWith(options.prefix))) continue;
      const path = join(folder, name);
      const changed = Deno.statSync(path).mtime?.getTime() ?? 0;
      files.push({ path, changed, temporary });
    }
    files.sort((a, b) => b.changed - a.changed);
    const abandoned = Date.now() - ABANDONED_MS;
    let left = options.keep;
    for (const { path, changed, temporary } of files) {
      if (temporary ? changed < abandoned : left-- <= 0) removeQuietly(path);
    }
  } catch (error) {
    log.debug(`${folder}: ${describeError(error)}`);
  }
}

function removeQuietly(path: string): void {
  try {
    Deno.removeSync(path);
  } catch {
    // Somebody else did, or it stays.
  }
}
