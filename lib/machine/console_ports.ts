/**
 * What the ports of the virtio console are connected with on the host. The device itself reads and writes
 * descriptors; what needs more than that goes through a pipe and this process.
 *
 * @module
 */

import type { ConsoleConfig } from "../config/mod.ts";
import type { ConsolePortOptions } from "../devices/mod.ts";
import {
  Errno,
  eventfd,
  type Fd,
  fstat,
  isatty,
  pipe,
  PollEvent,
  type Reactor,
  signalEvent,
  tryRead,
  tryWrite,
  type Watch,
} from "../host/mod.ts";
import { MachineError } from "./errors.ts";
import type { InputPort } from "./serial_input.ts";
import { FlushResult, SerialOutput } from "./serial_output.ts";
import { openInput, openOutput } from "./serial_ports.ts";

const STDIN = 0;
const PUMP_BYTES = 4096;

/** A terminal on stdin that is a port's input. */
export interface ConsoleTerminal {
  /** Number of the port from 0 on. */
  readonly port: number;
  /** Its name in the guest, such as `hvc0`. */
  readonly label: string;
  /** The terminal. */
  readonly fd: Fd;
  /** What it says is written there. */
  readonly input: InputPort;
}

/** Settings of {@link openConsolePorts}. */
export interface ConsolePortsOptions {
  readonly reactor: Reactor;
  /** {@link Date.now} at which timestamps are zero. */
  readonly originMs: number;
  /** The output of a port cannot be written any more, for the reason of this errno. */
  readonly onOutputFailed: (label: string, errno: number) => void;
}

/** The connections of all ports. Disposing closes what is left of them here. */
export interface ConsolePorts extends Disposable {
  /** For the device, which takes the descriptors over. */
  readonly ports: readonly ConsolePortOptions[];
  readonly terminal: ConsoleTerminal | undefined;
}

/**
 * Opens what `configs` name.
 *
 * @throws {MachineError} when something cannot be opened.
 */
export function openConsolePorts(
  configs: readonly ConsoleConfig[],
  options: ConsolePortsOptions,
): ConsolePorts {
  using stack = new DisposableStack();
  let terminal: ConsoleTerminal | undefined;
  const ports = configs.map((config, port): ConsolePortOptions => {
    const label = `hvc${port}`;
    try {
      const target = openOutput(config);
      const input = openInput(config, target?.fd);
      const fromTerminal = config.input?.type === "stdin" && isatty(STDIN);
      if (fromTerminal && input !== undefined) {
        const { reader, writer } = pipe({ nonblock: true });
        terminal = {
          port,
          label,
          fd: stack.use(input),
          input: stack.use(new PipeInput(writer, options.reactor)),
        };
        return { output: connect(label, config, { target, options, stack }), input: reader };
      }
      return { output: connect(label, config, { target, options, stack }), input };
    } catch (cause) {
      throw new MachineError(`console port ${config.num}`, { cause });
    }
  });
  const kept = stack.move();
  return { ports, terminal, [Symbol.dispose]: () => kept.dispose() };
}

/** What the device writes to; undefined where output is dropped. */
function connect(
  label: string,
  config: ConsoleConfig,
  { target, options, stack }: {
    readonly target: ReturnType<typeof openOutput>;
    readonly options: ConsolePortsOptions;
    readonly stack: DisposableStack;
  },
): Fd | undefined {
  if (target === undefined) return undefined;
  const { reactor, originMs, onOutputFailed } = options;
  if (target.kind === "bytes" && !config.outTimestamp && target.fd !== undefined) {
    if (config.output.type === "stdout" && ["pipe", "socket"].includes(fstat(target.fd).kind)) {
      // No event is asked for, but errors are always reported: nobody reads any more.
      const own = stack.use(target.fd.dup());
      const watch = stack.use(reactor.watch(own, 0, (events) => {
        if ((events & PollEvent.Error) === 0) return;
        watch[Symbol.dispose]();
        onOutputFailed(label, Errno.EPIPE);
      }));
    }
    return target.fd;
  }
  const { reader, writer } = pipe({ nonblock: true });
  if (target.fd !== undefined) stack.use(target.fd);
  stack.use(
    new OutputPump(reader, {
      reactor,
      target: target.fd,
      output: (wakeFd) =>
        SerialOutput.create({
          kind: target.kind,
          label,
          fd: target.fd?.raw ?? -1,
          wakeFd,
          timestampOriginMs: config.outTimestamp ? originMs : undefined,
        }),
      onFailed: (errno) => onOutputFailed(label, errno),
    }),
  );
  return writer;
}

/** The writing end of a pipe as a port with an input. */
class PipeInput implements InputPort, Disposable {
  readonly roomEvent = { words: new Int32Array(new SharedArrayBuffer(4)), index: 0 };
  readonly #writer: Fd;
  readonly #reactor: Reactor;
  #watch: Watch | undefined;

  constructor(writer: Fd, reactor: Reactor) {
    this.#writer = writer;
    this.#reactor = reactor;
  }

  receive(bytes: Uint8Array): number {
    const count = tryWrite(this.#writer, bytes);
    if (count > 0) return count;
    this.#watch ??= this.#reactor.watch(this.#writer, PollEvent.Out, () => {
      this.#forget();
      Atomics.add(this.roomEvent.words, 0, 1);
      Atomics.notify(this.roomEvent.words, 0);
    });
    return 0;
  }

  [Symbol.dispose](): void {
    this.#forget();
    this.#writer.close();
  }

  #forget(): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
  }
}

/** Reads what the device writes and brings it in its form: by lines, with times. Never waits. */
class OutputPump implements Disposable {
  readonly #reader: Fd;
  readonly #reactor: Reactor;
  readonly #target: Fd | undefined;
  readonly #output: SerialOutput;
  readonly #onFailed: (errno: number) => void;
  readonly #bytes = new Uint8Array(PUMP_BYTES);
  /** Always readable, so that no flush waits. */
  readonly #wake = eventfd(0, { nonblock: true });
  /** While the target takes what is written; a pipe that hung up is reported whatever is asked for. */
  #reading: Watch | undefined;
  #writing: Watch | undefined;

  constructor(
    reader: Fd,
    options: {
      readonly reactor: Reactor;
      readonly target: Fd | undefined;
      readonly output: (wakeFd: number) => SerialOutput;
      readonly onFailed: (errno: number) => void;
    },
  ) {
    this.#reader = reader;
    this.#reactor = options.reactor;
    this.#target = options.target;
    this.#onFailed = options.onFailed;
    signalEvent(this.#wake);
    this.#output = options.output(this.#wake.raw);
    this.#startReading();
  }

  [Symbol.dispose](): void {
    this.#writing?.[Symbol.dispose]();
    this.#stopReading();
    // What the device has written before it ended: as much as a pipe holds.
    for (let left = 16; left > 0 && this.#take() > 0; left--);
    this.#output.finish();
    this.#reader.close();
    this.#wake.close();
  }

  #startReading(): void {
    this.#reading = this.#reactor.watch(this.#reader, PollEvent.In, () => this.#read());
  }

  #stopReading(): void {
    this.#reading?.[Symbol.dispose]();
    this.#reading = undefined;
  }

  #read(): void {
    if (this.#take() === 0) this.#stopReading();
    else this.#flush();
  }

  /** Takes what is there; -1 where that is nothing, 0 where nothing comes any more. */
  #take(): number {
    const count = tryRead(this.#reader, this.#bytes);
    for (let at = 0; at < count; at++) this.#output.write(this.#bytes[at]!);
    return count;
  }

  #flush(): void {
    const before = this.#output.failure;
    const result = this.#output.flush();
    if (result === FlushResult.Failed && before === 0) this.#onFailed(this.#output.failure);
    if (result !== FlushResult.Blocked || this.#target === undefined) return;
    this.#stopReading();
    this.#writing = this.#reactor.watch(this.#target, PollEvent.Out, () => {
      this.#writing?.[Symbol.dispose]();
      this.#writing = undefined;
      this.#startReading();
      this.#flush();
    });
  }
}
