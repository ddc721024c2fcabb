/**
 * A Debian userland for guests that do more than busybox can: made by debootstrap from the host's
 * mirror, packed as an initial RAM file system, kept in the user's cache folder.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, open, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { packCpio } from "./cpio.ts";
import { downloadPackages, FetchError, guestCacheDir, runTool } from "./debian.ts";

const SUITE = "bookworm";
const MIRROR = "http://deb.debian.org/debian";
/** What the checks of `deno task userland` and `deno task soak` run. */
const PACKAGES = [
  ...["gcc", "kmod", "libc6-dev", "libpython3.11-testsuite", "openssl", "procps", "python3"],
  ...["stress-ng", "util-linux"],
];
/** A package that the guest installs by itself. */
const SPARE_PACKAGE = "hello";
const IMAGE = "root.cpio";
const RECORD = "packages";
const COPY_BYTES = 1 << 22;

/** The first program of the guest: runs /script and powers off. */
export const USERLAND_INIT = `#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
ln -sf /proc/self/fd /dev/fd
cd /root
bash /script
sync
echo o > /proc/sysrq-trigger
sleep 100
`;

/**
 * Makes the userland where it is not there yet.
 *
 * @returns Path of the archive, uncompressed.
 * @throws {FetchError} without root, debootstrap or network.
 */
export async function fetchUserland(
  options: { progress?: (message: string) => void; signal?: AbortSignal } = {},
): Promise<string> {
  const folder = guestCacheDir("userland");
  const image = join(folder, IMAGE);
  const wanted = [SUITE, ...PACKAGES, SPARE_PACKAGE].join(" ");
  await mkdir(folder, { recursive: true });
  using lock = await Deno.open(join(folder, "lock"), { create: true, write: true });
  await lock.lock(true);
  if (existsSync(image) && await readText(join(folder, RECORD)) === wanted) return image;
  if (Deno.uid() !== 0) throw new FetchError("debootstrap needs root to make a userland");
  options.progress?.(`making a Debian ${SUITE} userland (a minute or two)`);
  const work = await mkdtemp(join(folder, "work-"));
  try {
    const root = join(work, "root");
    const { signal } = options;
    try {
      await runTool("debootstrap", [
        ...["--variant=minbase", `--include=${PACKAGES.join(",")}`],
        ...[SUITE, root, MIRROR],
      ], { signal });
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      throw new FetchError("expected debootstrap on this host: apt-get install debootstrap");
    }
    await mkdir(join(root, "debs"));
    const archives = await downloadPackages(work, { names: [SPARE_PACKAGE], signal });
    for (const archive of archives) await copyFile(archive, join(root, "debs", basename(archive)));
    await rm(join(root, "var/cache/apt"), { recursive: true });
    await rm(join(root, "var/lib/apt/lists"), { recursive: true });
    for (const part of ["doc", "locale", "man"]) {
      await rm(join(root, "usr/share", part), { recursive: true, force: true });
    }
    const packed = join(work, IMAGE);
    const pack = `find . | LC_ALL=C sort | cpio --quiet -o -H newc > "$0"`;
    await runTool("sh", ["-c", pack, packed], { cwd: root, signal });
    await rename(packed, image);
    await writeFile(join(folder, RECORD), wanted);
    return image;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Writes the initrd of a guest that runs `script` (for bash) in the userland `image` to `path`. */
export async function writeUserlandInitrd(
  path: string,
  { image, script }: { readonly image: string; readonly script: string },
): Promise<void> {
  await using from = await open(image);
  await using to = await open(path, "w");
  const buffer = new Uint8Array(COPY_BYTES);
  let size = 0;
  for (;;) {
    const { bytesRead } = await from.read(buffer);
    if (bytesRead === 0) break;
    await to.writeFile(buffer.subarray(0, bytesRead));
    size += bytesRead;
  }
  // The kernel unpacks archives one after the other; each begins at a multiple of four.
  await to.writeFile(new Uint8Array((4 - size % 4) % 4));
  await to.writeFile(packCpio([
    { type: "directory", path: "dev" },
    { type: "character-device", path: "dev/console", major: 5, minor: 1 },
    { type: "file", path: "init", data: USERLAND_INIT, mode: 0o755 },
    { type: "file", path: "script", data: script, mode: 0o755 },
  ]));
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch {
    return undefined;
  }
}
