/**
 * A stock Linux guest in QEMU (TCG) with disks that vhost-user back ends serve.
 *
 * @module
 */

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  buildInitramfs,
  type CpioEntry,
  type Guest,
  tryFetchGuest,
} from "../../scripts/guest/mod.ts";
import { hasProgram } from "../../lib/virtio/testing/programs.ts";

const TIMEOUT_MS = 600_000;
/** Where its time is late, as on a busy host, a kernel that checks its timer panics. */
const CMDLINE = "console=ttyS0 panic=-1 quiet no_timer_check";
const MODULES = [
  "virtio/virtio_ring",
  "virtio/virtio",
  "virtio/virtio_pci_legacy_dev",
  "virtio/virtio_pci_modern_dev",
  "virtio/virtio_pci",
  "block/virtio_blk",
];

function loadModules(modules: readonly string[]): string {
  return `
for module in ${modules.map(moduleName).join(" ")}; do
  insmod /lib/$module.ko || echo "insmod $module failed"
done
`;
}

/** The guest, or why there is none. */
export const QEMU_GUEST: Guest | string = await findGuest();

/** Ends the name of a test that needs the guest. */
export const WITHOUT_QEMU_GUEST: string = typeof QEMU_GUEST === "string"
  ? ` (skipped: ${QEMU_GUEST})`
  : "";

async function findGuest(): Promise<Guest | string> {
  if (!hasProgram("qemu-system-x86_64")) return "no qemu-system-x86_64";
  return await tryFetchGuest();
}

/** A run of the guest. */
export interface QemuGuestOptions {
  /** For temporary files. */
  readonly folder: string;
  /** What the guest runs once `virtio_blk` is loaded; then it powers off. */
  readonly script: string;
  /** Sockets of the back ends of `/dev/vda` and further on. */
  readonly sockets: readonly string[];
  /** Properties added to each of their chardevs, such as `,reconnect=1`. */
  readonly chardev?: string;
  /** Properties added to each device, such as `,num-queues=4`. */
  readonly device?: string;
  /** Further arguments of QEMU. */
  readonly args?: readonly string[];
  /** Drivers to load beside those of disks, such as `char/virtio_console`. */
  readonly modules?: readonly string[];
  /** Files of the guest. */
  readonly entries?: readonly CpioEntry[];
  /** Called once for each of these words that the guest says. */
  readonly on?: Readonly<Record<string, (qemu: Deno.ChildProcess) => Promise<void> | void>>;
}

/** What the guest and QEMU said. */
export interface QemuGuestResult {
  readonly console: string;
  readonly complaints: string;
}

/** Runs the guest until it powers off. */
export async function runQemuGuest(
  guest: Guest,
  options: QemuGuestOptions,
): Promise<QemuGuestResult> {
  const { folder, script, sockets, chardev = "", device = "", on = {} } = options;
  const initrd = join(folder, "initrd");
  const modules = [...MODULES, ...options.modules ?? []];
  const entries = [...await moduleEntries(guest.modules, modules), ...options.entries ?? []];
  await Deno.writeFile(
    initrd,
    await buildInitramfs({
      busybox: guest.busybox,
      script: loadModules(modules) + script,
      entries,
    }),
  );
  const qemu = new Deno.Command("qemu-system-x86_64", {
    args: [
      ...["-M", "pc,memory-backend=ram", "-accel", "tcg", "-smp", "2", "-m", "256"],
      ...["-object", "memory-backend-memfd,id=ram,size=256M,share=on"],
      ...["-kernel", guest.kernel, "-initrd", initrd, "-append", CMDLINE],
      ...["-nographic", "-nodefaults", "-serial", "stdio", "-no-reboot"],
      ...sockets.flatMap((socket, index) => [
        ...["-chardev", `socket,id=blk${index},path=${socket}${chardev}`],
        ...["-device", `vhost-user-blk-pci,chardev=blk${index}${device}`],
      ]),
      ...options.args ?? [],
    ],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(TIMEOUT_MS),
  }).spawn();
  const complaints = new Response(qemu.stderr).text();
  const waiting = new Map(Object.entries(on));
  const started: (Promise<void> | void)[] = [];
  let console = "";
  for await (const text of qemu.stdout.pipeThrough(new TextDecoderStream())) {
    console += text;
    for (const [word, action] of waiting) {
      if (!console.includes(word)) continue;
      waiting.delete(word);
      started.push(action(qemu));
    }
  }
  await Promise.all(started);
  await qemu.status;
  return { console, complaints: await complaints };
}

function moduleName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

async function moduleEntries(folder: string, modules: readonly string[]): Promise<CpioEntry[]> {
  const files = modules.map(async (path): Promise<CpioEntry> => ({
    type: "file",
    path: `lib/${moduleName(path)}.ko`,
    data: await readFile(join(folder, "kernel/drivers", `${path}.ko`)),
  }));
  return [{ type: "directory", path: "lib" }, ...await Promise.all(files)];
}

/** The MD5 sum of `bytes`, as busybox prints it. */
export function md5(bytes: Uint8Array): string {
  return createHash("md5").update(bytes).digest("hex");
}
