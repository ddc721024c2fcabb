/**
 * The virtio devices that a configuration asks this VMM for.
 *
 * @module
 */

import { describeError, Logger } from "../../base/mod.ts";
import type { BalloonConfig, VmConfig } from "../../config/mod.ts";
import { deviceKind, type RequestOf, type ServedDisk } from "../../devices/mod.ts";
import type { FileClaims } from "../../disk/mod.ts";
import { isatty, type Reactor, windowSize } from "../../host/mod.ts";
import { DeviceType } from "../../virtio/mod.ts";
import { BalloonKeeper } from "../balloon/keeper.ts";
import { openLowMemorySource } from "../balloon/sources.ts";
import { type ConsolePorts, type ConsoleTerminal, openConsolePorts } from "../console_ports.ts";
import { MachineError } from "../errors.ts";
import type { DeviceLauncher } from "../launch/device_launcher.ts";
import { diskNames } from "../root_disk.ts";
import { OwnDevice } from "./own_device.ts";

const STDOUT = 1;
const log = new Logger("virtio");

/** Settings of {@link OwnDevices}. */
export interface OwnDevicesOptions {
  readonly launcher: DeviceLauncher;
  readonly reactor: Reactor;
  /** The output of a port of the console cannot be written any more, for the reason of this errno. */
  readonly onOutputFailed: (label: string, errno: number) => void;
}

/** The devices, before and while they run. */
export class OwnDevices implements Disposable {
  /** Disks, in their order. */
  readonly disks: readonly OwnDevice[];
  /** Console, random bytes, balloon, as far as they are there. */
  readonly others: readonly OwnDevice[];
  /** Keeps the balloon, where there is one. */
  readonly balloon: BalloonKeeper | undefined;
  /** A terminal that the console reads. */
  readonly terminal: ConsoleTerminal | undefined;
  readonly #console: OwnDevice | undefined;
  readonly #resources: DisposableStack;

  /** @throws {VmctlError} where something cannot be opened. */
  constructor(config: VmConfig, options: OwnDevicesOptions) {
    const { launcher, reactor } = options;
    using stack = new DisposableStack();
    const device = (
      about: Omit<ConstructorParameters<typeof OwnDevice>[0], "launcher" | "reactor">,
    ) => stack.use(new OwnDevice({ ...about, launcher, reactor }));
    const names = diskNames(config);
    const statesRoot = config.boot.kind === "kernel" &&
      config.boot.params.some((param) => /(^|\s)root=/.test(param));
    let files: Promise<FileClaims> | undefined;
    this.disks = config.disks.map((disk, index) =>
      device({
        name: `block device ${names[index]}`,
        pciDevice: disk.pciDevice,
        deviceType: DeviceType.Block,
        kind: "block",
        open: async () =>
          openDisk({
            ...disk,
            rootName: disk.root && !statesRoot ? names[index] : undefined,
            claims: {
              files: await (files ??= makeClaims()),
              disk: { option: `--block ${disk.path}`, name: names[index]! },
            },
          }),
      })
    );
    let ports: ConsolePorts | undefined;
    if (config.consoles.length > 0) {
      // The device takes the descriptors over when it is opened.
      ports = stack.use(openConsolePorts(config.consoles, { ...options, originMs: Date.now() }));
      const opened = ports;
      this.#console = device({
        name: "console",
        deviceType: DeviceType.Console,
        kind: "console",
        open: async () =>
          (await deviceKind("console")).open({ ports: opened.ports, size: terminalSize() }),
      });
    }
    this.terminal = ports?.terminal;
    const rng = config.rng
      ? device({
        name: "rng",
        deviceType: DeviceType.Entropy,
        kind: "rng",
        isLate: true,
        open: async () => (await deviceKind("rng")).open(null),
      })
      : undefined;
    let balloon: OwnDevice | undefined;
    if (config.balloon !== undefined) {
      const { pageReporting } = config.balloon;
      balloon = device({
        name: "balloon",
        deviceType: DeviceType.Balloon,
        kind: "balloon",
        isLate: true,
        open: async () => (await deviceKind("balloon")).open({ pageReporting }),
      });
      this.balloon = stack.use(
        makeKeeper(balloon, { balloon: config.balloon, memoryMib: config.memoryMib, reactor }),
      );
    }
    this.others = [this.#console, rng, balloon].filter((one) => one !== undefined);
    this.#resources = stack.move();
  }

  /**
   * Does what is to be done before the guest runs: opens all that they need, and makes the jail of one,
   * which shows whether the host allows jails. The others would take their time.
   *
   * @param signal gives it up: the VM ends
   * @throws {VmctlError} where something cannot be opened, or no jail can be made.
   */
  async prepare(signal: AbortSignal): Promise<void> {
    const devices = [...this.disks, ...this.others];
    for (const device of devices) await device.open();
    await devices[0]?.prepare(signal);
  }

  /**
   * Gives disk `index` another size, a smaller one only with `shrink`.
   *
   * @throws {MachineError} where there is no such disk
   * @throws {DeviceControlError} where the device refuses.
   */
  async resizeDisk(index: number, request: RequestOf<"resize">): Promise<void> {
    const disk = this.disks[index];
    if (disk === undefined) {
      const { length } = this.disks;
      throw new MachineError(
        `disk ${index}: expected the number of a disk, from 0 on, of the ${length} that the VM has`,
      );
    }
    await disk.request("resize", request);
  }

  /** The process that serves the device called `name`, where it is one of these and in a process. */
  pidOf(name: string): number | undefined {
    return [...this.disks, ...this.others].find((device) => device.name === name)?.pid;
  }

  /** The terminal's window has another size. */
  windowChanged(): void {
    const size = terminalSize();
    const { terminal } = this;
    if (size === undefined || terminal === undefined) return;
    this.#console?.request("windowSize", { port: terminal.port, ...size })
      .catch((error) => log.debug(describeError(error)));
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}

/** Of a module that a VM without disks does not read. */
async function makeClaims(): Promise<FileClaims> {
  const { FileClaims } = await import("../../disk/mod.ts");
  return new FileClaims();
}

async function openDisk(disk: ServedDisk) {
  return (await deviceKind("block")).open(disk);
}

function makeKeeper(
  device: OwnDevice,
  options: {
    readonly balloon: BalloonConfig;
    readonly memoryMib: number;
    readonly reactor: Reactor;
  },
): BalloonKeeper {
  const { balloon: { policy, cgroup }, memoryMib, reactor } = options;
  const keeper = new BalloonKeeper({
    client: device,
    memoryBytes: memoryMib * 2 ** 20,
    source: policy === "off" ? undefined : openLowMemorySource({ reactor, choice: policy, cgroup }),
  });
  device.onLaunch(() => keeper.repeat());
  return keeper;
}

function terminalSize(): { columns: number; rows: number } | undefined {
  if (!isatty(STDOUT)) return undefined;
  const size = windowSize(STDOUT);
  return size === undefined || size.columns === 0
    ? undefined
    : { columns: size.columns, rows: size.rows };
}
