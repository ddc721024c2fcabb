/**
 * What the serial ports are connected with on the host.
 *
 * @module
 */

import type { FileSource, SerialConfig } from "../config/mod.ts";
import {
  connectUnix,
  dupFd,
  Fd,
  fstat,
  isatty,
  isHostError,
  openFile,
  OpenFlag,
  setNonblocking,
  validateInheritedFd,
} from "../host/mod.ts";
import { MachineError } from "./errors.ts";
import { SerialOutput, type SerialOutputKind } from "./serial_output.ts";

const STDIN = 0;
const STDOUT = 1;

/** One port's connections. */
export interface SerialPort {
  /** 1 is COM1. */
  readonly number: 1 | 2;
  /** Its name in the guest, such as `ttyS0`. */
  readonly label: string;
  /** Where output goes; undefined where it is dropped. */
  readonly output: SerialOutput | undefined;
  /** Whether output goes to this process's stdout. */
  readonly toStdout: boolean;
  /** Where input comes from; undefined where nothing is received. */
  readonly input: Fd | undefined;
  /** Whether input comes from a terminal on stdin. */
  readonly fromTerminal: boolean;
}

/** Settings of {@link openSerialPorts}. */
export interface SerialPortsOptions {
  /** Readable while vCPUs shall not wait for output. */
  readonly wakeFd: number;
  /** {@link Date.now} at which timestamps are zero. */
  readonly originMs: number;
}

/** The connections of all ports; disposing closes them. */
export interface SerialPorts extends Disposable {
  readonly ports: readonly SerialPort[];
}

/**
 * Opens what `configs` name.
 *
 * @throws {MachineError} when something cannot be opened.
 */
export function openSerialPorts(
  configs: readonly SerialConfig[],
  options: SerialPortsOptions,
): SerialPorts {
  using stack = new DisposableStack();
  const ports = configs.map((config) => {
    try {
      return openPort(config, options, stack);
    } catch (error) {
      throw new MachineError(`serial port ${config.num}`, { cause: error });
    }
  });
  const kept = stack.move();
  return { ports, [Symbol.dispose]: () => kept.dispose() };
}

/** Where output goes, and how. */
export interface OutputTarget {
  readonly kind: SerialOutputKind;
  readonly fd: Fd | undefined;
}

function openPort(
  config: SerialConfig,
  options: SerialPortsOptions,
  stack: DisposableStack,
): SerialPort {
  const label = `ttyS${config.num - 1}`;
  const target = openOutput(config);
  if (target?.fd !== undefined) stack.use(target.fd);
  const input = openInput(config, target?.fd);
  if (input !== undefined) stack.use(input);
  return {
    number: config.num,
    label,
    output: target === undefined ? undefined : SerialOutput.create({
      kind: target.kind,
      label,
      fd: target.fd?.raw ?? -1,
      wakeFd: options.wakeFd,
      timestampOriginMs: config.outTimestamp ? options.originMs : undefined,
    }),
    toStdout: config.output.type === "stdout",
    input,
    fromTerminal: config.input?.type === "stdin" && isatty(STDIN),
  };
}

/** Opens what output goes to; undefined where it is dropped. */
export function openOutput({ output }: Pick<SerialConfig, "output">): OutputTarget | undefined {
  switch (output.type) {
    case "sink":
      return undefined;
    case "stdout":
      return { kind: "bytes", fd: openAgain(STDOUT, OpenFlag.WriteOnly) };
    case "syslog":
      return { kind: "log", fd: undefined };
    case "file": {
      const flags = OpenFlag.WriteOnly | OpenFlag.Create | OpenFlag.Append | OpenFlag.NoTty;
      return { kind: "bytes", fd: openSource(output.file, flags) };
    }
    case "unix":
      return { kind: "lines", fd: connectUnix(output.path, "datagram", { nonblock: true }).fd };
    case "unix-stream": {
      const socket = connectUnix(output.path, "stream");
      setNonblocking(socket.fd, true);
      return { kind: "bytes", fd: socket.fd };
    }
  }
}

/** Opens what input comes from; `output` is what {@link openOutput} gave. */
export function openInput(
  { input }: Pick<SerialConfig, "input">,
  output: Fd | undefined,
): Fd | undefined {
  switch (input?.type) {
    case undefined:
      return undefined;
    case "stdin":
      return openAgain(STDIN, OpenFlag.ReadOnly);
    case "file":
      return openSource(input.file, OpenFlag.ReadOnly | OpenFlag.NonBlock | OpenFlag.NoTty);
    case "unix-stream":
      if (output === undefined) throw new MachineError("unix-stream: no socket to read from");
      return output.dup();
  }
}

function openSource(source: FileSource, flags: number): Fd {
  // 0666 and the umask, as the shell's redirections do it.
  return source.kind === "path"
    ? openFile(source.path, flags, 0o666)
    : validateInheritedFd(source.fd);
}

/**
 * A descriptor of what stdin or stdout is, non-blocking where possible. The flag belongs to the open
 * file that other processes (the shell, the rest of a pipeline) share, so the file is opened once more.
 */
function openAgain(raw: number, flags: number): Fd {
  const { kind } = fstat(raw);
  // A second open of a regular file would begin at its start; a socket cannot be opened.
  if (kind === "pipe" || kind === "character") {
    try {
      return openFile(`/proc/self/fd/${raw}`, flags | OpenFlag.NonBlock | OpenFlag.NoTty);
    } catch (error) {
      // Another user's terminal (after su), or no /proc: the shared one has to do.
      if (!isHostError(error)) throw error;
    }
  }
  return dupFd(raw);
}
