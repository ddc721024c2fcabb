import { RTC_CENTURY_REGISTER } from "../../boot/mod.ts";
import { SharedLock } from "../../memory/mod.ts";
import { DAY_SECONDS, daysOfDate, packedDate, weekdayOf } from "./calendar.ts";
import type { IrqLine } from "./wiring.ts";

// Words.
const LOCK = 0;
const INDEX = 1;
const LINE = 2;
/** Changes when the guest made a new timer necessary. */
const TIMER_EVENT = 3;
/** Float64: seconds by which the guest's time is ahead of the host's. */
const OFFSET = 4;
/** Float64: guest time in seconds up to which interrupt flags were computed. */
const SEEN = 6;
/** Float64: guest time in seconds of the last periodic interrupt. */
const PERIODIC = 8;
const CMOS = 16;
const CMOS_SIZE = 128;

/** Words that the clock takes in shared memory; they begin at an even word. */
export const RTC_WORDS = CMOS + CMOS_SIZE;

const SECONDS = 0;
const SECONDS_ALARM = 1;
const MINUTES = 2;
const MINUTES_ALARM = 3;
const HOURS = 4;
const HOURS_ALARM = 5;
const WEEKDAY = 6;
const DAY = 7;
const MONTH = 8;
const YEAR = 9;
const A = 10;
const B = 11;
const C = 12;
const D = 13;

const A_UPDATING = 0x80;
const B_SET = 0x80;
const B_PERIODIC = 0x40;
const B_ALARM = 0x20;
const B_UPDATE = 0x10;
const B_BINARY = 0x04;
const B_24H = 0x02;
const C_IRQ = 0x80;
const D_VALID = 0x80;

/** The update flag rises this long before the registers change (MC146818 data sheet, tBUC). */
const UPDATE_WARNING_SECONDS = 244e-6;

/**
 * MC146818 real-time clock with CMOS memory, in UTC. Registers show the host's time plus what the guest
 * set it ahead; nothing ticks. Interrupts come from {@link runTimer}, which the machine calls at
 * {@link nextDeadlineSeconds}; the flags are right whenever they are read.
 */
export class Rtc {
  readonly #w: Int32Array<SharedArrayBuffer>;
  readonly #f: Float64Array<SharedArrayBuffer>;
  readonly #lock: SharedLock;
  readonly #gsi: number;
  readonly #irq: IrqLine;
  readonly #now: () => number;

  /**
   * @param words {@link RTC_WORDS} shared words.
   * @param wiring what it is connected to; `nowNs` is host time since 1970.
   */
  constructor(
    words: Int32Array<SharedArrayBuffer>,
    wiring: { readonly gsi: number; readonly irq: IrqLine; readonly nowNs: () => number },
  ) {
    this.#w = words;
    this.#f = new Float64Array(words.buffer, words.byteOffset, words.length >> 1);
    this.#lock = new SharedLock(words, LOCK);
    this.#gsi = wiring.gsi;
    this.#irq = wiring.irq;
    this.#now = wiring.nowNs;
  }

  /**
   * Power-on state, before any worker uses it.
   * @param memory sizes of RAM below and above 4 GiB, in bytes, for firmware that asks.
   */
  reset(memory: { readonly lowBytes: number; readonly highBytes: number }): void {
    const w = this.#w;
    w.fill(0);
    w[CMOS + A] = 0x26;
    w[CMOS + B] = B_24H;
    this.#f[SEEN >> 1] = this.#now() / 1e9;
    const low = memory.lowBytes;
    this.#set16(0x15, 640);
    const extended = Math.min(Math.max(0, low - 0x10_0000) / 1024, 0xffff);
    this.#set16(0x17, extended);
    this.#set16(0x30, extended);
    this.#set16(0x34, Math.min(Math.max(0, low - 0x100_0000) / 0x1_0000, 0xffff));
    const high = Math.floor(memory.highBytes / 0x1_0000);
    this.#set16(0x5b, high & 0xffff);
    w[CMOS + 0x5d] = Math.floor(high / 0x1_0000) & 0xff;
    w[CMOS + 0x14] = 0x06; // Equipment: a coprocessor, a pointing device by the books.
  }

  /** Shared words and index of a counter that changes when {@link nextDeadlineSeconds} may be sooner. */
  get timerEvent(): { readonly words: Int32Array<SharedArrayBuffer>; readonly index: number } {
    return { words: this.#w, index: TIMER_EVENT };
  }

  /** Writes port 70h. Bit 7 masks NMI, of which there is none here. */
  writeIndex(value: number): void {
    Atomics.store(this.#w, INDEX, value & 0x7f);
  }

  /** Reads port 71h. */
  readData(): number {
    this.#lock.lock();
    try {
      return this.#read(this.#w[INDEX] as number, this.#guestSeconds());
    } finally {
      this.#lock.unlock();
    }
  }

  /** Writes port 71h. */
  writeData(value: number): void {
    this.#lock.lock();
    try {
      this.#write(this.#w[INDEX] as number, value, this.#guestSeconds());
    } finally {
      this.#lock.unlock();
    }
  }

  /** Raises the interrupts that are due. */
  runTimer(): void {
    this.#lock.lock();
    try {
      this.#advance(this.#guestSeconds());
      this.#update();
    } finally {
      this.#lock.unlock();
    }
  }

  /** Seconds from now to the next enabled interrupt, or Infinity. */
  nextDeadlineSeconds(): number {
    const w = this.#w;
    this.#lock.lock();
    try {
      const control = w[CMOS + B] as number;
      // One that was raised and not taken needs no other.
      if (w[LINE] !== 0) return Infinity;
      const now = this.#guestSeconds();
      let next = Infinity;
      if ((control & B_SET) === 0) {
        if ((control & B_UPDATE) !== 0) next = Math.floor(now) + 1;
        if ((control & B_ALARM) !== 0) next = Math.min(next, this.#nextAlarm(Math.floor(now)));
      }
      const period = this.#period();
      if ((control & B_PERIODIC) !== 0 && period > 0) {
        next = Math.min(next, (this.#f[PERIODIC >> 1] as number) + period);
      }
      return next === Infinity ? Infinity : Math.max(0, next - now);
    } finally {
      this.#lock.unlock();
    }
  }

  #guestSeconds(): number {
    return this.#now() / 1e9 + (this.#f[OFFSET >> 1] as number);
  }

  #set16(register: number, value: number): void {
    this.#w[CMOS + register] = value & 0xff;
    this.#w[CMOS + register + 1] = value >> 8 & 0xff;
  }

  #read(register: number, now: number): number {
    const w = this.#w;
    switch (register) {
      case SECONDS:
      case MINUTES:
      case HOURS:
      case WEEKDAY:
      case DAY:
      case MONTH:
      case YEAR:
      case RTC_CENTURY_REGISTER:
        if (((w[CMOS + B] as number) & B_SET) === 0) this.#showTime(now);
        return w[CMOS + register] as number;
      case A: {
        const updating = ((w[CMOS + B] as number) & B_SET) === 0 &&
          Math.floor(now) + 1 - now <= UPDATE_WARNING_SECONDS;
        return (w[CMOS + A] as number) | (updating ? A_UPDATING : 0);
      }
      case C: {
        this.#advance(now);
        this.#update();
        const flags = w[CMOS + C] as number;
        w[CMOS + C] = 0;
        this.#update();
        // With the line down again, the next interrupt needs its timer.
        if (flags !== 0) this.#signalTimer();
        return flags;
      }
      case D:
        return D_VALID;
      default:
        return w[CMOS + register] as number;
    }
  }

  #write(register: number, value: number, now: number): void {
    const w = this.#w;
    switch (register) {
      case SECONDS:
      case MINUTES:
      case HOURS:
      case WEEKDAY:
      case DAY:
      case MONTH:
      case YEAR:
      case RTC_CENTURY_REGISTER:
        if (((w[CMOS + B] as number) & B_SET) !== 0) {
          w[CMOS + register] = value;
        } else {
          this.#showTime(now);
          w[CMOS + register] = value;
          this.#takeTime(now);
        }
        break;
      case SECONDS_ALARM:
      case MINUTES_ALARM:
      case HOURS_ALARM:
        this.#advance(now);
        w[CMOS + register] = value;
        this.#signalTimer();
        break;
      case A:
        this.#advance(now);
        w[CMOS + A] = value & 0x7f;
        this.#f[PERIODIC >> 1] = now;
        this.#signalTimer();
        break;
      case B:
        this.#writeB(value, now);
        break;
      case C:
      case D:
        break;
      default:
        w[CMOS + register] = value;
    }
  }

  #writeB(value: number, now: number): void {
    const w = this.#w;
    const before = w[CMOS + B] as number;
    this.#advance(now);
    if ((before & B_SET) === 0 && (value & B_SET) !== 0) {
      this.#showTime(now);
      value &= ~B_UPDATE; // Setting SET clears the update interrupt enable.
    }
    if ((before & B_SET) !== 0 && (value & B_SET) === 0) {
      w[CMOS + B] = value;
      this.#takeTime(now);
    }
    if (((before ^ value) & value & B_PERIODIC) !== 0) this.#f[PERIODIC >> 1] = now;
    w[CMOS + B] = value;
    this.#update();
    this.#signalTimer();
  }

  #encode(value: number): number {
    return ((this.#w[CMOS + B] as number) & B_BINARY) !== 0
      ? value
      : Math.floor(value / 10) << 4 | value % 10;
  }

  #decode(value: number): number {
    return ((this.#w[CMOS + B] as number) & B_BINARY) !== 0
      ? value
      : (value >> 4) * 10 + (value & 15);
  }

  /** Puts the time into the registers. */
  #showTime(now: number): void {
    const w = this.#w;
    const whole = Math.floor(now);
    const days = Math.floor(whole / DAY_SECONDS);
    const second = whole - days * DAY_SECONDS;
    const hour = Math.floor(second / 3600);
    const date = packedDate(days);
    const year = date >> 9;
    w[CMOS + SECONDS] = this.#encode(second % 60);
    w[CMOS + MINUTES] = this.#encode(Math.floor(second / 60) % 60);
    if (((w[CMOS + B] as number) & B_24H) !== 0) {
      w[CMOS + HOURS] = this.#encode(hour);
    } else {
      w[CMOS + HOURS] = this.#encode((hour + 11) % 12 + 1) | (hour >= 12 ? 0x80 : 0);
    }
    w[CMOS + WEEKDAY] = weekdayOf(days);
    w[CMOS + DAY] = this.#encode(date & 31);
    w[CMOS + MONTH] = this.#encode(date >> 5 & 15);
    w[CMOS + YEAR] = this.#encode(year % 100);
    w[CMOS + RTC_CENTURY_REGISTER] = this.#encode(Math.floor(year / 100) % 100);
  }

  #decodeHour(value: number): number {
    if (((this.#w[CMOS + B] as number) & B_24H) !== 0) return this.#decode(value);
    return this.#decode(value & 0x7f) % 12 + ((value & 0x80) !== 0 ? 12 : 0);
  }

  /** Makes the time in the registers the guest's time. */
  #takeTime(now: number): void {
    const w = this.#w;
    const f = this.#f;
    const year = this.#decode(w[CMOS + RTC_CENTURY_REGISTER] as number) * 100 +
      this.#decode(w[CMOS + YEAR] as number);
    const days = daysOfDate(
      year,
      this.#decode(w[CMOS + MONTH] as number),
      this.#decode(w[CMOS + DAY] as number),
    );
    const seconds = days * DAY_SECONDS + this.#decodeHour(w[CMOS + HOURS] as number) * 3600 +
      this.#decode(w[CMOS + MINUTES] as number) * 60 + this.#decode(w[CMOS + SECONDS] as number);
    const ahead = seconds - Math.floor(now);
    f[OFFSET >> 1] = (f[OFFSET >> 1] as number) + ahead;
    f[SEEN >> 1] = now + ahead;
    f[PERIODIC >> 1] = (f[PERIODIC >> 1] as number) + ahead;
    this.#signalTimer();
  }

  /** Period of the periodic interrupt in seconds, 0 when off (divider chain reset, rate 0). */
  #period(): number {
    const control = this.#w[CMOS + A] as number;
    const rate = control & 15;
    if (rate === 0 || (control & 0x60) === 0x60) return 0;
    return 2 ** ((rate <= 2 ? rate + 7 : rate) - 1) / 32_768;
  }

  /** Sets the flags of what happened since the last time. */
  #advance(now: number): void {
    const w = this.#w;
    const f = this.#f;
    let flags = w[CMOS + C] as number;
    const seen = Math.floor(f[SEEN >> 1] as number);
    if (((w[CMOS + B] as number) & B_SET) === 0 && Math.floor(now) > seen) {
      flags |= B_UPDATE;
      if (this.#nextAlarm(seen) <= now) flags |= B_ALARM;
    }
    f[SEEN >> 1] = now;
    const period = this.#period();
    if (period > 0) {
      const last = f[PERIODIC >> 1] as number;
      const periods = Math.floor((now - last) / period);
      if (periods > 0) {
        flags |= B_PERIODIC;
        f[PERIODIC >> 1] = last + periods * period;
      }
    }
    w[CMOS + C] = flags;
  }

  /** The first second after `after` that matches the alarm registers, or Infinity. */
  #nextAlarm(after: number): number {
    const w = this.#w;
    const hour = w[CMOS + HOURS_ALARM] as number;
    const minute = w[CMOS + MINUTES_ALARM] as number;
    const second = w[CMOS + SECONDS_ALARM] as number;
    const anyHour = (hour & 0xc0) === 0xc0;
    const anyMinute = (minute & 0xc0) === 0xc0;
    const anySecond = (second & 0xc0) === 0xc0;
    const wantHour = this.#decodeHour(hour);
    const wantMinute = this.#decode(minute);
    const wantSecond = this.#decode(second);
    if (
      (!anyHour && wantHour > 23) || (!anyMinute && wantMinute > 59) ||
      (!anySecond && wantSecond > 59)
    ) return Infinity;
    const first = after + 1;
    const midnight = Math.floor(first / DAY_SECONDS) * DAY_SECONDS;
    // Hour by hour, and minute by minute in those that match: at most 25 and 120 steps.
    for (let h = Math.floor((first - midnight) / 3600); h <= 48; h++) {
      if (!anyHour && h % 24 !== wantHour) continue;
      const start = midnight + h * 3600;
      for (let m = 0; m < 60; m++) {
        if (!anyMinute && m !== wantMinute) continue;
        const at = start + m * 60;
        if (at + 59 < first) continue;
        const match = anySecond ? Math.max(at, first) : at + wantSecond;
        if (match >= first) return match;
      }
    }
    return Infinity;
  }

  #signalTimer(): void {
    Atomics.add(this.#w, TIMER_EVENT, 1);
    Atomics.notify(this.#w, TIMER_EVENT);
  }

  /** Recomputes the interrupt request flag and drives the line. */
  #update(): void {
    const w = this.#w;
    const flags = (w[CMOS + C] as number) & 0x70;
    const level = (flags & (w[CMOS + B] as number)) !== 0;
    w[CMOS + C] = flags | (level ? C_IRQ : 0);
    if (level === (w[LINE] !== 0)) return;
    w[LINE] = level ? 1 : 0;
    this.#irq(this.#gsi, level);
  }
}
