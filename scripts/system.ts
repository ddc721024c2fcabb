/**
 * `deno task system`: a whole Debian boots from a disk on the software engine, with systemd and udev; says how
 * that was, writes to its disk, shuts down when its power button is pressed, and leaves a file system without
 * faults. Takes a minute or two, so it is no part of `deno task test`.
 *
 * @module
 */

import { copyFile, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { build, DEFAULT_OUTPUT, isStale } from "./build/build.ts";
import {
  buildInitramfs,
  fetchGuest,
  fetchSystemDisk,
  type Guest,
  moduleEntries,
  SYSTEM_MARK,
} from "./guest/mod.ts";
import { positive, runTask, vcpuCount } from "./task/run_task.ts";
import { runVm } from "./userland/guest_run.ts";

const USAGE = `usage: deno task system [--cpus N] [--runs N]

  --cpus N      vCPUs of the guest (default: 2)
  --runs N      how often to boot the same disk (default: 2)

Needs root, debootstrap and e2fsprogs. Runs dist/vmctl, built where it is stale, or what VMCTL_BIN
names.
`;
const MEMORY_MIB = 1024;
const TIMEOUT_MS = 1_200_000;
/** What the disk's root and the power button need; what udev would load is not on the disk. */
const MODULES = ["virtio_pci", "virtio_blk", "button", "evdev", "autofs4"];
/** The service's line, where all is well: the sum is that of what it wrote. */
const WELL = `${SYSTEM_MARK} running, failed: [], root: /dev/vda ext4, sum: `;

const INIT = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in ${MODULES.join(" ")}; do modprobe $module; done
mount /dev/vda /mnt
exec switch_root /mnt /sbin/init
`;

async function writeInitrd(path: string, guest: Guest): Promise<void> {
  const entries = [
    { type: "directory", path: "mnt" },
    { type: "file", path: "init", data: INIT, mode: 0o755 },
    ...await moduleEntries(guest, MODULES),
  ] as const;
  await Deno.writeFile(
    path,
    await buildInitramfs({ busybox: guest.busybox, script: ":", entries }),
  );
}

/** Runs a command whose output is only wanted where it fails. */
async function succeeds(command: string, args: readonly string[]): Promise<boolean> {
  const output = await new Deno.Command(command, { args: [...args], stdin: "null" }).output();
  if (output.success) return true;
  const decoder = new TextDecoder();
  console.log(`${command} ${args.join(" ")}: status ${output.code}`);
  console.log(decoder.decode(output.stdout) + decoder.decode(output.stderr));
  return false;
}

/** What the service writes, as the guest counts its sum. */
async function sumOfData(): Promise<string> {
  const data = Array.from({ length: 1_000_000 }, (_, i) => `${i + 1}\n`).join("");
  const sum = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(data));
  return new Uint8Array(sum).toHex().slice(0, 16);
}

interface Settings {
  readonly cpus: number;
  readonly runs: number;
}

function parseCommandLine(): Settings | "help" {
  const { values } = parseArgs({
    options: {
      cpus: { type: "string", default: "2" },
      runs: { type: "string", default: "2" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return "help";
  return { cpus: vcpuCount(values.cpus), runs: positive("runs", values.runs) };
}

async function system({ cpus, runs }: Settings): Promise<number> {
  const progress = (message: string) => console.error(`system: ${message}`);
  const given = Deno.env.get("VMCTL_BIN");
  if (!given && await isStale()) await build({ output: DEFAULT_OUTPUT, compile: false });
  const vmctl = given || DEFAULT_OUTPUT;
  const guest = await fetchGuest({ progress });
  const image = await fetchSystemDisk({ progress });
  const well = WELL + await sumOfData();
  const folder = await mkdtemp(join(tmpdir(), "vmctl-system-"));
  let failed = 0;
  try {
    const [initrd, disk, socket] = ["initrd", "disk", "socket"].map((name) =>
      join(folder, name)
    ) as [string, string, string];
    await writeInitrd(initrd, guest);
    await copyFile(image, disk);
    for (let run = 1; run <= runs; run++) {
      const lines: string[] = [];
      let pressed: Promise<boolean> | undefined;
      let seconds = 0;
      const started = performance.now();
      const end = await runVm({
        ...{ vmctl, initrd, kernel: guest.kernel, timeoutMs: TIMEOUT_MS },
        ...{ cpus, memoryMib: MEMORY_MIB },
        options: ["--socket", socket, "--block", `path=${disk}`],
        onLine: (line) => {
          lines.push(line);
          if (!line.includes(SYSTEM_MARK)) return;
          seconds = (performance.now() - started) / 1000;
          pressed ??= succeeds(vmctl, ["powerbtn", socket]);
        },
      });
      const clean = await succeeds("e2fsck", ["-f", "-n", disk]);
      const passed = lines.some((line) => line.endsWith(well)) && await pressed === true &&
        end.code === 0 && clean;
      console.log(
        `${passed ? "ok    " : "FAILED"} run ${run}: up after ${seconds.toFixed(1)} s, ` +
          `down after ${end.seconds.toFixed(1)} s`,
      );
      if (passed) continue;
      failed++;
      console.log(`expected "${well}", status 0; got status ${end.code} and`);
      console.log([...lines, end.stderr].join("\n"));
    }
    return failed === 0 ? 0 : 1;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  Deno.exit(await runTask({ name: "system", usage: USAGE, parse: parseCommandLine, run: system }));
}
