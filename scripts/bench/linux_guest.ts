/**
 * The Linux guest of benchmarks: Debian's kernel with an initramfs, on vmctl and on machines of QEMU: the
 * microvm, which starts fastest as it has neither firmware nor ACPI nor PCI, and the PC, its default, which
 * has them as vmctl's machine has.
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

/** Machines of QEMU, by the `-M` that they are made with. */
const QEMU_MACHINES = {
  // With ACPI it is slower, and sometimes stays without the timer's first interrupts.
  microvm: "microvm,acpi=off",
  pc: "pc",
} as const;

/** A machine of QEMU. */
export type QemuMachine = keyof typeof QEMU_MACHINES;

/** Arguments of QEMU for one vCPU on its translator; `params` are more for the kernel. */
export function qemuArguments(machine: QemuMachine, guest: LinuxGuest, params = ""): string[] {
  return [
    ...["-M", `${QEMU_MACHINES[machine]},memory-backend=ram`, "-accel", "tcg", "-no-reboot"],
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
