/**
 * The Linux guest of benchmarks: Debian's kernel with an initramfs, on vmctl and on QEMU's microvm.
 *
 * @module
 */

import { join } from "node:path";
import {
  buildInitramfs,
  type CpioEntry,
  fetchGuest,
  moduleEntries,
  writeVmlinux,
} from "../guest/mod.ts";

/** RAM of the guest in MiB. */
export const GUEST_MEMORY_MIB = 512;

const CMDLINE = "console=ttyS0 no_timer_check panic=-1 reboot=t";

/** Files of a guest. */
export interface LinuxGuest {
  /** Version of the kernel. */
  readonly release: string;
  readonly kernel: string;
  /** The same kernel as ELF file, which spares QEMU the unpacking in the guest. */
  readonly vmlinux: string;
  readonly initrd: string;
}

/**
 * Makes the files in `folder`.
 *
 * @param init Text of `/init`, a script for busybox' shell.
 * @throws {FetchError} when the kernel cannot be had.
 */
export async function makeLinuxGuest(
  init: string,
  options: {
    readonly folder: string;
    readonly progress: (message: string) => void;
    /** Modules that it can load. */
    readonly modules?: readonly string[];
    /** More files of its own. */
    readonly entries?: readonly CpioEntry[];
  },
): Promise<LinuxGuest> {
  const guest = await fetchGuest({ progress: options.progress });
  const initrd = join(options.folder, "initrd");
  await Deno.writeFile(
    initrd,
    await buildInitramfs({
      busybox: guest.busybox,
      script: ":",
      entries: [
        { type: "file", path: "init", data: init, mode: 0o755 },
        ...options.modules === undefined ? [] : await moduleEntries(guest, options.modules),
        ...options.entries ?? [],
      ],
    }),
  );
  const vmlinux = join(options.folder, "vmlinux");
  await writeVmlinux(guest.kernel, vmlinux);
  return { release: guest.release, kernel: guest.kernel, vmlinux, initrd };
}

/** Arguments of vmctl for one vCPU; `params` are more for the kernel. */
export function vmctlArguments(engine: string, guest: LinuxGuest, params = ""): string[] {
  return [
    ...["run", "--hypervisor", engine, "--mem", `${GUEST_MEMORY_MIB}`, "--initrd", guest.initrd],
    ...["--params", `${CMDLINE} ${params}`.trimEnd(), guest.kernel],
  ];
}

/** Arguments of QEMU for one vCPU; `params` are more for the kernel. */
export function qemuArguments(accelerator: string, guest: LinuxGuest, params = ""): string[] {
  return [
    // With ACPI it is slower, and sometimes stays without the timer's first interrupts.
    ...["-M", "microvm,acpi=off,memory-backend=ram", "-accel", accelerator, "-no-reboot"],
    // Guest memory as vmctl has it, and so that it can be told from QEMU's own.
    ...["-object", `memory-backend-memfd,id=ram,size=${GUEST_MEMORY_MIB}M,share=on`],
    ...["-m", `${GUEST_MEMORY_MIB}`, "-nodefaults", "-no-user-config", "-display", "none"],
    ...["-serial", "stdio", "-kernel", guest.vmlinux, "-initrd", guest.initrd],
    ...["-append", `${CMDLINE} ${params}`.trimEnd()],
  ];
}

/** Whether a mapping of either program is the guest's memory. */
export function isGuestMemory(name: string, lengthBytes: number): boolean {
  return name.startsWith("/memfd:") && lengthBytes > (GUEST_MEMORY_MIB << 20) / 4;
}
