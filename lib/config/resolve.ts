/**
 * From merged options to a complete configuration: defaults, and the checks that concern more than one
 * value.
 *
 * @module
 */

import { describeFileError } from "../base/mod.ts";
import { type ConfigLayer, displayPath } from "./config_file.ts";
import { inheritedFd } from "./decode.ts";
import { type BlockOptions, diskConfig } from "./disk_config.ts";
import { mergeOptions } from "./merge.ts";
import type { DecodedRecord } from "./option_types.ts";
import { DEFAULT_PIVOT_ROOT, RUN_OPTIONS, type RunOptions, type SERIAL } from "./options.ts";
import type { ConfigProblem } from "./problem.ts";
import type {
  BalloonConfig,
  BootSource,
  ConsoleConfig,
  DiskConfig,
  FileSource,
  LogLevelName,
  SerialConfig,
  SerialInput,
  SerialOutput,
  SocketConfig,
  VhostUserConfig,
  VmConfig,
} from "./vm_config.ts";

const DEFAULT_MEMORY_MIB = 256;
/** Room for a few kernels with their programs, see SoftConfig. */
const DEFAULT_CACHE_MIB = 64;
/**
 * Room for what the loads of `deno task soak` have in turn, some 4300 modules: with 192 MiB they were
 * made ten times over in half an hour.
 */
const DEFAULT_CODE_MIB = 256;
const DEFAULT_CPU_COUNT = 1;
const DEFAULT_BALLOON_POLICY = "auto";
const DEFAULT_LOG_LEVEL: LogLevelName = "info";

/** A serial port's options. */
type SerialOptions = DecodedRecord<typeof SERIAL["fields"]>;

/** How strictly to look. */
export interface ResolveOptions {
  /** Whether something to boot must be there. */
  readonly requireBoot: boolean;
  /** Which of the files that are named must be there: all, all but inherited descriptors, or none. */
  readonly requireFiles: "all" | "paths" | "none";
}

/** What came of it. */
export interface Resolved {
  /** The effective options, defaults filled in. */
  readonly options: RunOptions;
  /** Complete where nothing was wrong and there is something to boot. */
  readonly config: VmConfig | undefined;
}

/** Merges `layers` and checks the whole; pushes what is wrong to `problems`. */
export function resolveLayers(
  layers: readonly ConfigLayer[],
  problems: ConfigProblem[],
  how: ResolveOptions,
): Resolved {
  const before = problems.length;
  const given = mergeOptions(RUN_OPTIONS, ...layers.map((layer) => layer.options));
  const options = withDefaults(given);
  const checker = new Checker(layers, problems, how);
  const boot = checker.boot(options);
  const serial = checker.serial(options.serial ?? []);
  const disks = checker.disks(options.block ?? []);
  const vhostUser = checker.vhostUser(options["vhost-user"] ?? []);
  checker.balloon(options);
  if (problems.length > before || boot === undefined || serial === undefined) {
    return { options, config: undefined };
  }
  const config: VmConfig = {
    name: options.name,
    boot,
    cpuCount: options.cpus?.["num-cores"] ?? DEFAULT_CPU_COUNT,
    memoryMib: options.mem?.size ?? DEFAULT_MEMORY_MIB,
    serial: serial.serial,
    consoles: serial.consoles,
    rng: options["no-rng"] !== true,
    balloon: balloonOf(options),
    disks,
    vhostUser,
    restartDevices: options["restart-devices"] ?? false,
    socket: options.socket === undefined ? undefined : socketOf(options.socket),
    hypervisor: options.hypervisor ?? "auto",
    soft: {
      cache: options.soft?.cache ?? true,
      cacheFolder: options.soft?.["cache-dir"],
      cacheMib: options.soft?.["cache-size"] ?? DEFAULT_CACHE_MIB,
      codeMib: options.soft?.["code-memory"] ?? DEFAULT_CODE_MIB,
    },
    engineStats: options["engine-stats"],
    extendedStatus: options["extended-status"] ?? false,
    ...logLevels(options["log-level"] ?? DEFAULT_LOG_LEVEL),
    sandbox: options["disable-sandbox"] === true ? undefined : {
      pivotRoot: options["pivot-root"] ?? DEFAULT_PIVOT_ROOT,
      seccompPolicyDir: options["seccomp-policy-dir"],
      seccompLogFailures: options["seccomp-log-failures"] ?? false,
    },
  };
  return { options, config };
}

/** The options that `given` amounts to. Filling in twice changes nothing. */
export function withDefaults(given: RunOptions): RunOptions {
  return {
    ...given,
    cpus: { "num-cores": DEFAULT_CPU_COUNT, ...given.cpus },
    mem: { size: DEFAULT_MEMORY_MIB, ...given.mem },
    hypervisor: given.hypervisor ?? "auto",
    soft: {
      "cache": true,
      "cache-size": DEFAULT_CACHE_MIB,
      "code-memory": DEFAULT_CODE_MIB,
      ...given.soft,
    },
    serial: serialDefaults(given.serial ?? []),
    "extended-status": given["extended-status"] ?? false,
    "log-level": given["log-level"] ?? DEFAULT_LOG_LEVEL,
    "disable-sandbox": given["disable-sandbox"] ?? false,
    "no-rng": given["no-rng"] ?? false,
    "no-balloon": given["no-balloon"] ?? false,
    ...(given["no-balloon"] === true
      ? {}
      : { "balloon-policy": given["balloon-policy"] ?? DEFAULT_BALLOON_POLICY }),
    "pivot-root": given["pivot-root"] ?? DEFAULT_PIVOT_ROOT,
    "seccomp-log-failures": given["seccomp-log-failures"] ?? false,
  };
}

/**
 * Ports that were not asked for: the first is the console on standard input and output unless
 * another port is the console, all others discard what they get.
 */
function serialDefaults(given: readonly SerialOptions[]): readonly SerialOptions[] {
  const ports = given.map((port): SerialOptions => ({ hardware: "serial", num: 1, ...port }));
  const hasConsole = ports.some((port) => port.console === true);
  const given16550 = (num: number) =>
    ports.some((port) => port.hardware === "serial" && port.num === num);
  const missing = [1, 2].filter((num) => !given16550(num));
  return [
    ...ports,
    ...missing.map((num): SerialOptions =>
      num === 1 && !hasConsole
        ? { hardware: "serial", num, type: "stdout", stdin: true, console: true }
        : { hardware: "serial", num, type: "sink" }
    ),
  ];
}

class Checker {
  readonly #layers: readonly ConfigLayer[];
  readonly #problems: ConfigProblem[];
  readonly #how: ResolveOptions;

  constructor(layers: readonly ConfigLayer[], problems: ConfigProblem[], how: ResolveOptions) {
    this.#layers = layers;
    this.#problems = problems;
    this.#how = how;
  }

  boot(options: RunOptions): BootSource | undefined {
    const { kernel, bios, initrd } = options;
    if (kernel !== undefined && bios !== undefined) {
      this.#problem("bios", `expected a kernel or firmware, got both (${this.#says("kernel")})`);
    } else if (bios !== undefined && initrd !== undefined) {
      this.#problem("initrd", `expected no initrd with firmware, got one (${this.#says("bios")})`);
    }
    if (kernel === undefined && bios === undefined && this.#how.requireBoot) {
      this.#problems.push({
        key: "",
        message: "expected a kernel or firmware to boot, got neither: name a KERNEL, or use " +
          "--bios FILE, or --cfg FILE with one of them",
      });
    }
    for (const key of ["kernel", "bios", "initrd"] as const) {
      const path = options[key];
      if (path !== undefined) this.#needFile(path, this.#place(key));
    }
    if (kernel !== undefined) {
      return {
        kind: "kernel",
        kernel: fileSource(kernel),
        initrd: initrd === undefined ? undefined : fileSource(initrd),
        params: options.params ?? [],
      };
    }
    return bios === undefined ? undefined : { kind: "firmware", firmware: fileSource(bios) };
  }

  balloon(options: RunOptions): void {
    if (options["no-balloon"] !== true) return;
    const needs = (key: keyof RunOptions, what: string) =>
      this.#problem(key, `expected a balloon, ${what}, but ${this.#says("no-balloon")}`);
    if (options["balloon-page-reporting"] === true) {
      needs("balloon-page-reporting", "which reports the pages");
    }
    if ((options["balloon-policy"] ?? "off") !== "off") needs("balloon-policy", "which obeys it");
    if (options["memory-cgroup"] !== undefined) needs("memory-cgroup", "which grows for it");
  }

  vhostUser(devices: NonNullable<RunOptions["vhost-user"]>): VhostUserConfig[] {
    return devices.map((device) => {
      const { type, socket, "max-queue-size": maxQueueSize } = device;
      if (type === undefined || socket === undefined) {
        const missing = type === undefined ? "type" : "socket";
        this.#problem("vhost-user", `expected type=TYPE,socket=PATH, got no ${missing}`);
      } else if (inheritedFd(socket) !== undefined) {
        this.#problem("vhost-user", `expected a socket's path, got ${socket}`);
      }
      if (maxQueueSize !== undefined && !Number.isInteger(Math.log2(maxQueueSize))) {
        this.#problem(
          "vhost-user",
          `expected a power of two for max-queue-size, got ${maxQueueSize}`,
        );
      }
      const packedQueues = device["packed-queue"] ?? false;
      return { type: type ?? "block", socket: socket ?? "", maxQueueSize, packedQueues };
    });
  }

  serial(
    ports: readonly SerialOptions[],
  ): Pick<VmConfig, "serial" | "consoles"> | undefined {
    const serial = new Map<number, SerialConfig>();
    const consoles = new Map<number, ConsoleConfig>();
    let stdinTaken = false;
    let consoleTaken = false;
    let earlyconTaken = false;
    ports.forEach((port, index) => {
      const { earlycon, ...config } = this.#port(port, index);
      const { num } = config;
      const isVirtio = port.hardware === "virtio-console";
      if ((isVirtio ? consoles : serial).has(num)) {
        const kind = isVirtio ? "console" : "serial";
        this.#portProblem(index, "num", `${kind} port ${num} is given twice`);
      }
      if (isVirtio) consoles.set(num, config);
      else if (num === 1 || num === 2) serial.set(num, { ...config, num, earlycon });
      else this.#portProblem(index, "num", `expected 1 or 2 with hardware=serial, got ${num}`);
      if (config.input?.type === "stdin") {
        if (stdinTaken) {
          this.#portProblem(index, "stdin", "another port has standard input already");
        }
        stdinTaken = true;
      }
      if (config.console) {
        if (consoleTaken) {
          this.#portProblem(index, "console", "another port is the console already");
        }
        consoleTaken = true;
      }
      if (earlycon) {
        if (isVirtio) {
          this.#portProblem(
            index,
            "earlycon",
            "expected hardware=serial: the other needs a driver",
          );
        }
        if (earlyconTaken) {
          this.#portProblem(index, "earlycon", "another port is the early console already");
        }
        earlyconTaken = true;
      }
    });
    const first = serial.get(1);
    const second = serial.get(2);
    if (first === undefined || second === undefined) return undefined;
    const last = Math.max(0, ...consoles.keys());
    return {
      serial: [first, second],
      consoles: Array.from(
        { length: last },
        (_, index) => consoles.get(index + 1) ?? sinkConsole(index + 1),
      ),
    };
  }

  disks(all: readonly BlockOptions[]): DiskConfig[] {
    const disks: DiskConfig[] = [];
    all.forEach((options, index) => {
      const problem = (key: string, message: string) => {
        this.#problems.push({ ...this.#itemPlace("block", index, key), message });
      };
      const disk = diskConfig(options, problem);
      if (disk === undefined) return;
      this.#needFile(disk.path, this.#itemPlace("block", index, "path"));
      if (disk.root && disks.some(({ root }) => root)) {
        problem("root", "another disk is the root already");
      }
      if (disk.pciDevice !== undefined && disks.some((o) => o.pciDevice === disk.pciDevice)) {
        problem("pci-address", `another disk is at ${options["pci-address"]} already`);
      }
      if (disk.bootIndex !== undefined && disks.some((o) => o.bootIndex === disk.bootIndex)) {
        problem("bootindex", `another disk is number ${disk.bootIndex} already`);
      }
      disks.push(disk);
    });
    return disks;
  }

  #port(port: SerialOptions, index: number): ConsoleConfig & { readonly earlycon: boolean } {
    const output = this.#output(port, index);
    return {
      num: port.num ?? 1,
      output,
      input: this.#input(port, output, index),
      console: port.console ?? false,
      earlycon: port.earlycon ?? false,
      outTimestamp: port["out-timestamp"] ?? false,
    };
  }

  #output(port: SerialOptions, index: number): SerialOutput {
    const { path } = port;
    const type = port.type ?? "stdout";
    if (type === "file" || type === "unix" || type === "unix-stream") {
      if (path === undefined) {
        this.#portProblem(index, "path", `expected a path with type=${type}, got none`);
        return { type: "sink" };
      }
      if (type === "file") return { type, file: fileSource(path) };
      if (inheritedFd(path) !== undefined) {
        this.#portProblem(index, "path", `expected a socket's path with type=${type}, got ${path}`);
      }
      return { type, path };
    }
    if (path !== undefined) {
      this.#portProblem(index, "path", `expected no path with type=${type}, got ${path}`);
    }
    return { type: type === "stdin" ? "sink" : type };
  }

  #input(port: SerialOptions, output: SerialOutput, index: number): SerialInput | undefined {
    const sources: SerialInput[] = [];
    if (port.stdin === true || port.type === "stdin") sources.push({ type: "stdin" });
    if (port.input !== undefined) {
      this.#needFile(port.input, this.#portPlace(index, "input"));
      sources.push({ type: "file", file: fileSource(port.input) });
    }
    if (output.type === "unix-stream") sources.push({ type: "unix-stream" });
    if (sources.length > 1) {
      this.#portProblem(
        index,
        port.input === undefined ? "stdin" : "input",
        "expected one source of input, got two of stdin, input and type=unix-stream",
      );
    }
    return sources[0];
  }

  #needFile(path: string, place: Pick<ConfigProblem, "file" | "key">): void {
    const { requireFiles } = this.#how;
    const isFd = inheritedFd(path) !== undefined;
    if (requireFiles === "none" || (isFd && requireFiles === "paths")) return;
    const refuse = (found: string) =>
      void this.#problems.push({
        ...place,
        message: `expected a file that can be read, got ${found}`,
      });
    try {
      // A descriptor's entry is not followed: what it refers to may have no name any more.
      if (isFd) Deno.lstatSync(path);
      else if (Deno.statSync(path).isDirectory) refuse(`the folder ${displayPath(path)}`);
    } catch (error) {
      refuse(
        isFd ? `${path}, which is not open` : `${displayPath(path)}: ${describeFileError(error)}`,
      );
    }
  }

  /** Where the value of `key` that is in force was given. */
  #place(key: keyof RunOptions): { file: string | undefined; key: string } {
    const layer = this.#layers.findLast((layer) => layer.options[key] !== undefined);
    const file = layer?.file;
    return { file, key: file !== undefined ? key : key === "kernel" ? "KERNEL" : `--${key}` };
  }

  #says(key: keyof RunOptions): string {
    const { file, key: shown } = this.#place(key);
    return file === undefined ? `${shown} is given` : `${key} is given in ${file}`;
  }

  #problem(key: keyof RunOptions, message: string): void {
    this.#problems.push({ ...this.#place(key), message });
  }

  #portProblem(index: number, field: string, message: string): void {
    this.#problems.push({ ...this.#portPlace(index, field), message });
  }

  #portPlace(index: number, field: string): { file: string | undefined; key: string } {
    return this.#itemPlace("serial", index, field);
  }

  /** Where item `index` of a merged list was given. */
  #itemPlace(
    list: "serial" | "block",
    index: number,
    field: string,
  ): { file: string | undefined; key: string } {
    let at = index;
    for (const { file, options } of this.#layers) {
      const count = options[list]?.length ?? 0;
      if (at < count) {
        return { file, key: file === undefined ? `--${list}.${field}` : `${list}[${at}].${field}` };
      }
      at -= count;
    }
    // One that was added; what was given clashes with it.
    return { file: undefined, key: `${list}.${field}` };
  }
}

/** A port that only fills a gap between others. */
function sinkConsole(num: number): ConsoleConfig {
  const output: SerialOutput = { type: "sink" };
  return { num, output, input: undefined, console: false, outTimestamp: false };
}

function balloonOf(options: RunOptions): BalloonConfig | undefined {
  if (options["no-balloon"] === true) return undefined;
  return {
    policy: options["balloon-policy"] ?? DEFAULT_BALLOON_POLICY,
    pageReporting: options["balloon-page-reporting"] ?? false,
    cgroup: options["memory-cgroup"],
  };
}

function fileSource(path: string): FileSource {
  const fd = inheritedFd(path);
  return fd === undefined ? { kind: "path", path } : { kind: "fd", fd, path };
}

function socketOf(path: string): SocketConfig {
  return fileSource(path);
}

/** `info,disk=warn` as a level for all and levels for some; the text must fit `--log-level`. */
export function logLevels(text: string): Pick<VmConfig, "logLevel" | "logModules"> {
  let logLevel = DEFAULT_LOG_LEVEL;
  const logModules: Record<string, LogLevelName> = {};
  for (const part of text.split(",")) {
    const [left, right] = part.split("=") as [string, string | undefined];
    if (right === undefined) logLevel = left as LogLevelName;
    else logModules[left] = right as LogLevelName;
  }
  return { logLevel, logModules };
}
