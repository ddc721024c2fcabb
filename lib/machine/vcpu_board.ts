/**
 * What main and the vCPU workers tell each other, in shared memory: one command for all vCPUs, and for
 * each what it does. Nobody sends a message to stop a vCPU, and nobody polls.
 *
 * @module
 */

/** What the vCPUs shall do. Only main changes it. */
export enum VcpuCommand {
  /** Wait at the start barrier. */
  Hold,
  /** Execute guest code. */
  Run,
  /** Leave the guest and wait. */
  Pause,
  /** Leave the guest and end. */
  Stop,
}

/** What a vCPU does. Only its worker changes it. */
export enum VcpuPhase {
  /** Its worker starts. */
  Starting,
  /** It waits at the start barrier or is paused. */
  Parked,
  /** It executes guest code. */
  Running,
  /** It is gone. */
  Ended,
}

/** Names of the phases, for people. */
export const VCPU_PHASE_NAMES = ["starting", "suspended", "running", "stopped"] as const;

/** For another worker: {@link VcpuBoard.attach}. */
export interface VcpuBoardHandle {
  readonly buffer: SharedArrayBuffer;
}

// Words: the order, a counter of changes of any phase, whether the vCPUs are called, then two per vCPU.
// An order is a command and a number of its own, and a phase carries the number of the order that it
// answers: a vCPU that was parked before a pause and has just heard of the run before it is not paused.
const ORDER = 0;
const CHANGES = 1;
const CALLED = 2;
const FIRST_VCPU = 3;
const WORDS_PER_VCPU = 2;
const PHASE = 0;
const THREAD = 1;
/** Low bits of an order and of a phase; the number is above them. */
const KIND_BITS = 2;
const KIND_MASK = (1 << KIND_BITS) - 1;

/** The shared words. */
export class VcpuBoard {
  readonly #words: Int32Array<SharedArrayBuffer>;
  /** Number of vCPUs. */
  readonly vcpuCount: number;

  private constructor(words: Int32Array<SharedArrayBuffer>) {
    this.#words = words;
    this.vcpuCount = (words.length - FIRST_VCPU) / WORDS_PER_VCPU;
  }

  /** A board for `vcpuCount` vCPUs, all starting, on hold. */
  static create(vcpuCount: number): VcpuBoard {
    const words = FIRST_VCPU + vcpuCount * WORDS_PER_VCPU;
    return new VcpuBoard(new Int32Array(new SharedArrayBuffer(words * 4)));
  }

  /** The board that `handle` describes. */
  static attach(handle: VcpuBoardHandle): VcpuBoard {
    return new VcpuBoard(new Int32Array(handle.buffer));
  }

  /** For {@link attach} in another worker. */
  handle(): VcpuBoardHandle {
    return { buffer: this.#words.buffer };
  }

  /** What the vCPUs shall do. */
  get command(): VcpuCommand {
    return commandOf(this.order);
  }

  set command(command: VcpuCommand) {
    const number = (this.order >> KIND_BITS) + 1;
    Atomics.store(this.#words, ORDER, (number << KIND_BITS) | command);
    Atomics.notify(this.#words, ORDER);
  }

  /** The command as a vCPU answers it: no two are the same. For {@link commandOf}. */
  get order(): number {
    return Atomics.load(this.#words, ORDER);
  }

  /** True where the message is on its way that the guest is in place. */
  get isCalled(): boolean {
    return Atomics.load(this.#words, CALLED) !== 0;
  }

  /** Says that the guest is in place. */
  call(): void {
    Atomics.store(this.#words, CALLED, 1);
  }

  /** What vCPU `id` does. */
  phase(id: number): VcpuPhase {
    return Atomics.load(this.#words, at(id) + PHASE) & KIND_MASK;
  }

  /** Whether what vCPU `id` does is what it does since it heard of the newest order. */
  answers(id: number): boolean {
    return (Atomics.load(this.#words, at(id) + PHASE) ^ this.order) >> KIND_BITS === 0;
  }

  /** Host thread of vCPU `id`, 0 before it has one. */
  thread(id: number): number {
    return Atomics.load(this.#words, at(id) + THREAD);
  }

  /** Says what vCPU `id` does now, and because of which order. */
  setPhase(id: number, phase: VcpuPhase, order: number): void {
    Atomics.store(this.#words, at(id) + PHASE, (order & ~KIND_MASK) | phase);
    Atomics.add(this.#words, CHANGES, 1);
    Atomics.notify(this.#words, CHANGES);
  }

  /** Says which host thread vCPU `id` is. */
  setThread(id: number, tid: number): void {
    Atomics.store(this.#words, at(id) + THREAD, tid);
  }

  /** Blocks the calling worker until there is another order than `order`. */
  waitWhile(order: number): void {
    while (this.order === order) Atomics.wait(this.#words, ORDER, order);
  }

  /** Resolves when a phase changes, or after `timeoutMs`, or at once if one changed since `seen`. */
  async changed(seen: number, timeoutMs: number): Promise<void> {
    const wait = Atomics.waitAsync(this.#words, CHANGES, seen, timeoutMs);
    if (wait.async) await wait.value;
  }

  /** The number of changes so far, for {@link changed}. */
  get changes(): number {
    return Atomics.load(this.#words, CHANGES);
  }
}

/** The command of an order. */
export function commandOf(order: number): VcpuCommand {
  return order & KIND_MASK;
}

function at(id: number): number {
  return FIRST_VCPU + id * WORDS_PER_VCPU;
}
