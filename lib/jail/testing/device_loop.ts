/**
 * A process that does what devices do, for tests of policies: waits for eventfds with epoll, moves
 * bytes between a file and memory, makes garbage, keeps the compiler busy, waits for timers.
 *
 * Its first argument is JSON: {@link DeviceLoopJob}. Without a program it runs free, for strace.
 *
 * @module
 */

import {
  Advice,
  Epoll,
  eventfd,
  fdatasync,
  ftruncate,
  madvise,
  memfdCreate,
  mmap,
  monotonicNs,
  PollEvent,
  pread,
  pwrite,
  rawSyscall,
  Reactor,
  setTimer,
  signalEvent,
  takeEvent,
  timerfd,
} from "../../host/mod.ts";
import { decodeProgram } from "../bpf/instruction.ts";
import { confineProcess } from "../confine.ts";

/** What the process does. */
export interface DeviceLoopJob {
  /** Array of struct sock_filter, in base64. */
  readonly program?: string;
  /** How long it works at least, in milliseconds. */
  readonly durationMs: number;
  /** How much it works at least, however long that takes on a busy host: turns as of a device. */
  readonly turns?: number;
  /** Calls that it makes at the end, whose results it tells. */
  readonly calls?: readonly { readonly number: number; readonly args: readonly number[] }[];
  /** Starts a worker that makes garbage, too. */
  readonly withWorker?: boolean;
}

const MIB = 1 << 20;
const encoder = new TextEncoder();

function tell(line: string): void {
  Deno.stdout.writeSync(encoder.encode(`${line}\n`));
}

/** Objects that live for a while, so that every generation of the heap is collected. */
function makeGarbage(kept: unknown[][], turn: number): void {
  const list: unknown[] = [];
  for (let index = 0; index < 2000; index++) list.push({ index, text: `${turn}.${index}` });
  list.push(new Uint8Array(256 * 1024).fill(turn));
  kept[turn % 64] = list;
}

/** A function that has not been compiled before. */
function compileSomething(turn: number): number {
  const code =
    `let sum = ${turn}; for (let i = 0; i < 20000; i++) sum = (sum * 31 + i) | 0; return sum;`;
  return new Function(code)();
}

async function work(job: DeviceLoopJob): Promise<void> {
  using memory = memfdCreate("guest", 0);
  ftruncate(memory, 16 * MIB);
  using disk = memfdCreate("disk", 0);
  ftruncate(disk, 16 * MIB);
  using mapping = mmap(16 * MIB, { fd: memory });
  using kick = eventfd(0, { nonblock: true });
  using call = eventfd(0, { nonblock: true });
  using timer = timerfd();
  using epoll = new Epoll();
  epoll.add(kick, PollEvent.In, 1);
  epoll.add(timer, PollEvent.In, 2);
  using request = eventfd(0, { nonblock: true });
  using reactor = new Reactor();
  using _watch = reactor.watch(request, PollEvent.In, () => {
    takeEvent(request);
    wakes++;
  });
  const kept: unknown[][] = [];
  const end = monotonicNs() + job.durationMs * 1e6;
  let turns = 0;
  let wakes = 0;
  const turn = () => {
    turns++;
    signalEvent(kick);
    epoll.wait(0);
    takeEvent(kick);
    const at = (turns * 4096) % (16 * MIB);
    pread(disk, mapping.bytes.subarray(at, at + 4096), at);
    pwrite(disk, mapping.bytes.subarray(at, at + 4096), at);
    signalEvent(call);
    takeEvent(call);
    if (turns % 50 === 0) makeGarbage(kept, turns);
    if (turns % 500 === 0) compileSomething(turns);
    if (turns % 100 === 0) {
      setTimer(timer, { ns: 1_000_000 });
      epoll.wait(5);
      madvise(mapping.address, MIB, Advice.DontNeed);
      fdatasync(disk);
    }
  };
  // Everything that is bound at its first use is bound now.
  for (let index = 0; index < 1000; index++) turn();
  if (job.program !== undefined) {
    const bytes = Uint8Array.from(atob(job.program), (char) => char.charCodeAt(0));
    confineProcess(decodeProgram(bytes), { reportFd: 2 });
  }
  tell("ready");
  while (monotonicNs() < end || turns < (job.turns ?? 0)) {
    for (let index = 0; index < 1000; index++) turn();
    // A turn of the event loop, and a wait in the runtime's own poll.
    await new Promise((resolve) => setTimeout(resolve, 2));
    const before = wakes;
    signalEvent(request);
    while (wakes === before) await new Promise((resolve) => setTimeout(resolve, 0));
  }
  tell(`turns ${turns}`);
  for (const { number, args } of job.calls ?? []) {
    tell(String(rawSyscall(number, args.map(BigInt))));
  }
  tell("done");
}

if ("WorkerGlobalScope" in globalThis) {
  const kept: unknown[][] = [];
  self.onmessage = async ({ data }: MessageEvent<number>) => {
    const end = performance.now() + data;
    for (let turn = 0; performance.now() < end; turn++) {
      makeGarbage(kept, turn);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    self.postMessage("done");
  };
} else if (import.meta.main) {
  const job: DeviceLoopJob = JSON.parse(Deno.args[0]!);
  let worker: Promise<unknown> = Promise.resolve();
  if (job.withWorker === true) {
    const started = new Worker(import.meta.url, { type: "module" });
    started.postMessage(job.durationMs);
    worker = new Promise((resolve) => started.onmessage = resolve).then(() => started.terminate());
  }
  await work(job);
  await worker;
}
