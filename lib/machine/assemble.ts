/**
 * Puts a VM together: memory, engine, devices, and the guest in its place.
 *
 * @module
 */

import { join } from "node:path";
import { describeFileError, getLogLevels, Logger, MIB, userCacheFolder } from "../base/mod.ts";
import {
  type BootEntry,
  type BootImage,
  buildCmdline,
  COM1_PORT,
  COM2_PORT,
  loadKernel,
} from "../boot/mod.ts";
import type { BootSource, FileSource, SoftConfig, VmConfig } from "../config/mod.ts";
import { Platform } from "../devices/mod.ts";
import { isatty, validateInheritedFd } from "../host/mod.ts";
import { memoryBackingFor, selectHypervisor, type SoftOptions } from "../hypervisor/mod.ts";
import { GuestMemory } from "../memory/mod.ts";
import { MachineError } from "./errors.ts";
import { rootParams } from "./root_disk.ts";
import type { MachineParts } from "./machine.ts";
import { SerialOutput } from "./serial_output.ts";
import { openSerialPorts, type SerialPort } from "./serial_ports.ts";
import type { VcpuTeam } from "./vcpu_team.ts";

const log = new Logger("machine");

const STDIN = 0;
const STDERR = 2;

/** A VM whose vCPU workers attach to it. */
export interface Assembly extends Omit<MachineParts, "virtio" | "own"> {
  /** The guest's TSC in kHz, where the engine knows it. */
  readonly tscKhz: number | undefined;
  /** Connections of the serial ports, COM1 first. */
  readonly serialPorts: readonly SerialPort[];
}

/**
 * Puts the VM of `config` together, but for its guest.
 *
 * @param options.team the vCPU workers, which attach to it
 * @param options.resources where everything goes that is to be released when no vCPU runs any more
 * @throws {VmctlError} when something of it is not possible.
 */
export function assemble(
  config: VmConfig,
  options: { readonly team: VcpuTeam; readonly resources: DisposableStack },
): Assembly {
  const { team, resources } = options;
  const hypervisor = resources.use(selectHypervisor(config.hypervisor, softOptions(config.soft)));
  const memory = resources.use(GuestMemory.create({
    sizeBytes: config.memoryMib * MIB,
    backing: memoryBackingFor(hypervisor.kind),
  }));
  const vm = resources.use(hypervisor.createVm(memory, { vcpuCount: config.cpuCount }));
  const serial = resources.use(
    openSerialPorts(config.serial, { wakeFd: team.wakeFd, originMs: Date.now() }),
  );
  const platform = Platform.create({
    lowMemoryBytes: memory.lowBytes,
    highMemoryBytes: memory.highBytes,
    irq: (gsi, level) => vm.setIrqLine(gsi, level),
  });
  const debugPort = SerialOutput.create({
    kind: "log",
    label: "debug port",
    fd: -1,
    wakeFd: team.wakeFd,
    timestampOriginMs: undefined,
  });
  team.attach(vm, {
    memory: memory.handle(),
    vm: vm.handle(),
    platform: platform.handle(),
    outputs: serial.ports.map(({ output }) => output?.handle()),
    debug: debugPort.handle(),
    logLevels: getLogLevels(),
    rawTerminal: isatty(STDIN) && isatty(STDERR) &&
      [...config.serial, ...config.consoles].some(({ input }) => input?.type === "stdin"),
  });
  return {
    tscKhz: hypervisor.capabilities.tscKhz,
    engine: hypervisor.kind,
    memory,
    vm,
    platform,
    team,
    serialPorts: serial.ports,
  };
}

function softOptions({ cache, cacheFolder, cacheMib, codeMib }: SoftConfig): SoftOptions {
  const parent = cacheFolder ?? userCacheFolder();
  const folder = cache && parent !== undefined ? join(parent, "translations") : undefined;
  if (folder !== undefined && cacheFolder !== undefined) warnOfUnusable(folder);
  return {
    translations: {
      cacheFolder: folder,
      cacheLimitBytes: cacheMib * MIB,
      codeLimitBytes: codeMib * MIB,
    },
  };
}

/** A cache that was asked for by name is missed, which one in its usual place is not. */
function warnOfUnusable(folder: string): void {
  try {
    Deno.mkdirSync(folder, { recursive: true, mode: 0o700 });
    // Named as those that the cache clears away, should this process be killed in between.
    Deno.removeSync(Deno.makeTempFileSync({ dir: folder, prefix: ".unfinished-" }));
  } catch (error) {
    log.warn(
      `--soft cache-dir: translated code is not kept in ${folder}: ${describeFileError(error)}`,
    );
  }
}

/**
 * Puts the guest of `config` into the memory of the VM, which must not be released before this is done, one
 * way or the other.
 *
 * @returns how the boot processor begins
 * @throws {VmctlError} when it cannot be booted.
 */
export async function loadGuest(
  config: VmConfig,
  { memory, tscKhz }: Pick<Assembly, "memory" | "tscKhz">,
): Promise<BootEntry> {
  const { boot } = config;
  if (boot.kind === "firmware") {
    throw new MachineError("--bios: expected a kernel instead, firmware is not booted yet");
  }
  using stack = new DisposableStack();
  const { entry } = await loadKernel(memory, {
    kernel: openImage(boot.kernel, stack),
    initrd: boot.initrd === undefined ? undefined : openImage(boot.initrd, stack),
    cmdline: cmdlineOf(boot, config, tscKhz),
    cpuCount: config.cpuCount,
    ecam: true,
  });
  return entry;
}

function openImage(source: FileSource, stack: DisposableStack): BootImage {
  if (source.kind === "path") return source.path;
  return `/proc/self/fd/${stack.use(validateInheritedFd(source.fd)).raw}`;
}

function cmdlineOf(
  boot: Extract<BootSource, { kind: "kernel" }>,
  config: VmConfig,
  tscKhz: number | undefined,
): string {
  const { serial, consoles } = config;
  const consoleNames = [
    ...serial.filter((port) => port.console).map(({ num }) => `ttyS${num - 1}`),
    ...consoles.filter((port) => port.console).map(({ num }) => `hvc${num - 1}`),
  ];
  const early = serial.find((port) => port.earlycon);
  const earlyParams = early === undefined
    ? []
    : [`earlycon=uart8250,io,0x${(early.num === 1 ? COM1_PORT : COM2_PORT).toString(16)}`];
  // Where the engine knows its TSC, the kernel need not measure it against another timer, nor watch over it
  // by ACPI's, which it tries for 5 ms first. Nor is it to count a timer's interrupts, as it does not on KVM:
  // where the host is busy they come late, and it would panic.
  const clockParams = tscKhz === undefined
    ? []
    : [`tsc_early_khz=${tscKhz}`, "pmtmr=0", "no_timer_check"];
  return buildCmdline([...earlyParams, ...clockParams, ...rootParams(config), ...boot.params], {
    console: consoleNames[0],
  });
}
