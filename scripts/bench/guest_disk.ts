/**
 * What a guest gets of a disk, against QEMU with the same guest and the same image in the same run:
 * sequential requests of 1 MiB, random ones of 4 KiB one at a time and 32 at a time; what 1 to 8 disks give
 * that are read at once; the memory that the process of a disk takes meanwhile; and what reading of compressed
 * images takes.
 *
 * @module
 */

import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { FetchError } from "../guest/mod.ts";
import { type BenchContext, type BenchResult, type Measure, median } from "./bench.ts";
import { DEVICE_MEMORY_LIMIT_MIB, deviceMib, devicePids } from "./device_memory.ts";
import {
  GUEST_MEMORY_MIB,
  type LinuxGuest,
  makeLinuxGuest,
  vmctlArguments,
} from "./linux_guest.ts";
import { findProgram } from "./programs.ts";

const SECONDS = 3;
/** The same for each number of several disks. */
const SEVERAL_SECONDS = 1;
const SEVERAL = 8;
const DISK_BYTES = 256 * 1024 * 1024;
/** Each of several disks. */
const SMALL_DISK_BYTES = 64 * 1024 * 1024;
const COMPRESSIONS = ["zlib", "zstd"] as const;
const TIMEOUT_MS = 300_000;
/** How often the memory of a device is looked at. */
const MEMORY_PERIOD_MS = 200;
/** Throughput is to be at least QEMU's. */
const LIMIT = 1;

const INIT = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
modprobe virtio_pci
modprobe virtio_blk
set -- /dev/vd?
[ $# = 1 ] && seconds=${SECONDS} || seconds=${SEVERAL_SECONDS}
/bin/block_load $seconds "$@"
poweroff -f
`;

const PATTERNS: Readonly<Record<string, string>> = {
  "read-1m": "sequential read of 1 MiB",
  "write-1m": "sequential write of 1 MiB",
  "read-4k-qd1": "random read of 4 KiB, one at a time",
  "write-4k-qd1": "random write of 4 KiB, one at a time",
  "read-4k-qd32": "random read of 4 KiB, 32 at a time",
  "write-4k-qd32": "random write of 4 KiB, 32 at a time",
};

/** Microseconds a request, by pattern. */
type Loads = ReadonlyMap<string, number>;

/** A disk of the guest. */
interface Disk {
  readonly path: string;
  readonly format: "raw" | "qcow2";
  readonly readOnly: boolean;
}

/** Memory of a device at work, in MiB. */
interface DeviceMemory {
  readonly median: number;
  readonly most: number;
}

async function compileLoad(folder: string): Promise<Uint8Array> {
  const output = join(folder, "block_load");
  const source = fileURLToPath(new URL("./block_load.c", import.meta.url));
  const { success, stderr } = await new Deno.Command("gcc", {
    args: ["-O2", "-static", "-o", output, source],
  }).output();
  if (!success) throw new Error(`gcc: ${new TextDecoder().decode(stderr)}`);
  return await Deno.readFile(output);
}

async function loads(
  program: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<Loads> {
  const child = new Deno.Command(program, {
    args: [...args],
    env,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(TIMEOUT_MS),
  }).spawn();
  const { stdout, stderr } = await child.output();
  const decoder = new TextDecoder();
  const text = decoder.decode(stdout);
  if (!text.includes("load done")) {
    const tail = text.slice(-2000) + decoder.decode(stderr).slice(-2000);
    throw new Error(`${program}: the guest did not finish its load\n${tail}`);
  }
  const found = new Map<string, number>();
  for (const [, name, count, ns] of text.matchAll(/load (\S+) (\d+) (\d+)/g)) {
    found.set(name!, Number(ns) / 1000 / Number(count));
  }
  return found;
}

async function qemuLoads(
  qemu: string,
  guest: LinuxGuest,
  disks: readonly Disk[],
): Promise<Loads> {
  return await loads(qemu, [
    ...["-M", "pc,memory-backend=ram", "-accel", "tcg", "-no-reboot", "-nographic", "-nodefaults"],
    ...["-object", `memory-backend-memfd,id=ram,size=${GUEST_MEMORY_MIB}M,share=on`],
    ...["-m", `${GUEST_MEMORY_MIB}`, "-serial", "stdio"],
    ...[
      "-kernel",
      guest.kernel,
      "-initrd",
      guest.initrd,
      "-append",
      "console=ttyS0 quiet no_timer_check",
    ],
    ...disks.flatMap(({ path, format, readOnly }, i) => [
      "-drive",
      `file=${path},format=${format},readonly=${readOnly ? "on" : "off"},if=none,id=disk${i}`,
      ...["-device", `virtio-blk-pci,drive=disk${i}`],
    ]),
  ]);
}

async function vmctlLoads(
  context: BenchContext,
  guest: LinuxGuest,
  { disks, options = [] }: {
    readonly disks: readonly Disk[];
    readonly options?: readonly string[];
  },
): Promise<Loads> {
  const [run, ...args] = vmctlArguments("soft", guest, "quiet");
  return await loads(context.vmctl, [
    ...[run!, ...options],
    ...disks.flatMap(({ path, format, readOnly }) => [
      "--block",
      `${path},format=${format}${readOnly ? ",ro" : ""}`,
    ]),
    ...args,
    // What other runs left would decide how warm the engine is.
  ], { XDG_CACHE_HOME: join(context.folder, "cache") });
}

/** Memory of the process that serves `disk`, while the guest loads it; no times, for looking takes some. */
async function memoryAtWork(
  context: BenchContext,
  guest: LinuxGuest,
  disk: Disk,
): Promise<DeviceMemory> {
  const socket = join(context.folder, "disk.sock");
  const options = ["-s", socket, "--no-rng", "--no-balloon"];
  let ended = false;
  const load = vmctlLoads(context, guest, { disks: [disk], options })
    .finally(() => ended = true);
  const seen: number[] = [];
  let pids: number[] = [];
  while (!ended) {
    await new Promise((resolve) => setTimeout(resolve, MEMORY_PERIOD_MS));
    try {
      if (pids.length === 0) pids = await devicePids(context.vmctl, socket);
      for (const pid of pids) seen.push(await deviceMib(pid));
    } catch {
      // It has not begun to listen, or it has ended.
    }
  }
  await load;
  return { median: median(seen), most: Math.max(...seen) };
}

async function makeDisk(path: string, lengthBytes: number): Promise<void> {
  const bytes = new Uint8Array(1024 * 1024);
  using file = await Deno.open(path, { create: true, write: true });
  for (let at = 0; at < lengthBytes; at += bytes.length) {
    bytes.fill(at >>> 20 & 0xff);
    await file.write(bytes);
  }
}

/** Makes images of what is about half as long when it is compressed. */
async function makeCompressed(folder: string): Promise<(Disk & { readonly kind: string })[]> {
  const raw = join(folder, "plain.img");
  const bytes = new Uint8Array(SMALL_DISK_BYTES);
  // Numbers of which each byte has four random bits.
  for (let at = 0, number = 1; at < bytes.length; at++) {
    number = Math.imul(number, 1_103_515_245) + 12_345 | 0;
    bytes[at] = 0x60 | number >>> 24 & 15;
  }
  await Deno.writeFile(raw, bytes);
  const disks: (Disk & { readonly kind: string })[] = [];
  for (const kind of COMPRESSIONS) {
    const path = join(folder, `${kind}.qcow2`);
    const options = ["-c", "-o", `compression_type=${kind}`];
    const { success, stderr } = await new Deno.Command("qemu-img", {
      args: ["convert", "-f", "raw", "-O", "qcow2", ...options, raw, path],
    }).output();
    if (!success) throw new Error(`qemu-img: ${new TextDecoder().decode(stderr)}`);
    disks.push({ kind, path, format: "qcow2", readOnly: true });
  }
  await Deno.remove(raw);
  return disks;
}

/** What reading of compressed images takes, a line for each. */
async function compressedNotes(
  context: BenchContext,
  guest: LinuxGuest,
  qemu: string,
): Promise<string[]> {
  if (findProgram("qemu-img") === undefined) return ["no qemu-img here for compressed images"];
  const notes: string[] = [];
  for (const disk of await makeCompressed(context.folder)) {
    context.progress(`devices: a disk compressed by ${disk.kind}`);
    const theirs = await qemuLoads(qemu, guest, [disk]);
    const ours = await vmctlLoads(context, guest, { disks: [disk] });
    const rates = Object.entries(PATTERNS).flatMap(([name, what]) => {
      const [us, qemuUs] = [ours.get(name), theirs.get(name)];
      if (us === undefined || qemuUs === undefined) return [];
      return [`${what} ${us.toFixed(0)} us, QEMU ${qemuUs.toFixed(0)} us`];
    });
    const memory = await memoryAtWork(context, guest, disk);
    notes.push(`qcow2 compressed by ${disk.kind}: ${rates.join("; ")}; ${memoryNote(memory)}`);
  }
  return notes;
}

function memoryNote({ median, most }: DeviceMemory): string {
  return `memory for itself of a jailed disk at work: ${median.toFixed(1)} MiB, at most ` +
    `${most.toFixed(1)}; at most ${DEVICE_MEMORY_LIMIT_MIB} are asked for`;
}

/** Requests a second of 1, 2, 4 and 8 disks together, a line for each pattern. */
function scaling(found: Loads, who: string): string[] {
  return Object.entries(PATTERNS).flatMap(([name, what]) => {
    const rates: string[] = [];
    for (let count = 1; count <= SEVERAL; count *= 2) {
      const us = found.get(`${name}-x${count}`);
      if (us !== undefined) rates.push(`${count}: ${Math.round(1e6 / us)}`);
    }
    return rates.length === 0
      ? []
      : [`${who}, ${what}, requests a second by disks at once: ${rates.join(", ")}`];
  });
}

/** A guest's disk against the same in QEMU. */
export async function guestDiskBench(context: BenchContext): Promise<BenchResult> {
  const missing = ["gcc", "qemu-system-x86_64"].filter((name) => findProgram(name) === undefined);
  if (missing.length > 0) return { measures: [], notes: [`no ${missing.join(", ")} here`] };
  let guest: LinuxGuest;
  try {
    guest = await makeLinuxGuest(INIT, {
      folder: context.folder,
      progress: (message) => context.progress(`devices: ${message}`),
      modules: ["virtio_pci", "virtio_blk"],
      entries: [{
        type: "file",
        path: "bin/block_load",
        data: await compileLoad(context.folder),
        mode: 0o755,
      }],
    });
  } catch (error) {
    if (!(error instanceof FetchError)) throw error;
    return { measures: [], notes: [`no kernel to boot: ${error.message}`] };
  }
  const disks = Array.from({ length: SEVERAL }, (_, i): Disk => {
    return { path: join(context.folder, `disk${i}.img`), format: "raw", readOnly: false };
  });
  for (const [i, { path }] of disks.entries()) {
    await makeDisk(path, i === 0 ? DISK_BYTES : SMALL_DISK_BYTES);
  }
  const qemu = findProgram("qemu-system-x86_64")!;
  const ours: Loads[] = [];
  const theirs: Loads[] = [];
  context.progress("devices: vmctl, empty cache of translations");
  const first = await vmctlLoads(context, guest, { disks: disks.slice(0, 1) });
  const runs = context.runs ?? 1;
  for (let turn = 1; turn <= runs; turn++) {
    context.progress(`devices: run ${turn} of ${runs}, QEMU`);
    theirs.push(await qemuLoads(qemu, guest, disks.slice(0, 1)));
    context.progress(`devices: run ${turn} of ${runs}, vmctl`);
    ours.push(await vmctlLoads(context, guest, { disks: disks.slice(0, 1) }));
  }
  context.progress(`devices: ${SEVERAL} disks, QEMU`);
  const theirSeveral = await qemuLoads(qemu, guest, disks);
  context.progress(`devices: ${SEVERAL} disks, vmctl`);
  const several = await vmctlLoads(context, guest, { disks });
  context.progress("devices: memory at work");
  const memory = await memoryAtWork(context, guest, disks[0]!);
  const compressed = await compressedNotes(context, guest, qemu);
  const of = (all: readonly Loads[], name: string) =>
    median(all.map((loads) => loads.get(name) ?? NaN));
  const measures = Object.entries(PATTERNS).map(([name, what]): Measure => ({
    what,
    unit: "us",
    vmctl: of(ours, name),
    reference: { name: "QEMU pc, tcg, virtio-blk-pci", value: of(theirs, name) },
    limit: LIMIT,
  }));
  return {
    measures,
    notes: [
      `Linux ${guest.release}, one vCPU, soft; raw image in the page cache; microseconds a request`,
      `with an empty cache of translations: ${
        Object.entries(PATTERNS).map(([name, what]) =>
          `${what} ${(first.get(name) ?? NaN).toFixed(0)} us`
        ).join(", ")
      }; the others have what that run left`,
      memoryNote(memory),
      ...compressed,
      ...scaling(several, "vmctl"),
      ...scaling(theirSeveral, "QEMU"),
    ],
  };
}
