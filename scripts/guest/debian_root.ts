/**
 * Root file systems of Debian for guests: made by debootstrap from Debian's mirror, packed, and kept in the
 * user's cache folder.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { FetchError, guestCacheDir, runTool } from "./debian.ts";

const SUITE = "bookworm";
const MIRROR = "http://deb.debian.org/debian";
const RECORD = "packages";

/** A root file system to make. */
export interface Root {
  /** Its folder in the cache. */
  readonly name: string;
  /** What it is packed as, in that folder. */
  readonly file: string;
  readonly packages: readonly string[];
  /** Tells what else it is made of: where this or the packages change, it is made anew. */
  readonly variant: string;
  /** Packs `root` as the file `target`; `work` is a folder for what is in between. */
  readonly pack: (folders: {
    readonly root: string;
    readonly work: string;
    readonly target: string;
    readonly signal: AbortSignal | undefined;
  }) => Promise<void>;
}

/** How to make it. */
export interface RootOptions {
  readonly progress?: (message: string) => void;
  readonly signal?: AbortSignal;
}

/**
 * Makes `root` where it is not there yet.
 *
 * @returns Path of its file.
 * @throws {FetchError} without root, debootstrap or network.
 */
export async function fetchRoot(root: Root, options: RootOptions = {}): Promise<string> {
  const folder = guestCacheDir(root.name);
  const image = join(folder, root.file);
  const wanted = [SUITE, ...root.packages, root.variant].join(" ");
  await mkdir(folder, { recursive: true });
  using lock = await Deno.open(join(folder, "lock"), { create: true, write: true });
  await lock.lock(true);
  if (existsSync(image) && await readText(join(folder, RECORD)) === wanted) return image;
  if (Deno.uid() !== 0) throw new FetchError(`debootstrap needs root to make a ${root.name}`);
  options.progress?.(`making a Debian ${SUITE} ${root.name} (a minute or two)`);
  const work = await mkdtemp(join(folder, "work-"));
  try {
    const made = join(work, "root");
    const { signal } = options;
    await debootstrap(made, { packages: root.packages, signal });
    const target = join(work, root.file);
    await root.pack({ root: made, work, target, signal });
    await rename(target, image);
    await writeFile(join(folder, RECORD), wanted);
    return image;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Makes a small Debian in `root`, without what a guest of a few minutes does not read. */
async function debootstrap(
  root: string,
  { packages, signal }: { packages: readonly string[]; signal: AbortSignal | undefined },
): Promise<void> {
  try {
    await runTool("debootstrap", [
      ...["--variant=minbase", `--include=${packages.join(",")}`],
      ...[SUITE, root, MIRROR],
    ], { signal });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new FetchError("expected debootstrap on this host: apt-get install debootstrap");
  }
  for (const part of ["var/cache/apt", "var/lib/apt/lists"]) {
    await rm(join(root, part), { recursive: true });
  }
  for (const part of ["doc", "locale", "man"]) {
    await rm(join(root, "usr/share", part), { recursive: true, force: true });
  }
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch {
    return undefined;
  }
}
