/**
 * A disk with a whole Debian: systemd, udev, a login on the serial port, and a service that says how the boot
 * was.
 *
 * @module
 */

import { mkdir, symlink, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { FetchError, runTool } from "./debian.ts";
import { fetchRoot, type RootOptions } from "./debian_root.ts";

const PACKAGES = ["dbus", "kmod", "procps", "systemd-sysv", "udev", "util-linux"];
/** Size of the disk, in bytes; it is sparse. */
const DISK_BYTES = 1 << 30;
/** Counts what {@link FILES} has been. */
const VARIANT = "1";

/** The service's lines begin so. */
export const SYSTEM_MARK = "@system";

const SERVICE = "/etc/systemd/system/tells.service";
const FILES: Readonly<Record<string, string>> = {
  "/etc/fstab": "/dev/vda / ext4 errors=remount-ro 0 1\n",
  "/etc/hostname": "guest\n",
  [SERVICE]: `[Unit]
Description=Tells how the boot was
[Service]
ExecStart=/bin/sh /usr/local/sbin/tells
StandardOutput=tty
`,
  "/usr/local/sbin/tells": `state=$(systemctl is-system-running --wait)
failed=$(systemctl list-units --failed --plain --no-legend | cut -d' ' -f1 | tr '\\n' ' ')
seq 1000000 > /var/tmp/data
sync
sum=$(sha256sum < /var/tmp/data | cut -c1-16)
echo "${SYSTEM_MARK} $state, failed: [$failed], root: $(findmnt -no SOURCE,FSTYPE / | tr -s ' '), sum: $sum"
`,
};

/**
 * Makes the disk, with an ext4 file system, where it is not there yet.
 *
 * @returns Path of the raw image. Whoever writes to it copies it first.
 * @throws {FetchError} without root, debootstrap, e2fsprogs or network.
 */
export function fetchSystemDisk(options: RootOptions = {}): Promise<string> {
  return fetchRoot({
    name: "system",
    file: "root.ext4",
    packages: PACKAGES,
    variant: VARIANT,
    pack: async ({ root, target, signal }) => {
      for (const [path, text] of Object.entries(FILES)) await writeFile(join(root, path), text);
      const wants = join(root, "/etc/systemd/system/multi-user.target.wants");
      await mkdir(wants, { recursive: true });
      await symlink(SERVICE, join(wants, "tells.service"));
      await writeFile(target, "");
      await truncate(target, DISK_BYTES);
      try {
        await runTool("mke2fs", ["-q", "-t", "ext4", "-d", root, target], { signal });
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
        throw new FetchError("expected mke2fs on this host: apt-get install e2fsprogs");
      }
    },
  }, options);
}
