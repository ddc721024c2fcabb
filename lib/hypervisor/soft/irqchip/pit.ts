import { PIT_HZ } from "./guest_clock.ts";
import { PIT, PIT_CHANNEL_WORDS } from "./layout.ts";

// Words of one counter.
/** 1 to 65536 (10000 in BCD); 0 before the first count was written. */
const COUNT = 0;
/** A count that takes effect when the running period ends (modes 2 and 3), or 0. */
const NEXT_COUNT = 1;
const MODE = 2;
const BCD = 3;
/** 1 low byte, 2 high byte, 3 low then high. */
const ACCESS = 4;
/** Whether the next read or write of a low-then-high pair is the high byte. */
const READ_HIGH = 5;
const WRITE_HIGH = 6;
const WRITE_LOW_BYTE = 7;
/** Bytes of the latched count that are still to be read. */
const LATCHED = 8;
const LATCH = 9;
const STATUS_LATCHED = 10;
const STATUS = 11;
const GATE = 12;
const NULL_COUNT = 13;
/** Whether the counter counts: a count was loaded, and where the mode wants it, it was triggered. */
const RUNNING = 14;
/** Ticks behind that still are to be delivered (counter 0 in periodic modes). */
const BACKLOG = 15;
/** Float64: guest nanoseconds at which the count was loaded. */
const START = 16;
/** Float64: ticks counted when the gate stopped counting, or -1. */
const HELD_TICKS = 18;
/** Float64: guest nanoseconds of the next rising edge of the output, or Infinity (counter 0). */
const DEADLINE = 20;

/** Missed ticks of a periodic timer that are made up for; more are dropped. */
const MAX_BACKLOG = 16;
const TICK_NS = 1e9 / PIT_HZ;
const PORT_B_GATE = 1;
const PORT_B_SPEAKER = 2;

/** Word of the guest-writable bits of port 61h: in the third counter's room. */
const PORT_B = PIT + 3 * PIT_CHANNEL_WORDS;

/** Words that the PIT uses. */
export const PIT_WORDS = 3 * PIT_CHANNEL_WORDS + 2;

function fromBcd(value: number): number {
  return (value & 15) + 10 * ((value >> 4) & 15) + 100 * ((value >> 8) & 15) +
    1000 * ((value >> 12) & 15);
}

function toBcd(value: number): number {
  return (value % 10) | ((Math.floor(value / 10) % 10) << 4) |
    ((Math.floor(value / 100) % 10) << 8) | ((Math.floor(value / 1000) % 10) << 12);
}

/**
 * The 8254 programmable interval timer and port 61h (Intel 8254 data sheet; NMI status and control of
 * PCI chipsets). Counters are never stepped: their values follow from guest time. Counter 0 drives the
 * timer interrupt, counter 2's gate and output are in port 61h. Not locked: its chip does that.
 */
export class Pit {
  readonly #w: Int32Array;
  readonly #f: Float64Array;
  readonly #onTick: () => void;

  /**
   * @param words the shared state.
   * @param onTick a rising edge of counter 0's output.
   */
  constructor(words: Int32Array, onTick: () => void) {
    this.#w = words;
    this.#f = new Float64Array(words.buffer, 0, words.buffer.byteLength >> 3);
    this.#onTick = onTick;
  }

  /** Power-on state: nothing counts until the guest programs it. */
  reset(): void {
    this.#w.fill(0, PIT, PIT + PIT_WORDS);
    for (let n = 0; n < 3; n++) {
      const c = PIT + n * PIT_CHANNEL_WORDS;
      this.#w[c + MODE] = 3;
      this.#w[c + ACCESS] = 3;
      this.#w[c + GATE] = n === 2 ? 0 : 1;
      this.#w[c + NULL_COUNT] = 1;
      this.#f[(c + HELD_TICKS) >> 1] = -1;
      this.#f[(c + DEADLINE) >> 1] = Infinity;
    }
  }

  /** Guest time of counter 0's next edge, or Infinity. */
  get deadlineNs(): number {
    return this.#f[(PIT + DEADLINE) >> 1] as number;
  }

  /** Delivers the edge that is due. Missed ones follow at a quicker pace, a bounded number of them. */
  runTimer(nowNs: number): void {
    const w = this.#w;
    const f = this.#f;
    const deadline = f[(PIT + DEADLINE) >> 1] as number;
    if (nowNs < deadline) return;
    const mode = w[PIT + MODE] as number;
    if (mode !== 2 && mode !== 3) {
      f[(PIT + DEADLINE) >> 1] = Infinity;
      this.#onTick();
      return;
    }
    this.#roll(PIT, nowNs);
    const period = (w[PIT + COUNT] as number) * TICK_NS;
    const start = f[(PIT + START) >> 1] as number;
    const next = start + (Math.floor((nowNs - start) / period) + 1) * period;
    const missed = Math.max(0, Math.floor((nowNs - deadline) / period));
    let backlog = (w[PIT + BACKLOG] as number) + missed;
    if (backlog > MAX_BACKLOG) backlog = MAX_BACKLOG;
    if (backlog > 0) {
      backlog--;
      const soon = nowNs + period / 4;
      // The extra tick must not swallow the regular one.
      if (soon < next) {
        f[(PIT + DEADLINE) >> 1] = soon;
      } else {
        f[(PIT + DEADLINE) >> 1] = next;
        backlog++;
      }
    } else {
      f[(PIT + DEADLINE) >> 1] = next;
    }
    w[PIT + BACKLOG] = backlog;
    this.#onTick();
  }

  /** Reads port 40h to 43h. */
  read(port: number, nowNs: number): number {
    if (port === 0x43) return 0xff;
    const w = this.#w;
    const c = PIT + (port & 3) * PIT_CHANNEL_WORDS;
    if (w[c + STATUS_LATCHED] !== 0) {
      w[c + STATUS_LATCHED] = 0;
      return w[c + STATUS] as number;
    }
    const access = w[c + ACCESS] as number;
    const latched = w[c + LATCHED] as number;
    const value = latched !== 0 ? w[c + LATCH] as number : this.#value(c, nowNs);
    let high = access === 2;
    if (access === 3) {
      high = w[c + READ_HIGH] !== 0;
      w[c + READ_HIGH] = high ? 0 : 1;
    }
    if (latched !== 0) w[c + LATCHED] = latched - 1;
    return high ? value >> 8 : value & 0xff;
  }

  /** Writes port 40h to 43h. */
  write(port: number, value: number, nowNs: number): void {
    const w = this.#w;
    if (port === 0x43) {
      this.#control(value, nowNs);
      return;
    }
    const c = PIT + (port & 3) * PIT_CHANNEL_WORDS;
    switch (w[c + ACCESS]) {
      case 1:
        this.#load(c, value, nowNs);
        break;
      case 2:
        this.#load(c, value << 8, nowNs);
        break;
      default:
        if (w[c + WRITE_HIGH] !== 0) {
          w[c + WRITE_HIGH] = 0;
          this.#load(c, (w[c + WRITE_LOW_BYTE] as number) | (value << 8), nowNs);
        } else {
          w[c + WRITE_HIGH] = 1;
          w[c + WRITE_LOW_BYTE] = value;
          // In mode 0 the first byte stops the counter and lowers its output.
          if (w[c + MODE] === 0) this.#stop(c);
        }
    }
  }

  /** Reads port 61h: gate, speaker, refresh toggle, output of counter 2. */
  readPortB(nowNs: number): number {
    const refresh = (Math.floor(nowNs / 15_085) & 1) << 4;
    const out = this.#output(PIT + 2 * PIT_CHANNEL_WORDS, nowNs) << 5;
    return (this.#w[PORT_B] as number) | refresh | out;
  }

  /** Writes port 61h. */
  writePortB(value: number, nowNs: number): void {
    this.#w[PORT_B] = value & (PORT_B_GATE | PORT_B_SPEAKER);
    this.#setGate(PIT + 2 * PIT_CHANNEL_WORDS, value & PORT_B_GATE, nowNs);
  }

  #control(value: number, nowNs: number): void {
    const w = this.#w;
    const select = value >> 6;
    if (select === 3) {
      for (let n = 0; n < 3; n++) {
        if ((value & (2 << n)) === 0) continue;
        const c = PIT + n * PIT_CHANNEL_WORDS;
        if ((value & 0x20) === 0) this.#latchCount(c, nowNs);
        if ((value & 0x10) === 0 && w[c + STATUS_LATCHED] === 0) {
          w[c + STATUS_LATCHED] = 1;
          w[c + STATUS] = (this.#output(c, nowNs) << 7) | ((w[c + NULL_COUNT] as number) << 6) |
            ((w[c + ACCESS] as number) << 4) | ((w[c + MODE] as number) << 1) |
            (w[c + BCD] as number);
        }
      }
      return;
    }
    const c = PIT + select * PIT_CHANNEL_WORDS;
    const access = (value >> 4) & 3;
    if (access === 0) {
      this.#latchCount(c, nowNs);
      return;
    }
    const mode = (value >> 1) & 7;
    w[c + MODE] = mode > 5 ? mode - 4 : mode;
    w[c + BCD] = value & 1;
    w[c + ACCESS] = access;
    w[c + READ_HIGH] = 0;
    w[c + WRITE_HIGH] = 0;
    w[c + LATCHED] = 0;
    w[c + STATUS_LATCHED] = 0;
    w[c + NULL_COUNT] = 1;
    w[c + NEXT_COUNT] = 0;
    this.#stop(c);
  }

  #latchCount(c: number, nowNs: number): void {
    const w = this.#w;
    if (w[c + LATCHED] !== 0) return;
    w[c + LATCH] = this.#value(c, nowNs);
    w[c + LATCHED] = w[c + ACCESS] === 3 ? 2 : 1;
  }

  #stop(c: number): void {
    this.#w[c + RUNNING] = 0;
    this.#w[c + BACKLOG] = 0;
    this.#f[(c + HELD_TICKS) >> 1] = -1;
    this.#f[(c + DEADLINE) >> 1] = Infinity;
  }

  #load(c: number, written: number, nowNs: number): void {
    const w = this.#w;
    const value = w[c + BCD] !== 0 ? fromBcd(written) : written;
    const count = value !== 0 ? value : w[c + BCD] !== 0 ? 10_000 : 65_536;
    const mode = w[c + MODE] as number;
    if ((mode === 2 || mode === 3) && w[c + RUNNING] !== 0 && this.#ticks(c, nowNs) > 0) {
      this.#roll(c, nowNs);
      w[c + NEXT_COUNT] = count;
      this.#schedule(c, nowNs);
      return;
    }
    w[c + COUNT] = count;
    // Modes 1 and 5 take the count at the next trigger; one that runs goes on.
    if (mode === 1 || mode === 5) return;
    w[c + NULL_COUNT] = 0;
    this.#start(c, nowNs);
  }

  #start(c: number, nowNs: number): void {
    const w = this.#w;
    w[c + RUNNING] = 1;
    w[c + BACKLOG] = 0;
    this.#f[(c + START) >> 1] = nowNs;
    this.#f[(c + HELD_TICKS) >> 1] = w[c + GATE] !== 0 ? -1 : 0;
    this.#schedule(c, nowNs);
  }

  #setGate(c: number, gate: number, nowNs: number): void {
    const w = this.#w;
    if (w[c + GATE] === gate) return;
    const mode = w[c + MODE] as number;
    const held = (c + HELD_TICKS) >> 1;
    if (mode === 1 || mode === 5) {
      w[c + GATE] = gate;
      if (gate !== 0 && w[c + COUNT] !== 0) {
        w[c + NULL_COUNT] = 0;
        this.#start(c, nowNs);
      }
      return;
    }
    if (gate === 0) {
      this.#f[held] = this.#ticks(c, nowNs);
      w[c + GATE] = 0;
      return;
    }
    w[c + GATE] = 1;
    if (w[c + RUNNING] === 0) return;
    if (mode === 2 || mode === 3) {
      this.#start(c, nowNs);
    } else {
      const ticks = this.#f[held] as number;
      this.#f[held] = -1;
      this.#f[(c + START) >> 1] = nowNs - ticks * TICK_NS;
    }
  }

  /** Ticks since the count was loaded. */
  #ticks(c: number, nowNs: number): number {
    const held = this.#f[(c + HELD_TICKS) >> 1] as number;
    if (held >= 0) return held;
    const elapsed = nowNs - (this.#f[(c + START) >> 1] as number);
    // A whole tick must not be lost to rounding of its length.
    return elapsed <= 0 ? 0 : Math.floor(elapsed * (PIT_HZ / 1e9) + 1e-6);
  }

  /** Lets a count that was written during a period take effect if that period is over. */
  #roll(c: number, nowNs: number): void {
    const w = this.#w;
    const next = w[c + NEXT_COUNT] as number;
    if (next === 0) return;
    const count = w[c + COUNT] as number;
    const ticks = this.#ticks(c, nowNs);
    if (ticks < count) return;
    // It was written in the period that began at START (`#load` rolls START there).
    this.#f[(c + START) >> 1] = (this.#f[(c + START) >> 1] as number) + count * TICK_NS;
    w[c + COUNT] = next;
    w[c + NEXT_COUNT] = 0;
    w[c + NULL_COUNT] = 0;
  }

  /** Sets counter 0's deadline; moves the start of a periodic one into the running period. */
  #schedule(c: number, nowNs: number): void {
    const w = this.#w;
    const f = this.#f;
    const start = (c + START) >> 1;
    const mode = w[c + MODE] as number;
    const length = (w[c + COUNT] as number) * TICK_NS;
    if (mode === 2 || mode === 3) {
      const periods = Math.floor((nowNs - (f[start] as number)) / length);
      if (periods > 0) f[start] = (f[start] as number) + periods * length;
    }
    if (c !== PIT) return;
    // Rising edges: end of the period in modes 2 and 3, terminal count in 0 and 1, and one clock
    // after it in the strobe modes.
    f[(c + DEADLINE) >> 1] = (f[start] as number) + length + (mode >= 4 ? TICK_NS : 0);
  }

  /** What the counter reads. */
  #value(c: number, nowNs: number): number {
    const w = this.#w;
    this.#roll(c, nowNs);
    const count = w[c + COUNT] as number;
    if (w[c + RUNNING] === 0) return (w[c + BCD] !== 0 ? toBcd(count) : count) & 0xffff;
    const ticks = this.#ticks(c, nowNs);
    const modulus = w[c + BCD] !== 0 ? 10_000 : 65_536;
    let value: number;
    switch (w[c + MODE]) {
      case 2:
        value = count - ticks % count;
        break;
      case 3:
        value = count - (2 * ticks) % count;
        break;
      default:
        value = (((count - ticks) % modulus) + modulus) % modulus;
    }
    return (w[c + BCD] !== 0 ? toBcd(value) : value) & 0xffff;
  }

  /** Level of the output: 0 or 1. */
  #output(c: number, nowNs: number): number {
    const w = this.#w;
    const mode = w[c + MODE] as number;
    this.#roll(c, nowNs);
    if (w[c + RUNNING] === 0) return mode === 0 ? 0 : 1;
    const count = w[c + COUNT] as number;
    const ticks = this.#ticks(c, nowNs);
    switch (mode) {
      case 0:
      case 1:
        return ticks >= count ? 1 : 0;
      case 2:
        return w[c + GATE] === 0 || ticks % count !== count - 1 ? 1 : 0;
      case 3:
        return w[c + GATE] === 0 || ticks % count < (count + 1) >> 1 ? 1 : 0;
      default:
        return ticks === count ? 0 : 1;
    }
  }
}
