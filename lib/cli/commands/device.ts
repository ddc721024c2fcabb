/**
 * `vmctl device TYPE`: a device in a process of its own.
 *
 * @module
 */

import {
  type BlockOptions,
  ConfigError,
  type ConfigProblem,
  type DecodedOptions,
  type DiskConfig,
  diskConfig,
} from "../../config/mod.ts";
import {
  type DeviceKind,
  deviceKind,
  listenForFrontEnds,
  type ServableDevice,
  serveDevice,
} from "../../devices/mod.ts";
import {
  catchSignals,
  dupFd,
  type Fd,
  fstat,
  kindName,
  openFile,
  OpenFlag,
  Signal,
  validateInheritedFd,
} from "../../host/mod.ts";
import type { CommandInput } from "../command.ts";
import { CommandError } from "../errors.ts";
import type {
  BALLOON_DEVICE_OPTIONS,
  BLOCK_DEVICE_OPTIONS,
  CONSOLE_DEVICE_OPTIONS,
  DEVICE_OPTIONS,
} from "../command_options.ts";

type DeviceOptions = DecodedOptions<typeof DEVICE_OPTIONS>;

/** Serves a disk. */
export async function serveBlock(
  { options }: CommandInput<typeof BLOCK_DEVICE_OPTIONS>,
): Promise<number> {
  return serve(await deviceKind("block"), options, diskOf(options.path));
}

/** @throws {ConfigError} with all that is wrong. */
function diskOf(options: BlockOptions | undefined): DiskConfig | undefined {
  if (options === undefined) return undefined;
  const problems: ConfigProblem[] = [];
  const disk = diskConfig(options, (key, message) => {
    problems.push({ key: `--path ${key}`, message });
  });
  for (const key of ["pci-address", "bootindex"] as const) {
    if (options[key] === undefined) continue;
    problems.push({ key: `--path ${key}`, message: "it is the VM's, of whoever uses this device" });
  }
  if (problems.length > 0) throw new ConfigError(problems);
  return disk;
}

/** Serves random bytes. */
export async function serveRng({ options }: CommandInput<typeof DEVICE_OPTIONS>): Promise<number> {
  return serve(await deviceKind("rng"), options, options.settings === undefined ? null : undefined);
}

/** Serves a balloon. */
export async function serveBalloon(
  { options }: CommandInput<typeof BALLOON_DEVICE_OPTIONS>,
): Promise<number> {
  const { "deflate-on-oom": deflateOnOom, "page-reporting": pageReporting } = options;
  const own = {
    ...(deflateOnOom === undefined ? {} : { deflateOnOom }),
    ...(pageReporting === undefined ? {} : { pageReporting }),
  };
  const given = Object.keys(own).length > 0 || options.settings === undefined;
  return serve(await deviceKind("balloon"), options, given ? own : undefined);
}

/** Serves a console. */
export async function serveConsole(
  { options }: CommandInput<typeof CONSOLE_DEVICE_OPTIONS>,
): Promise<number> {
  const { port: given, settings } = options;
  const ports = given?.map(({ output, input }) => ({
    output: output === undefined
      ? undefined
      : openFile(output, OpenFlag.WriteOnly | OpenFlag.Create | OpenFlag.Append, 0o666),
    input: input === undefined ? undefined : openFile(input, OpenFlag.ReadOnly | OpenFlag.NonBlock),
  })) ?? (settings === undefined ? [{ output: dupFd(1), input: dupFd(0) }] : undefined);
  return serve(await deviceKind("console"), options, ports === undefined ? undefined : { ports });
}

/** @param own the kind's own options, where they were given */
function serve<Own>(kind: DeviceKind<Own>, options: DeviceOptions, own: Own | undefined): number {
  const { fd, "socket-path": path, "control-fd": controlFd } = options;
  if ((fd === undefined) === (path === undefined)) {
    throw new CommandError("expected one of --socket-path and --fd");
  }
  using device = makeDevice(kind, options, own);
  const control = controlFd === undefined ? undefined : inheritedSocket("--control-fd", controlFd);
  // Never closed: the handlers stay until the process ends.
  const stop = catchSignals([Signal.Interrupt, Signal.Terminate, Signal.Hangup]);
  if (fd !== undefined) {
    serveDevice(device, { frontEnds: { socket: inheritedSocket("--fd", fd) }, control, stop });
  } else if (path !== undefined) {
    using listening = listenForFrontEnds(path);
    serveDevice(device, { frontEnds: listening, control, stop });
  }
  return 0;
}

function inheritedSocket(option: string, raw: number): Fd {
  const fd = validateInheritedFd(raw);
  const { kind } = fstat(fd);
  if (kind === "socket") return fd;
  fd.close();
  throw new CommandError(`${option} ${raw}: expected a connected socket, got a ${kindName(kind)}`);
}

function makeDevice<Own>(
  kind: DeviceKind<Own>,
  options: DeviceOptions,
  own: Own | undefined,
): ServableDevice {
  const { settings, "resource-fd": numbers = [] } = options;
  if (settings === undefined) {
    if (own === undefined) {
      throw new CommandError(
        `expected ${kind.name === "block" ? "--path IMAGE" : "the device's options"}, got none`,
      );
    }
    using opened = kind.open(own);
    return kind.make(opened.settings, opened.fds);
  }
  if (own !== undefined) {
    throw new CommandError("expected --settings or the device's own options, got both");
  }
  return kind.make(parseSettings(settings), numbers.map((number) => validateInheritedFd(number)));
}

function parseSettings(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new CommandError("--settings: expected JSON", { cause });
  }
}
