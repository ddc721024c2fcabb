/**
 * Starts programs in jails.
 *
 * @module
 */

import {
  describeScriptFailure,
  dupFd,
  Fd,
  getegid,
  geteuid,
  isHostError,
  openFile,
  pipe,
  PollEvent,
  pollFd,
  type ProcessEnd,
  rawFd,
  Reactor,
  read,
  type ScriptProcess,
  Signal,
  signalProcess,
  startScript,
  takeProcessEnd,
  writeAll,
} from "../host/mod.ts";
import { JailError } from "./errors.ts";
import type { IdMapping, JailSpec } from "./jail.ts";
import { flags } from "./policy/constants.ts";
import { wayOut } from "./refusal.ts";
import { type Preparation, setupSteps } from "./setup_steps.ts";

/** A jail is made within milliseconds, unless a file system hangs or the host is very busy. */
const SETUP_TIMEOUT_MS = 60_000;

/** New namespaces of all kinds that matter, and how the parent learns of the end. */
const CLONE_FLAGS = [
  ...["CLONE_NEWUSER", "CLONE_NEWNS", "CLONE_NEWPID", "CLONE_NEWNET", "CLONE_NEWIPC"],
  ...["CLONE_PIDFD", "SIGCHLD"],
];

/** A jailed program. Disposed, it is killed. */
export class JailedProcess implements Disposable {
  /** Its number, as the parent sees it. */
  readonly pid: number;
  readonly #pidfd: Fd;
  #end: ProcessEnd | undefined;

  /** For {@link spawnJailed}: takes the pidfd over. */
  constructor(pid: number, pidfd: Fd) {
    this.pid = pid;
    this.#pidfd = pidfd;
  }

  /** Descriptor that is readable when it has ended. */
  get pidfd(): Fd {
    return this.#pidfd;
  }

  /** How it ended; undefined as long as it lives. */
  get end(): ProcessEnd | undefined {
    if (this.#end === undefined && !this.#pidfd.closed) this.#end = takeProcessEnd(this.#pidfd);
    return this.#end;
  }

  /** Waits for its end. */
  async wait(): Promise<ProcessEnd> {
    if (this.end !== undefined) return this.end;
    using reactor = new Reactor();
    const ended = Promise.withResolvers<void>();
    using _watch = reactor.watch(this.#pidfd, PollEvent.In, () => ended.resolve());
    await ended.promise;
    return this.end!;
  }

  /** Sends a signal; false where it has ended. It is the init of its jail: of those that it does not
   * handle, only SIGKILL and SIGSTOP reach it. */
  kill(signal: number = Signal.Kill): boolean {
    return this.#end === undefined && signalProcess(this.#pidfd, signal);
  }

  [Symbol.dispose](): void {
    if (this.#pidfd.closed) return;
    if (this.kill()) {
      // Killed processes end soon, and must not stay as zombies.
      pollFd(this.#pidfd, PollEvent.In, SETUP_TIMEOUT_MS);
      this.#end = takeProcessEnd(this.#pidfd);
    }
    this.#pidfd[Symbol.dispose]();
  }
}

/**
 * Starts a program in a jail of its own, and comes back when it runs. It is killed when the thread that
 * called this ends, however that happens.
 *
 * @throws {JailError} which says which step of making the jail failed and, where the host allows none,
 * why and what to do.
 */
export function spawnJailed(spec: JailSpec): JailedProcess {
  using starting = startJailed(spec);
  const deadline = performance.now() + SETUP_TIMEOUT_MS;
  const settle = () => {
    // A signal ends the wait, too.
    while (!starting.settled) {
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) throw starting.timeout();
      pollFd(starting.fd, PollEvent.In, Math.ceil(leftMs));
    }
  };
  settle();
  starting.checkMade();
  starting.begin();
  settle();
  return starting.finish();
}

/**
 * As {@link spawnJailed}, but comes back while the jail is being made, so that several can be made at a
 * time, and the program begins when it is told to.
 *
 * @throws {JailError} where the host makes no namespaces.
 */
export function startJailed(spec: JailSpec): StartingJail {
  const prepared = new Prepared(spec);
  try {
    return prepared.start();
  } catch (error) {
    prepared[Symbol.dispose]();
    throw error;
  }
}

/**
 * A jail that is being made: wait until it is settled, {@link checkMade}, let the program {@link begin},
 * wait until it is settled again, {@link finish}. Disposed before that, it is killed.
 */
export class StartingJail implements Disposable {
  readonly #prepared: Prepared;
  readonly #script: ScriptProcess;
  #process: JailedProcess | undefined;

  /** For {@link startJailed}: takes everything over. */
  constructor(prepared: Prepared, script: ScriptProcess, process: JailedProcess) {
    this.#prepared = prepared;
    this.#script = script;
    this.#process = process;
  }

  /** Descriptor that is readable when it is settled. */
  get fd(): Fd {
    return this.#prepared.reportReader;
  }

  /** Whether the next step can be made. */
  get settled(): boolean {
    return pollFd(this.fd, PollEvent.In, 0) !== 0;
  }

  /**
   * Makes sure that the jail has been made.
   *
   * @throws {JailError} which says which step failed, and what to do.
   */
  checkMade(): void {
    this.#prepared.check(this.#script);
  }

  /** Lets the program begin, once the jail has been made. */
  begin(): void {
    this.#prepared.go();
  }

  /**
   * The process, once its program runs.
   *
   * @throws {JailError} which says which step failed, and what to do.
   */
  finish(): JailedProcess {
    const process = this.#process;
    if (process === undefined) throw new JailError("the jail has been finished or given up");
    this.#prepared.check(this.#script);
    this.#process = undefined;
    this.#prepared[Symbol.dispose]();
    return process;
  }

  /** What to say where it takes too long. */
  timeout(): JailError {
    const { program } = this.#prepared.spec;
    return new JailError(`the jail of ${program} is not ready after ${SETUP_TIMEOUT_MS / 1000} s`);
  }

  [Symbol.dispose](): void {
    this.#process?.[Symbol.dispose]();
    this.#process = undefined;
    this.#prepared[Symbol.dispose]();
  }
}

/** Descriptors that only exist while the jail is made. */
class Prepared implements Disposable {
  readonly spec: JailSpec;
  readonly #stack = new DisposableStack();
  readonly #goReader: Fd;
  readonly #goWriter: Fd;
  /** At its end or with a report, the program runs or never will. */
  readonly reportReader: Fd;
  readonly #reportWriter: Fd;
  readonly #preparation: Preparation;

  constructor(spec: JailSpec) {
    this.spec = spec;
    checkSpec(spec);
    try {
      const places = (spec.fds ?? []).map(({ as }) => as);
      // Above all numbers that the program wants.
      const base = Math.max(2, ...places) + 1;
      const above = (fd: Fd) => {
        using lower = fd;
        return this.#stack.use(dupFd(lower, base));
      };
      const go = pipe();
      [this.#goReader, this.#goWriter] = [above(go.reader), above(go.writer)];
      const report = pipe();
      [this.reportReader, this.#reportWriter] = [above(report.reader), above(report.writer)];
      const program = above(openProgram(spec.program));
      const fds = (spec.fds ?? []).map(({ fd, as }) => ({
        from: this.#stack.use(dupFd(fd, base)).raw,
        as,
      }));
      const missing = [0, 1, 2].filter((number) => !places.includes(number));
      if (missing.length > 0) {
        const { raw } = above(openFile("/dev/null", Number(flags("O_RDWR"))));
        fds.push(...missing.map((as) => ({ from: raw, as })));
      }
      this.#preparation = {
        spec,
        goReader: this.#goReader.raw,
        goWriter: this.#goWriter.raw,
        report: this.#reportWriter.raw,
        program: program.raw,
        fds,
        folders: foldersOf(spec),
        uid: spec.uid ?? idInside(spec.uidMap ?? [], geteuid()),
        gid: spec.gid ?? idInside(spec.gidMap ?? [], getegid()),
        dropGroups: geteuid() === 0 && (spec.gidMap ?? []).length > 0 && !groupsAreFixed(),
        lastCapability: Number(Deno.readTextFileSync("/proc/sys/kernel/cap_last_cap")),
      };
    } catch (error) {
      this.#stack.dispose();
      throw error;
    }
  }

  /** Makes the process, gives it its ids and lets it go on. */
  start(): StartingJail {
    const pidfd = new Int32Array(1);
    const steps = setupSteps(this.#preparation);
    const options = {
      flags: Number(flags(...CLONE_FLAGS)),
      pidfd,
      reportFd: this.#reportWriter.raw,
    };
    let script: ScriptProcess;
    try {
      script = startScript(steps, options);
    } catch (error) {
      const advice = isHostError(error, "EPERM", "ENOSPC", "EUSERS", "EINVAL", "EACCES")
        ? `: ${wayOut()}`
        : "";
      throw new JailError(`cannot make namespaces for a jail${advice}`, { cause: error });
    }
    const process = new JailedProcess(script.pid, Fd.adopt(pidfd[0]!));
    try {
      // What the process alone keeps open tells when it starts the program, or fails.
      this.#reportWriter[Symbol.dispose]();
      writeMaps(script.pid, this.spec, this.#preparation.dropGroups);
      this.go();
      return new StartingJail(this, script, process);
    } catch (error) {
      process[Symbol.dispose]();
      throw error;
    }
  }

  /** Lets the new process go on. */
  go(): void {
    writeAll(this.#goWriter, new Uint8Array(1));
  }

  /** @throws {JailError} where a step failed, as the report says. */
  check(process: ScriptProcess): void {
    const report = new Uint8Array(64);
    const failure = process.failureOf(report.subarray(0, read(this.reportReader, report)));
    if (failure === undefined) return;
    const isRefusal = failure.result === -1 || failure.result === -13;
    const isMount = /mount|pivot_root/.test(failure.step.label);
    const advice = isRefusal && isMount ? `: ${wayOut()}` : "";
    throw new JailError(
      `cannot make the jail of ${this.spec.program}: ${describeScriptFailure(failure)}${advice}`,
    );
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
  }
}

function openProgram(path: string): Fd {
  return openFile(path, Number(flags("O_PATH", "O_CLOEXEC")));
}

function checkSpec(spec: JailSpec): void {
  const places = (spec.fds ?? []).map(({ as }) => as);
  if (new Set(places).size !== places.length) {
    throw new JailError("expected each descriptor's number once in a jail");
  }
  for (const { fd, as } of spec.fds ?? []) {
    if (rawFd(fd) < 0 || !Number.isInteger(as) || as < 0 || as > 1000) {
      throw new JailError(`expected descriptors from 0 to 1000 in a jail, got ${as}`);
    }
  }
  if ((spec.mounts ?? []).length > 0 && (spec.uidMap ?? []).length === 0) {
    throw new JailError("mounts in a jail need a uid map: nobody owns no files");
  }
  if (spec.filter !== undefined && spec.filter.length % 8 !== 0) {
    throw new JailError(`expected a filter of whole instructions, got ${spec.filter.length} bytes`);
  }
  const texts = [...spec.argv, ...Object.entries(spec.env ?? {}).flat(), spec.pivotRoot];
  if (texts.some((text) => text.includes("\0"))) {
    throw new JailError("expected no NUL characters in a jail's arguments and environment");
  }
  if (spec.argv.length === 0) throw new JailError("expected the program's name as first argument");
}

/** The id to take; undefined where the process keeps its own. */
function idInside(map: readonly IdMapping[], own: number): number | undefined {
  const isMapped = map.some(({ outside, count }) => own >= outside && own < outside + count);
  return isMapped ? undefined : map[0]?.inside;
}

function foldersOf({ mounts }: JailSpec): Set<string> {
  const folders = new Set<string>();
  for (const mount of mounts ?? []) {
    if (mount.kind !== "bind") continue;
    try {
      if (Deno.statSync(mount.source).isDirectory) folders.add(mount.source);
    } catch (error) {
      throw new JailError(`cannot mount ${mount.source} in a jail`, { cause: error });
    }
  }
  return folders;
}

/** Whether this process is in a user namespace that forbids setgroups(2), as its children's will, too. */
function groupsAreFixed(): boolean {
  try {
    return Deno.readTextFileSync("/proc/self/setgroups").trim() === "deny";
  } catch {
    return false;
  }
}

/** user_namespaces(7): an ordinary user may map one id, its own, and must forbid setgroups(2). */
function writeMaps(pid: number, spec: JailSpec, mayDropGroups: boolean): void {
  const write = (name: string, text: string) => {
    try {
      // One write(2): the kernel takes a map in one piece.
      Deno.writeTextFileSync(`/proc/${pid}/${name}`, text, { create: false });
    } catch (error) {
      throw new JailError(`cannot write "${text.trim()}" as the jail's ${name}`, { cause: error });
    }
  };
  if (!mayDropGroups) write("setgroups", "deny");
  const { uidMap = [], gidMap = [] } = spec;
  if (gidMap.length > 0) write("gid_map", mapText(gidMap));
  if (uidMap.length > 0) write("uid_map", mapText(uidMap));
}

function mapText(map: readonly IdMapping[]): string {
  return map.map(({ inside, outside, count }) => `${inside} ${outside} ${count}\n`).join("");
}
