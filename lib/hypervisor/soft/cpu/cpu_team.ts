/**
 * What the vCPUs of a VM have in common, in a WebAssembly memory of its own (memory 2 of generated
 * modules): which pages hold code that any of them has decoded, and who stands still for whom.
 *
 * Code. A vCPU that decodes code first sets marks here and takes the page's write tags out of all TLBs,
 * and then reads the bytes. One that stores through the slow path first stores and then looks at the
 * marks. So either the reader gets the new bytes, or the writer sees the mark, and sends the page to all
 * who have code in it. They drop it before they go on from an interrupt or an instruction that
 * serializes, which is what x86 promises (Intel SDM vol. 3, 9.1.3). A store that had found its tag just
 * before it was taken away may still come: the page's checksum is compared until every vCPU has been out
 * of generated code since.
 *
 * Exclusive sections. Locked instructions whose bytes no atomic operation covers run while all others
 * are out of generated code.
 *
 * @module
 */

import { createGuardedMemory, SharedLock } from "../../../memory/mod.ts";
import { MAX_RAM_PAGES } from "./cpu_memory.ts";
import { Mailbox, S } from "./state.ts";

/** Most vCPUs: a bit each in a word. */
export const MAX_TEAM = 32;

// Words.
const CODE_LOCK = 0;
/** Number of the vCPU that stands for all others, plus 1; or 0. */
const EXCLUSIVE = 1;
const MEMBERS = 16;
const MEMBER_WORDS = 16;
// Of a member.
/** Whether it may touch guest memory, see {@link Where}. */
const WHERE = 0;
/** How often it came out of generated code. */
const TURNS = 1;
/** Pages in its queue; more than fit: all. */
const QUEUED = 2;
const QUEUES = MEMBERS + MEMBER_WORDS * MAX_TEAM;
const QUEUE_WORDS = 256;
const OWNERS = QUEUES + QUEUE_WORDS * MAX_TEAM;

const Where = {
  /** Out of generated code. */
  out: 0,
  /** In generated code, or on its way there or back. */
  inside: 1,
  /** There, but it touches nothing until nobody stands for all. */
  waits: 2,
} as const;

/** How long to wait before a vCPU is asked again to come out of generated code, in ms. */
const ASK_AGAIN_MS = 1;

/** Where things lie in the memory that the vCPUs of a VM share. */
export function teamLayout(): { marks: number; pages: number } {
  const marks = Math.ceil((OWNERS + MAX_RAM_PAGES) / 2) * 8;
  return { marks, pages: Math.ceil((marks + 8 * MAX_RAM_PAGES) / 65536) };
}

/** Makes the shared memory. */
export function createTeamMemory(): WebAssembly.Memory {
  const { pages } = teamLayout();
  return createGuardedMemory(pages);
}

/** The team as one of its vCPUs sees it. */
export class CpuTeam {
  /** What WebAssembly code imports. */
  readonly memory: WebAssembly.Memory;
  readonly #words: Int32Array;
  readonly #marks: BigUint64Array;
  readonly #lock: SharedLock;
  readonly #id: number;
  readonly #own: number;
  /** State words of all vCPUs. */
  readonly #states: readonly Int32Array[];
  /** Takes write tags of a RAM page out of the others' TLBs. */
  readonly #protect: readonly ((ram: number) => void)[];
  /** Pages whose bytes may still change unseen, with the turns of the others when they were decoded. */
  readonly #fresh = new Map<number, Int32Array>();

  /**
   * @param options `cpus`: state memories of all; `protect`: as {@link CpuTeam.mark} needs it, for each
   *   of the others.
   */
  constructor(memory: WebAssembly.Memory, options: {
    id: number;
    cpus: readonly WebAssembly.Memory[];
    protect: readonly ((ram: number) => void)[];
  }) {
    this.memory = memory;
    this.#words = new Int32Array(memory.buffer);
    const { marks } = teamLayout();
    this.#marks = new BigUint64Array(memory.buffer, marks, MAX_RAM_PAGES);
    this.#lock = new SharedLock(this.#words, CODE_LOCK);
    this.#id = options.id;
    this.#own = member(options.id);
    this.#states = options.cpus.map((cpu) => new Int32Array(cpu.buffer));
    this.#protect = options.protect;
  }

  // --- standing still ----------------------------------------------------------------------------

  /** From here on this vCPU may touch guest memory; waits while another stands for all. */
  enter(): void {
    const words = this.#words;
    for (;;) {
      Atomics.store(words, this.#own + WHERE, Where.inside);
      const owner = Atomics.load(words, EXCLUSIVE);
      if (owner === 0) return;
      this.#withdraw(Where.waits);
      Atomics.wait(words, EXCLUSIVE, owner);
    }
  }

  /** From here on this vCPU touches no guest memory. */
  leave(): void {
    this.#withdraw(Where.out);
  }

  #withdraw(where: number): void {
    const words = this.#words;
    Atomics.store(words, this.#own + WHERE, where);
    if (Atomics.load(words, EXCLUSIVE) !== 0) Atomics.notify(words, this.#own + WHERE);
  }

  /** Between two stays in generated code. */
  turn(): void {
    const words = this.#words;
    Atomics.add(words, this.#own + TURNS, 1);
    if (Atomics.load(words, EXCLUSIVE) !== 0) this.enter();
  }

  /** Runs `body` while no other vCPU touches guest memory. */
  exclusively<T>(body: () => T): T {
    const words = this.#words;
    this.#withdraw(Where.waits);
    for (;;) {
      const owner = Atomics.compareExchange(words, EXCLUSIVE, 0, this.#id + 1);
      if (owner === 0) break;
      Atomics.wait(words, EXCLUSIVE, owner);
    }
    try {
      this.#states.forEach((state, id) => {
        if (id === this.#id) return;
        const where = member(id) + WHERE;
        while (Atomics.load(words, where) === Where.inside) {
          Atomics.store(state, S.fuel >>> 2, 0);
          Atomics.wait(words, where, Where.inside, ASK_AGAIN_MS);
        }
      });
      return body();
    } finally {
      Atomics.store(words, EXCLUSIVE, 0);
      Atomics.notify(words, EXCLUSIVE);
      this.enter();
    }
  }

  // --- code --------------------------------------------------------------------------------------

  /**
   * Marks lines of RAM page number `page` as code of this vCPU. What is read from them afterwards does
   * not change without its being told.
   */
  mark(page: number, lines: bigint): void {
    this.#lock.lock();
    const before = Atomics.or(this.#marks, page, lines);
    Atomics.or(this.#words, OWNERS + page, 1 << this.#id);
    if (before === 0n) this.#protect.forEach((protect) => protect(page * 4096));
    this.#lock.unlock();
    const turns = this.#fresh.get(page) ?? new Int32Array(this.#states.length);
    for (let id = 0; id < turns.length; id++) {
      turns[id] = Atomics.load(this.#words, member(id) + TURNS);
    }
    this.#fresh.set(page, turns);
    Atomics.or(this.#states[this.#id] as Int32Array, S.mailbox >>> 2, Mailbox.code);
  }

  /** Whether a store to `lines` of a page hits code of any vCPU. */
  holdsCode(page: number, lines: bigint): boolean {
    return (Atomics.load(this.#marks, page) & lines) !== 0n;
  }

  /** Sends `page`, whose `lines` were stored to, to all others that have code in it. */
  written(page: number, lines: bigint): void {
    const words = this.#words;
    this.#lock.lock();
    if (this.holdsCode(page, lines)) {
      const owners = Atomics.exchange(words, OWNERS + page, 0);
      this.#states.forEach((state, id) => {
        if (id === this.#id || (owners & (1 << id)) === 0) return;
        const queued = Atomics.load(words, member(id) + QUEUED);
        if (queued < QUEUE_WORDS) words[QUEUES + QUEUE_WORDS * id + queued] = page;
        if (queued <= QUEUE_WORDS) Atomics.store(words, member(id) + QUEUED, queued + 1);
        Atomics.or(state, S.mailbox >>> 2, Mailbox.code);
        Atomics.store(state, S.fuel >>> 2, 0);
      });
      // Last: who sees no mark any more finds the others told.
      Atomics.store(this.#marks, page, 0n);
    }
    this.#lock.unlock();
  }

  /**
   * Gives the pages that others wrote, and those that changed unseen, to `drop`; undefined is all pages.
   * `intact` compares a page's checksum.
   */
  renew(
    drop: (page: number | undefined) => void,
    intact: (ram: number) => boolean,
  ): void {
    const words = this.#words;
    const state = this.#states[this.#id] as Int32Array;
    this.#lock.lock();
    Atomics.and(state, S.mailbox >>> 2, ~Mailbox.code);
    const queued = Atomics.exchange(words, this.#own + QUEUED, 0);
    const queue = QUEUES + QUEUE_WORDS * this.#id;
    const pages = words.slice(queue, queue + Math.min(queued, QUEUE_WORDS));
    this.#lock.unlock();
    if (queued > QUEUE_WORDS) drop(undefined);
    else pages.forEach(drop);
    for (const [page, turns] of this.#fresh) {
      const settled = this.#settled(turns);
      if (!intact(page * 4096)) drop(page);
      if (settled) this.#fresh.delete(page);
    }
    if (this.#fresh.size > 0) Atomics.or(state, S.mailbox >>> 2, Mailbox.code);
  }

  /** True where every other vCPU has been out of generated code since `turns`. */
  #settled(turns: Int32Array): boolean {
    return turns.every((then, id) =>
      id === this.#id || Atomics.load(this.#words, member(id) + WHERE) === Where.out ||
      Atomics.load(this.#words, member(id) + TURNS) !== then
    );
  }
}

function member(id: number): number {
  return MEMBERS + MEMBER_WORDS * id;
}
