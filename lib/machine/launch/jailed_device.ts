/**
 * A device in a jailed process of its own.
 *
 * @module
 */

import { Alarm } from "../../base/mod.ts";
import { deviceProcessArguments } from "../../devices/mod.ts";
import {
  type Fd,
  pipe,
  PollEvent,
  type ProcessEnd,
  type Reactor,
  setNonblocking,
  signalName,
  socketPair,
  type UnixSocket,
  VIOLATION_EXIT_STATUS,
  type Watch,
} from "../../host/mod.ts";
import { type JailedProcess, type StartingJail, startJailed } from "../../jail/mod.ts";
import { DeviceLog } from "./device_log.ts";
import type { DeviceProgram } from "./device_program.ts";
import { endingProcess, EndWatch } from "./end_watch.ts";
import type { DeviceOrder, LaunchedDevice, PreparedLaunch } from "./launched_device.ts";
import type { commonJail, DeviceFilter } from "./sandbox.ts";
import { ViolationWatch } from "./violation_watch.ts";

/** Descriptors of the process. */
const PLACE = { Error: 2, FrontEnd: 3, Control: 4, Filter: 5, Violation: 6, Resources: 7 } as const;
/** A jail is made within milliseconds, unless a file system hangs or the host is very busy. */
const START_TIMEOUT_MS = 60_000;

/** What the jails of all devices of a kind have in common. */
export interface PreparedJail {
  readonly program: DeviceProgram;
  readonly jail: ReturnType<typeof commonJail>;
  /** Stays whose it is. */
  readonly filter: DeviceFilter;
}

/** Settings of {@link prepareJailed}. */
export interface JailedLaunchOptions extends PreparedJail {
  readonly reactor: Reactor;
  /** Gives the start up. */
  readonly signal?: AbortSignal | undefined;
}

/** Ends of what the two sides talk by. */
interface Ends {
  readonly frontEnd: UnixSocket;
  readonly control: UnixSocket;
  readonly error: Fd;
  readonly violation: UnixSocket;
}

/**
 * Makes a jail in which a device can be started. The process is begun before this waits for anything.
 *
 * @throws {JailError} where no jail can be made: why, and what to do.
 */
export async function prepareJailed(
  order: DeviceOrder,
  options: JailedLaunchOptions,
): Promise<PreparedLaunch> {
  using stack = new DisposableStack();
  const { ours, jail } = begin(order, { ...options, stack });
  await settled(jail, options);
  jail.checkMade();
  const kept = stack.move();
  return {
    async start() {
      using stack = kept.move();
      options.filter.complete();
      jail.begin();
      await settled(jail, options);
      const process = jail.finish();
      stack.move();
      return new JailedDevice(process, { order, reactor: options.reactor, ...ours });
    },
    [Symbol.dispose]: () => kept.dispose(),
  };
}

/** Starts the process; everything that stays with the VMM goes to `stack`. */
function begin(
  order: DeviceOrder,
  { program, jail: common, filter, stack }: JailedLaunchOptions & {
    readonly stack: DisposableStack;
  },
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
  const [violation, itsViolation] = pair(socketPair("seqpacket"));
  const { reader: error, writer } = pipe();
  setNonblocking(stack.use(error), true);
  const itsError = theirs.use(writer);
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
    ...common,
    program: program.path,
    argv: [...program.argv, ...args],
    env: program.env,
    mounts: program.mounts,
    fds: [
      { fd: itsError, as: PLACE.Error },
      { fd: itsFrontEnd.fd, as: PLACE.FrontEnd },
      { fd: itsControl.fd, as: PLACE.Control },
      { fd: filter.fd, as: PLACE.Filter },
      { fd: itsViolation.fd, as: PLACE.Violation },
      ...resources,
    ],
  });
  stack.use(jail);
  return {
    ours: { frontEnd, control, error, violation },
    jail,
  };
}

/** Waits until a jail has come to its next step, or has failed. */
async function settled(
  jail: StartingJail,
  { reactor, signal }: Pick<JailedLaunchOptions, "reactor" | "signal">,
): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  using _watch = reactor.watch(jail.fd, PollEvent.In, () => resolve());
  using _alarm = new Alarm(START_TIMEOUT_MS, () => reject(jail.timeout()));
  const abort = () => reject(signal?.reason);
  signal?.addEventListener("abort", abort);
  try {
    signal?.throwIfAborted();
    await promise;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

/** A jailed process that serves a device. */
class JailedDevice implements LaunchedDevice {
  readonly socket: UnixSocket;
  readonly control: UnixSocket;
  readonly ended: Promise<string>;
  readonly pid: number;
  readonly #name: string;
  readonly #process: JailedProcess;
  readonly #watch: Watch;
  #violated = false;

  constructor(
    process: JailedProcess,
    options: Ends & { readonly order: DeviceOrder; readonly reactor: Reactor },
  ) {
    const { frontEnd, control, error, violation, order, reactor } = options;
    this.#name = order.name;
    this.#process = process;
    this.pid = process.pid;
    this.socket = frontEnd;
    this.control = control;
    const log = new DeviceLog(error, { name: order.name, reactor });
    const violations = new ViolationWatch(violation, {
      kind: order.kind,
      reactor,
      process,
    });
    const { promise, resolve } = Promise.withResolvers<string>();
    this.ended = promise;
    this.#watch = reactor.watch(process.pidfd, PollEvent.In, () => {
      const { end } = process;
      if (end === undefined) return;
      this.#watch[Symbol.dispose]();
      log[Symbol.dispose]();
      violations[Symbol.dispose]();
      const broken = violations.description;
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

  /**
   * Lets it end by itself, for which its front end must have gone, and write what it holds; kills it where it
   * hangs.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    this.socket[Symbol.dispose]();
    this.control[Symbol.dispose]();
    const process = endingProcess(this.pid, () => this.#process.kill());
    using watch = new EndWatch(process, { name: this.#name });
    await Promise.race([this.ended, watch.givenUp]);
  }
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
