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

// Words: the command, a counter of changes of any phase, whether the vCPUs are called, then two per vCPU.
const COMMAND = 0;
const CHANGES = 1;
const CALLED = 2;
const FIRST_VCPU = 3;
const WORDS_PER_VCPU = 2;
const PHASE = 0;
const THREAD = 1;

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
    return Atomics.load(this.#words, COMMAND);
  }

  set command(command: VcpuCommand) {
    Atomics.store(this.#words, COMMAND, command);
    Atomics.notify(this.#words, COMMAND);
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
    return Atomics.load(this.#words, at(id) + PHASE);
  }

  /** Host thread of vCPU `id`, 0 before it has one. */
  thread(id: number): number {
    return Atomics.load(this.#words, at(id) + THREAD);
  }

  /** Says what vCPU `id` does now. */
  setPhase(id: number, phase: VcpuPhase): void {
    Atomics.store(this.#words, at(id) + PHASE, phase);
    Atomics.add(this.#words, CHANGES, 1);
    Atomics.notify(this.#words, CHANGES);
  }

  /** Says which host thread vCPU `id` is. */
  setThread(id: number, tid: number): void {
    Atomics.store(this.#words, at(id) + THREAD, tid);
  }

  /** Blocks the calling worker until the command is not `unless`. */
  waitWhile(unless: VcpuCommand): void {
    while (this.command === unless) Atomics.wait(this.#words, COMMAND, unless);
  }

  /** Whether every vCPU is in one of `phases`. */
  allIn(...phases: readonly VcpuPhase[]): boolean {
    for (let id = 0; id < this.vcpuCount; id++) {
      if (!phases.includes(this.phase(id))) return false;
    }
    return true;
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

function at(id: number): number {
  return FIRST_VCPU + id * WORDS_PER_VCPU;
}
