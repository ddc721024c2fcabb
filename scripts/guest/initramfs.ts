/**
 * Builds the initial RAM file system of test and demonstration guests: busybox and an `/init`.
 *
 * @module
 */

import { readFile } from "node:fs/promises";
import { type CpioEntry, packCpio } from "./cpio.ts";

/** The terminal that the guest's shell will talk to. */
export interface GuestTerminal {
  /** Value of `TERM`; `linux` where absent. */
  readonly term?: string | undefined;
  /** Height in character cells. */
  readonly rows?: number | undefined;
  /** Width in character cells. */
  readonly columns?: number | undefined;
}

/** What {@link buildInitramfs} puts together. */
export interface InitramfsOptions {
  /** Path of a statically linked busybox for x86-64. */
  readonly busybox: string;
  /** Shell commands to run; the guest powers off afterwards. */
  readonly script?: string | undefined;
  /** Instead of a script, a shell on the console; the guest powers off when it exits. */
  readonly interactive?: boolean | GuestTerminal | undefined;
  /** More members, unpacked after everything else. */
  readonly entries?: readonly CpioEntry[] | undefined;
}

/**
 * Builds an uncompressed initramfs whose `/init` mounts /proc, /sys and /dev and then runs the script
 * or the shell.
 * @throws {TypeError} when not exactly one of `script` and `interactive` is given.
 */
export async function buildInitramfs(options: InitramfsOptions): Promise<Uint8Array<ArrayBuffer>> {
  const { script, interactive } = options;
  if ((script === undefined) === (interactive === undefined || interactive === false)) {
    throw new TypeError("expected either a script or interactive, and not both");
  }
  const entries: CpioEntry[] = ["bin", "dev", "etc", "proc", "root", "sbin", "sys", "tmp", "usr"]
    .map((path) => ({ type: "directory", path }));
  entries.push(
    { type: "directory", path: "usr/bin" },
    { type: "directory", path: "usr/sbin" },
    // The kernel opens /dev/console for init before anything is mounted.
    { type: "character-device", path: "dev/console", major: 5, minor: 1 },
    { type: "character-device", path: "dev/null", major: 1, minor: 3, mode: 0o666 },
    { type: "file", path: "etc/passwd", data: "root::0:0:root:/root:/bin/sh\n" },
    { type: "file", path: "etc/group", data: "root:x:0:\n" },
    { type: "file", path: "bin/busybox", data: await readFile(options.busybox), mode: 0o755 },
  );
  for (const path of await listApplets(options.busybox)) {
    entries.push({ type: "symlink", path, target: "/bin/busybox" });
  }
  if (script !== undefined) {
    entries.push({ type: "file", path: "etc/script", data: script.trimEnd() + "\n", mode: 0o755 });
    entries.push({ type: "file", path: "init", data: INIT_HEAD + RUN_SCRIPT, mode: 0o755 });
  } else {
    const terminal = typeof interactive === "object" ? interactive : {};
    entries.push({ type: "file", path: "etc/profile", data: PROFILE });
    const data = INIT_HEAD + runShell(terminal);
    entries.push({ type: "file", path: "init", data, mode: 0o755 });
  }
  return packCpio([...entries, ...options.entries ?? []]);
}

/** Where busybox wants its applets, as relative paths ("usr/bin/env"). */
async function listApplets(busybox: string): Promise<string[]> {
  const command = new Deno.Command(busybox, {
    args: ["--list-full"],
    stdin: "null",
    stdout: "piped",
    stderr: "null",
  });
  const { success, stdout } = await command.output();
  if (!success) throw new Error(`${busybox} --list-full: expected a list of applets, it failed`);
  return new TextDecoder().decode(stdout).split("\n").filter((path) =>
    /^(usr\/)?s?bin\/[^/]+$/.test(path) && path !== "bin/busybox"
  );
}

const INIT_HEAD = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
`;

const RUN_SCRIPT = `sh /etc/script
poweroff -f
`;

const PROFILE = `PS1='\\w \\$ '
cd
`;

/** `setsid cttyhack` gives the shell a controlling terminal, which job control needs. */
function runShell({ term, rows, columns }: GuestTerminal): string {
  const size = rows && columns ? `stty rows ${Math.trunc(rows)} cols ${Math.trunc(columns)}\n` : "";
  const name = term && /^[\w.+-]+$/.test(term) ? term : "linux";
  return `export TERM=${name}
hostname guest
${size}echo "$(uname -sr) on $(nproc) CPU(s). Leave the shell to power the machine off."
setsid cttyhack sh -l
poweroff -f
`;
}
