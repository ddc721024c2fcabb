/**
 * A Debian userland for guests that do more than busybox can, packed as an initial RAM file system.
 *
 * @module
 */

import { copyFile, mkdir, open } from "node:fs/promises";
import { basename, join } from "node:path";
import { packCpio } from "./cpio.ts";
import { downloadPackages, runTool } from "./debian.ts";
import { fetchRoot, type RootOptions } from "./debian_root.ts";

/** What the checks of `deno task userland` and `deno task soak` run. */
const PACKAGES = [
  ...["gcc", "kmod", "libc6-dev", "libpython3.11-testsuite", "openssl", "procps", "python3"],
  ...["stress-ng", "util-linux"],
];
/** A package that the guest installs by itself. */
const SPARE_PACKAGE = "hello";
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
export function fetchUserland(options: RootOptions = {}): Promise<string> {
  return fetchRoot({
    name: "userland",
    file: "root.cpio",
    packages: PACKAGES,
    variant: SPARE_PACKAGE,
    pack: async ({ root, work, target, signal }) => {
      await mkdir(join(root, "debs"));
      for (const deb of await downloadPackages(work, { names: [SPARE_PACKAGE], signal })) {
        await copyFile(deb, join(root, "debs", basename(deb)));
      }
      const pack = `find . | LC_ALL=C sort | cpio --quiet -o -H newc > "$0"`;
      await runTool("sh", ["-c", pack, target], { cwd: root, signal });
    },
  }, options);
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
