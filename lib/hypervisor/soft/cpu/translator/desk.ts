/**
 * Shared memory through which vCPUs have hot code translated by another thread: each asks in a ring of
 * its own and finds the modules in another one. Asking and looking take no lock and allocate nothing.
 *
 * What is asked for is a hint, and so is everything that the other thread reads of a vCPU's state: what
 * a unit stands for are the bytes that it was made from, which are compared when it is installed.
 *
 * @module
 */

/** What becomes of requests. */
export enum DeskState {
  /** Nobody serves yet: vCPUs interpret, and translate themselves where that takes too long. */
  Closed,
  Open,
  /** Nobody serves any more. */
  Lost,
}

/** Slots of the table that regions may be in. */
const TABLE_SLOTS = 1 << 16;
/** Requests of a vCPU that may wait. */
const REQUESTS = 16;
const REQUEST_WORDS = 128;
/** Words of answers; this and the former are powers of two, as counts of them wrap around. */
const RESULT_WORDS = 1 << 17;
/** Longest answer, in words. */
export const MAX_ANSWER_WORDS: number = RESULT_WORDS / 4;

/** How long is waited where something is waited for, in ms. */
const WAIT_MS = 60_000;

/** Units of a file whose use is noted. */
const PLACES = 1 << 15;

// Words of the desk.
const STATE = 0;
const WAKE = 1;
const END = 2;
const USED = 16;
const VCPUS = USED + PLACES / 4;
// Words of a vCPU.
/** Requests put and taken so far. */
const ASKED = 0;
const SERVED = 1;
/** Words of answers put and taken so far. */
const ANSWERED = 2;
const TAKEN = 3;
const REQUEST_RING = 16;
const LARGE = REQUEST_RING + REQUESTS * REQUEST_WORDS;
const ANSWER_RING = LARGE + TABLE_SLOTS / 4;
const VCPU_WORDS = ANSWER_RING + RESULT_WORDS;

/** Marks the rest of the ring as unused. */
const SKIP = -1;

/** Words of a request: {@link Ask}, then the offsets in the page where the guest was seen. */
const ASK_WORDS = 8;

/** Offsets of a request that fit. */
const MAX_WARM = REQUEST_WORDS - ASK_WORDS;

/** Words in front of an answer. */
export const AnswerHead = {
  wide: 0,
  refused: 1,
  instructions: 2,
  microseconds: 3,
  words: 4,
} as const;

/** What is to be translated. */
export interface Ask {
  /** Where the page is in RAM, in pages. */
  pageNumber: number;
  /** Address of its page map in the vCPU's state memory. */
  map: number;
  /** The hot place. */
  offset: number;
  /** One region over several pages. */
  wide: boolean;
  /** Linear address of the page, low and high half. */
  linearLow: number;
  linearHigh: number;
  /** CR3, low and high half. */
  rootLow: number;
  rootHigh: number;
}

/** For {@link TranslationDesk.attach}. */
export interface DeskHandle {
  readonly words: SharedArrayBuffer;
  readonly vcpuCount: number;
}

/** What all sides know of. */
export class TranslationDesk {
  readonly vcpuCount: number;
  /** By place in the file of translations: whether a vCPU has that unit, see `Used`. */
  readonly used: Uint8Array<SharedArrayBuffer>;
  readonly #words: Int32Array<SharedArrayBuffer>;

  private constructor({ words, vcpuCount }: DeskHandle) {
    this.#words = new Int32Array(words);
    this.vcpuCount = vcpuCount;
    this.used = new Uint8Array(words, 4 * USED, PLACES);
  }

  /** Makes one; memory is taken where it is used. */
  static create(vcpuCount: number): TranslationDesk {
    const words = new SharedArrayBuffer(4 * (VCPUS + VCPU_WORDS * vcpuCount));
    return new TranslationDesk({ words, vcpuCount });
  }

  /** The one behind `handle`. */
  static attach(handle: DeskHandle): TranslationDesk {
    return new TranslationDesk(handle);
  }

  /** For other workers. */
  handle(): DeskHandle {
    return { words: this.#words.buffer, vcpuCount: this.vcpuCount };
  }

  /** Whether somebody serves. */
  get state(): DeskState {
    return Atomics.load(this.#words, STATE) as DeskState;
  }

  /** Says that somebody serves from now on, unless they are lost. */
  open(): void {
    Atomics.compareExchange(this.#words, STATE, DeskState.Closed, DeskState.Open);
    Atomics.notify(this.#words, STATE);
  }

  /** Waits until somebody serves. */
  awaitOpen(): void {
    Atomics.wait(this.#words, STATE, DeskState.Closed, WAIT_MS);
  }

  /** Says that nobody serves any more: vCPUs translate themselves again. */
  lose(): void {
    Atomics.store(this.#words, STATE, DeskState.Lost);
  }

  /** Lets who serves end. */
  end(): void {
    Atomics.store(this.#words, END, 1);
    this.wake();
  }

  /** True where who serves is to end. */
  get ending(): boolean {
    return Atomics.load(this.#words, END) !== 0;
  }

  /** Lets who serves look for requests. */
  wake(): void {
    Atomics.add(this.#words, WAKE, 1);
    Atomics.notify(this.#words, WAKE);
  }

  /** To be given to {@link waitFor}. */
  get wakes(): number {
    return Atomics.load(this.#words, WAKE);
  }

  /** Waits until it was woken since `wakes` was read; false where it was not in `timeoutMs`. */
  waitFor(wakes: number, timeoutMs: number): boolean {
    return Atomics.wait(this.#words, WAKE, wakes, timeoutMs) !== "timed-out";
  }

  /** The part of vCPU `id`. */
  of(id: number): DeskPart {
    return new DeskPart(this, this.#words.subarray(VCPUS + VCPU_WORDS * id));
  }
}

/** What one vCPU and who serves it share. */
export class DeskPart {
  /** By slot: 1 where a region is there that no other is to have the code of. */
  readonly large: Uint8Array<SharedArrayBuffer>;
  readonly #desk: TranslationDesk;
  readonly #words: Int32Array<SharedArrayBuffer>;

  constructor(desk: TranslationDesk, words: Int32Array<SharedArrayBuffer>) {
    this.#desk = desk;
    this.#words = words;
    this.large = new Uint8Array(words.buffer, words.byteOffset + 4 * LARGE, TABLE_SLOTS);
  }

  /** {@link TranslationDesk.used}. */
  get used(): Uint8Array<SharedArrayBuffer> {
    return this.#desk.used;
  }

  /** Whether somebody serves. */
  get state(): DeskState {
    return this.#desk.state;
  }

  /** Says that nobody serves any more. */
  lose(): void {
    this.#desk.lose();
  }

  /** True where another request may be put. */
  get hasRoom(): boolean {
    const words = this.#words;
    return ((words[ASKED] as number) - Atomics.load(words, SERVED) | 0) < REQUESTS;
  }

  /** Puts a request; there is room. The offsets where the guest was seen come from `warm`, as many as fit. */
  ask(ask: Ask, warm: Iterable<number>): void {
    const words = this.#words;
    const asked = words[ASKED] as number;
    const at = REQUEST_RING + (asked & (REQUESTS - 1)) * REQUEST_WORDS;
    words[at] = ask.pageNumber;
    words[at + 1] = ask.map;
    words[at + 2] = ask.offset | (ask.wide ? 1 << 16 : 0);
    words[at + 3] = ask.linearLow;
    words[at + 4] = ask.linearHigh;
    words[at + 5] = ask.rootLow;
    words[at + 6] = ask.rootHigh;
    let count = 0;
    for (const offset of warm) {
      if (count === MAX_WARM) break;
      words[at + ASK_WORDS + count++] = offset;
    }
    words[at + 7] = count;
    Atomics.store(words, ASKED, asked + 1);
    this.#desk.wake();
  }

  /**
   * For who serves: reads the next request into `ask` and the offsets into `warm`; false where there is none,
   * or no room for an answer.
   */
  next(ask: Ask, warm: number[]): boolean {
    const words = this.#words;
    const served = words[SERVED] as number;
    if (Atomics.load(words, ASKED) === served || !this.#hasRoomForAnswer) return false;
    const at = REQUEST_RING + (served & (REQUESTS - 1)) * REQUEST_WORDS;
    const get = (i: number) => words[at + i] as number;
    ask.pageNumber = get(0);
    ask.map = get(1);
    ask.offset = get(2) & 0xfff;
    ask.wide = get(2) >> 16 !== 0;
    ask.linearLow = get(3);
    ask.linearHigh = get(4);
    ask.rootLow = get(5);
    ask.rootHigh = get(6);
    warm.length = 0;
    const count = Math.min(get(7), MAX_WARM);
    for (let i = 0; i < count; i++) warm.push(get(ASK_WORDS + i) & 0xfff);
    return true;
  }

  /** Room for the longest answer and what is passed over at the end of the ring. */
  get #hasRoomForAnswer(): boolean {
    const words = this.#words;
    const used = (words[ANSWERED] as number) - Atomics.load(words, TAKEN) | 0;
    return used <= RESULT_WORDS - 2 * MAX_ANSWER_WORDS;
  }

  /** For who serves: answers the request that {@link next} read with at most {@link MAX_ANSWER_WORDS}. */
  answer(head: Int32Array, body: Uint32Array): void {
    const words = this.#words;
    const length = 1 + head.length + body.length;
    let answered = words[ANSWERED] as number;
    const rest = RESULT_WORDS - (answered & (RESULT_WORDS - 1));
    if (rest < length) {
      words[ANSWER_RING + (answered & (RESULT_WORDS - 1))] = SKIP;
      answered += rest;
    }
    const at = ANSWER_RING + (answered & (RESULT_WORDS - 1));
    words[at] = length;
    words.set(head, at + 1);
    words.set(body, at + 1 + head.length);
    Atomics.store(words, ANSWERED, answered + length);
    Atomics.notify(words, ANSWERED);
    Atomics.store(words, SERVED, (words[SERVED] as number) + 1);
  }

  /** Waits until somebody serves. */
  awaitOpen(): void {
    this.#desk.awaitOpen();
  }

  /** Waits for an answer. */
  awaitAnswer(): void {
    const words = this.#words;
    Atomics.wait(words, ANSWERED, words[TAKEN] as number, WAIT_MS);
  }

  /** True where {@link take} finds an answer. */
  get hasAnswer(): boolean {
    const words = this.#words;
    return Atomics.load(words, ANSWERED) !== words[TAKEN];
  }

  /** How far answers were taken: words since the beginning. */
  get taken(): number {
    return Atomics.load(this.#words, TAKEN);
  }

  /** How far they were put. */
  get answered(): number {
    return Atomics.load(this.#words, ANSWERED);
  }

  /** Takes the next answer, in the order of the requests: its head into `head`, its body is returned. */
  take(head: Int32Array): Uint32Array<ArrayBuffer> {
    const words = this.#words;
    let taken = words[TAKEN] as number;
    if (words[ANSWER_RING + (taken & (RESULT_WORDS - 1))] === SKIP) {
      taken += RESULT_WORDS - (taken & (RESULT_WORDS - 1));
    }
    const at = ANSWER_RING + (taken & (RESULT_WORDS - 1));
    const length = words[at] as number;
    const body = at + 1 + head.length;
    head.set(words.subarray(at + 1, body));
    const result = new Uint32Array(length - 1 - head.length);
    result.set(words.subarray(body, at + length));
    Atomics.store(words, TAKEN, taken + length);
    // Who serves may have waited for room.
    if (Atomics.load(words, ASKED) !== Atomics.load(words, SERVED)) this.#desk.wake();
    return result;
  }
}
