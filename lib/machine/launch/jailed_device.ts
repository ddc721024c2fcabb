/**
 * A device in a jailed process of its own.
 *
 * @module
 */

import type { SandboxConfig } from "../../config/mod.ts";
import { deviceProcessArguments } from "../../devices/mod.ts";
import {
  type Fd,
  parseViolation,
  pipe,
  PollEvent,
  type ProcessEnd,
  type Reactor,
  setNonblocking,
  signalName,
  socketPair,
  tryRead,
  type UnixSocket,
  VIOLATION_EXIT_STATUS,
  VIOLATION_REPORT_BYTES,
  type Watch,
} from "../../host/mod.ts";
import { type JailedProcess, type StartingJail, startJailed, syscallName } from "../../jail/mod.ts";
import { DeviceLog } from "./device_log.ts";
import type { DeviceProgram } from "./device_program.ts";
import type { DeviceOrder, LaunchedDevice } from "./launched_device.ts";
import { commonJail, filterFile } from "./sandbox.ts";

/** Descriptors of the process. */
const PLACE = { Error: 2, FrontEnd: 3, Control: 4, Filter: 5, Violation: 6, Resources: 7 } as const;
/** A jail is made within milliseconds, unless a file system hangs. */
const START_TIMEOUT_MS = 10_000;
/** How long a device may take to write what it holds, once its front end has gone. */
const END_TIMEOUT_MS = 10_000;

/** Settings of {@link launchJailed}. */
export interface JailedLaunchOptions {
  readonly sandbox: SandboxConfig;
  readonly program: DeviceProgram;
  readonly reactor: Reactor;
  /** Gives the start up. */
  readonly signal?: AbortSignal | undefined;
}

/** Ends of what the two sides talk by. */
interface Ends {
  readonly frontEnd: UnixSocket;
  readonly control: UnixSocket;
  readonly error: Fd;
  readonly violation: Fd;
}

/**
 * Starts a device in a jail. The process is begun before this waits for anything.
 *
 * @throws {JailError} where no jail can be made: why, and what to do.
 * @throws {PolicyError} where its policy is wrong.
 */
export async function launchJailed(
  order: DeviceOrder,
  options: JailedLaunchOptions,
): Promise<LaunchedDevice> {
  using stack = new DisposableStack();
  const { ours, jail } = begin(order, { ...options, stack });
  await settled(jail, options);
  const process = jail.finish();
  stack.move();
  return new JailedDevice(process, { order, reactor: options.reactor, ...ours });
}

/** Starts the process; everything that stays with the VMM goes to `stack`. */
function begin(
  order: DeviceOrder,
  { sandbox, program, stack }: JailedLaunchOptions & { readonly stack: DisposableStack },
): { ours: Ends; jail: StartingJail } {
  const { kind, opened, logLevel } = order;
  // Closed here when the process has its own.
  using theirs = new DisposableStack();
  const pair = ([own, its]: [UnixSocket, UnixSocket]) => {
    stack.use(own);
    return [own, theirs.use(its)] as const;
  };
  const [frontEnd, itsFrontEnd] = pair(socketPair("stream"));
  const [control, itsControl] = pair(socketPair("seqpacket", { nonblock: true }));
  const channel = () => {
    const { reader, writer } = pipe();
    setNonblocking(stack.use(reader), true);
    return { reader, writer: theirs.use(writer) };
  };
  const error = channel();
  const violation = channel();
  const filter = theirs.use(filterFile(kind, sandbox));
  const resources = opened.fds.map((fd, index) => ({ fd, as: PLACE.Resources + index }));
  const args = deviceProcessArguments({
    kind,
    settings: opened.settings,
    resourceFds: resources.map(({ as }) => as),
    frontEndFd: PLACE.FrontEnd,
    controlFd: PLACE.Control,
    logLevel,
    jail: { filterFd: PLACE.Filter, violationFd: PLACE.Violation },
  });
  const jail = startJailed({
    ...commonJail(sandbox),
    program: program.path,
    argv: [...program.argv, ...args],
    env: program.env,
    mounts: program.mounts,
    fds: [
      { fd: error.writer, as: PLACE.Error },
      { fd: itsFrontEnd.fd, as: PLACE.FrontEnd },
      { fd: itsControl.fd, as: PLACE.Control },
      { fd: filter, as: PLACE.Filter },
      { fd: violation.writer, as: PLACE.Violation },
      ...resources,
    ],
  });
  stack.use(jail);
  return {
    ours: { frontEnd, control, error: error.reader, violation: violation.reader },
    jail,
  };
}

/** Waits until a jail has been made, or has failed. */
async function settled(
  jail: StartingJail,
  { reactor, signal }: Pick<JailedLaunchOptions, "reactor" | "signal">,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  using _watch = reactor.watch(jail.fd, PollEvent.In, () => resolve());
  const timer = setTimeout(() => reject(jail.timeout()), START_TIMEOUT_MS);
  const abort = () => reject(signal?.reason);
  signal?.addEventListener("abort", abort);
  try {
    signal?.throwIfAborted();
    await promise;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

/** A jailed process that serves a device. */
class JailedDevice implements LaunchedDevice {
  readonly socket: UnixSocket;
  readonly control: UnixSocket;
  readonly ended: Promise<string>;
  readonly pid: number;
  readonly #process: JailedProcess;
  readonly #watch: Watch;
  #violated = false;

  constructor(
    process: JailedProcess,
    options: Ends & { readonly order: DeviceOrder; readonly reactor: Reactor },
  ) {
    const { frontEnd, control, error, violation, order, reactor } = options;
    this.#process = process;
    this.pid = process.pid;
    this.socket = frontEnd;
    this.control = control;
    const log = new DeviceLog(error, { name: order.name, reactor });
    const { promise, resolve } = Promise.withResolvers<string>();
    this.ended = promise;
    this.#watch = reactor.watch(process.pidfd, PollEvent.In, () => {
      const { end } = process;
      if (end === undefined) return;
      this.#watch[Symbol.dispose]();
      log[Symbol.dispose]();
      using _violation = violation;
      const broken = describeViolation(violation, order.kind);
      // One that was taken over may have closed the way for reports.
      this.#violated = broken !== undefined || isViolation(end);
      resolve(broken ?? describeEnd(end));
      process[Symbol.dispose]();
    });
  }

  /** Whether it made a system call that its policy forbids; known when it has ended. */
  get violated(): boolean {
    return this.#violated;
  }

  /** Lets it end by itself, for which its front end must have gone; kills it where it does not. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.socket[Symbol.dispose]();
    this.control[Symbol.dispose]();
    const timer = setTimeout(() => this.#process.kill(), END_TIMEOUT_MS);
    await this.ended;
    clearTimeout(timer);
  }
}

/** What a device that broke its policy did; undefined where it did not. */
function describeViolation(from: Fd, kind: string): string | undefined {
  const report = new Uint8Array(VIOLATION_REPORT_BYTES);
  const violation = parseViolation(report.subarray(0, Math.max(0, tryRead(from, report))));
  if (violation === undefined) return undefined;
  const { syscall, args } = violation;
  const name = syscallName(syscall) ?? "unknown";
  return `it made the system call ${name} (${syscall}), which ${kind}_device.policy forbids, with ` +
    args.map((value) => `0x${value.toString(16)}`).join(", ");
}

/** Whether a process ended as the kernel, or what reports violations, ends it. */
function isViolation(end: ProcessEnd): boolean {
  return end.kind === "exited"
    ? end.status === VIOLATION_EXIT_STATUS
    : signalName(end.signal) === "SIGSYS";
}

function describeEnd(end: ProcessEnd): string {
  if (end.kind === "exited") return `it ended with status ${end.status}`;
  return `it was killed by ${signalName(end.signal)}`;
}
