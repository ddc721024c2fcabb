import { SharedLock } from "../../memory/mod.ts";
import type { IrqLine, SerialSink } from "./wiring.ts";

// Words.
const LOCK = 0;
const IER = 1;
const FCR = 2;
const LCR = 3;
const MCR = 4;
const MSR_DELTA = 5;
const SCRATCH = 6;
const DIVISOR = 7;
/** Sticky error bits of LSR. */
const ERRORS = 8;
/** The "transmitter is empty" interrupt waits to be seen. */
const THR_PENDING = 9;
const FIFO_HEAD = 10;
const FIFO_COUNT = 11;
const LINE = 12;
/** How far the guest went in the use of modem control: a {@link MODEM_UNUSED} and what follows it. */
const MODEM_USE = 13;
/** Counts the times that the guest made room for input. */
const ROOM_EVENT = 14;
/** Times that the guest looked for input in vain since it last sent something, up to {@link POLLING}. */
const POLLS = 15;
const FIFO = 16;
const FIFO_SIZE = 16;

/**
 * So many reads of LSR in a row, with nothing sent between, are a guest that polls for input. One that
 * only waits for the transmitter looks once, as it is always empty.
 */
const POLLING = 16;

const MODEM_UNUSED = 0;
/** It asserted DTR: Linux enables the receive interrupt then, and still drops what comes before RTS. */
const MODEM_DTR = 1;
/** It asserted RTS: from then on only RTS says if it takes input. */
const MODEM_RTS = 2;

/** Words that a UART takes in shared memory. */
export const UART_WORDS = FIFO + FIFO_SIZE;

const IER_RX = 1;
const IER_THR = 2;
const IER_LINE = 4;
const IER_MODEM = 8;

const IIR_NONE = 1;
const IIR_MODEM = 0;
const IIR_THR = 2;
const IIR_RX = 4;
const IIR_LINE = 6;
const IIR_TIMEOUT = 0xc;
const IIR_FIFO = 0xc0;

const LCR_DLAB = 0x80;

const MCR_DTR = 0x01;
const MCR_RTS = 0x02;
const MCR_OUT1 = 0x04;
const MCR_OUT2 = 0x08;
const MCR_LOOP = 0x10;

const LSR_DATA = 0x01;
const LSR_OVERRUN = 0x02;
const LSR_BREAK = 0x10;
const LSR_EMPTY = 0x60;

const MSR_CTS = 0x10;
const MSR_DSR = 0x20;
const MSR_RI = 0x40;
const MSR_DCD = 0x80;

const TRIGGERS: readonly number[] = [1, 4, 8, 14];

/** From where the host side waits for room in a UART: an event counter. */
export interface UartEvent {
  /** Shared words. */
  readonly words: Int32Array<SharedArrayBuffer>;
  /** The counter: notified at each change. */
  readonly index: number;
}

/**
 * A 16550A (National PC16550D data sheet). Its transmitter is always empty, as the host takes what it
 * writes at once. Input below the trigger level "times out" at once. It takes input once the guest is
 * ready for it, so that nothing is lost before the guest opens the port.
 */
export class Uart {
  readonly #w: Int32Array<SharedArrayBuffer>;
  readonly #lock: SharedLock;
  readonly #gsi: number;
  readonly #irq: IrqLine;
  readonly #sink: SerialSink | undefined;

  /**
   * @param words {@link UART_WORDS} shared words.
   * @param wiring what it is connected to.
   */
  constructor(
    words: Int32Array<SharedArrayBuffer>,
    wiring: {
      readonly gsi: number;
      readonly irq: IrqLine;
      readonly sink: SerialSink | undefined;
    },
  ) {
    this.#w = words;
    this.#lock = new SharedLock(words, LOCK);
    this.#gsi = wiring.gsi;
    this.#irq = wiring.irq;
    this.#sink = wiring.sink;
  }

  /** Power-on state, before any worker uses it. */
  reset(): void {
    this.#w.fill(0);
    this.#w[DIVISOR] = 12;
  }

  /** Changes whenever {@link receive} may take more than before. */
  get roomEvent(): UartEvent {
    return { words: this.#w, index: ROOM_EVENT };
  }

  /**
   * Bytes arrive on the line.
   * @returns how many of them were taken; the rest is to be offered again after {@link roomEvent}.
   */
  receive(bytes: Uint8Array): number {
    const w = this.#w;
    this.#lock.lock();
    try {
      if (!this.#takesInput()) return 0;
      const room = this.#capacity() - (w[FIFO_COUNT] as number);
      const count = Math.min(Math.max(room, 0), bytes.length);
      for (let n = 0; n < count; n++) this.#push(bytes[n] as number);
      if (count > 0) this.#update();
      return count;
    } finally {
      this.#lock.unlock();
    }
  }

  /** A break condition arrives (as an interrupt key, or SysRq on a Linux console). */
  receiveBreak(): void {
    const w = this.#w;
    this.#lock.lock();
    try {
      if ((w[FIFO_COUNT] as number) < this.#capacity()) this.#push(0);
      w[ERRORS] = (w[ERRORS] as number) | LSR_BREAK;
      this.#update();
    } finally {
      this.#lock.unlock();
    }
  }

  /** Reads register 0 to 7. */
  read(register: number): number {
    this.#lock.lock();
    try {
      return this.#read(register);
    } finally {
      this.#lock.unlock();
    }
  }

  /** Writes register 0 to 7. */
  write(register: number, value: number): void {
    let sent = false;
    this.#lock.lock();
    try {
      sent = this.#write(register, value);
    } finally {
      this.#lock.unlock();
    }
    if (sent) this.#sink?.flush?.();
  }

  #read(register: number): number {
    const w = this.#w;
    switch (register) {
      case 0:
        if (((w[LCR] as number) & LCR_DLAB) !== 0) return (w[DIVISOR] as number) & 0xff;
        return this.#pop();
      case 1:
        if (((w[LCR] as number) & LCR_DLAB) !== 0) return (w[DIVISOR] as number) >> 8;
        return w[IER] as number;
      case 2: {
        const id = this.#interrupt();
        if (id === IIR_THR) {
          w[THR_PENDING] = 0;
          this.#update();
        }
        return id | (((w[FCR] as number) & 1) !== 0 ? IIR_FIFO : 0);
      }
      case 3:
        return w[LCR] as number;
      case 4:
        return w[MCR] as number;
      case 5: {
        const status = LSR_EMPTY | (w[ERRORS] as number) |
          (w[FIFO_COUNT] !== 0 ? LSR_DATA : 0);
        if ((w[POLLS] as number) < POLLING) {
          w[POLLS] = (w[POLLS] as number) + 1;
          if (w[POLLS] === POLLING) this.#signalRoom();
        }
        if (w[ERRORS] !== 0) {
          w[ERRORS] = 0;
          this.#update();
        }
        return status;
      }
      case 6: {
        const status = this.#modemStatus() | w[MSR_DELTA] as number;
        if (w[MSR_DELTA] !== 0) {
          w[MSR_DELTA] = 0;
          this.#update();
        }
        return status;
      }
      default:
        return w[SCRATCH] as number;
    }
  }

  /** Returns whether something went to the sink. */
  #write(register: number, value: number): boolean {
    const w = this.#w;
    switch (register) {
      case 0:
        if (((w[LCR] as number) & LCR_DLAB) !== 0) {
          w[DIVISOR] = (w[DIVISOR] as number) & 0xff00 | value;
          return false;
        }
        return this.#transmit(value);
      case 1:
        if (((w[LCR] as number) & LCR_DLAB) !== 0) {
          w[DIVISOR] = (w[DIVISOR] as number) & 0xff | value << 8;
          return false;
        }
        // Enabling the interrupt of a transmitter that is empty raises it.
        if ((value & IER_THR) === 0) w[THR_PENDING] = 0;
        else if (((w[IER] as number) & IER_THR) === 0) w[THR_PENDING] = 1;
        if (((w[IER] as number) & IER_RX) === 0 && (value & IER_RX) !== 0) this.#signalRoom();
        w[IER] = value & 0x0f;
        this.#update();
        return false;
      case 2:
        this.#writeFifoControl(value);
        return false;
      case 3:
        w[LCR] = value;
        return false;
      case 4:
        this.#writeModemControl(value);
        return false;
      case 5: // Line and modem status are for factory tests.
      case 6:
        return false;
      default:
        w[SCRATCH] = value;
        return false;
    }
  }

  #transmit(value: number): boolean {
    const w = this.#w;
    const loop = ((w[MCR] as number) & MCR_LOOP) !== 0;
    if (loop) {
      if ((w[FIFO_COUNT] as number) >= this.#capacity()) {
        w[ERRORS] = (w[ERRORS] as number) | LSR_OVERRUN;
        // A full FIFO keeps what it has, a single register takes the new character.
        if (((w[FCR] as number) & 1) === 0) w[FIFO + (w[FIFO_HEAD] as number)] = value;
      } else {
        this.#push(value);
      }
    } else {
      if ((w[POLLS] as number) < POLLING) w[POLLS] = 0;
      this.#sink?.write(value);
    }
    // Empty again at once. Reading IIR took the last such interrupt, so this one is a new edge.
    if (((w[IER] as number) & IER_THR) !== 0) w[THR_PENDING] = 1;
    this.#update();
    return !loop;
  }

  #writeFifoControl(value: number): void {
    const w = this.#w;
    const changed = (((w[FCR] as number) ^ value) & 1) !== 0;
    if (changed || (value & 0x03) === 0x03) this.#clearFifo();
    // The other bits count only when FIFOs are enabled by the same write.
    w[FCR] = (value & 1) !== 0 ? value & 0xc9 : 0;
    this.#update();
  }

  #writeModemControl(value: number): void {
    const w = this.#w;
    const before = this.#modemStatus();
    const took = this.#takesInput();
    w[MCR] = value & 0x1f;
    if ((value & MCR_LOOP) === 0) {
      const use = (value & MCR_RTS) !== 0 ? MODEM_RTS : (value & MCR_DTR) !== 0 ? MODEM_DTR : 0;
      w[MODEM_USE] = Math.max(w[MODEM_USE] as number, use);
    }
    const after = this.#modemStatus();
    const changed = before ^ after;
    let delta = (changed & (MSR_CTS | MSR_DSR | MSR_DCD)) >> 4;
    // Of the ring indicator only the trailing edge counts.
    if ((changed & MSR_RI) !== 0 && (after & MSR_RI) === 0) delta |= 4;
    w[MSR_DELTA] = (w[MSR_DELTA] as number) | delta;
    this.#update();
    if (!took && this.#takesInput()) this.#signalRoom();
  }

  /**
   * Whether the guest is ready for input. What came before would be lost when it sets the port up, so it
   * has to show it: by RTS, or where it does not use modem control, by the receive interrupt or by
   * polling.
   */
  #takesInput(): boolean {
    const w = this.#w;
    const control = w[MCR] as number;
    if ((control & MCR_LOOP) !== 0) return false;
    if ((control & MCR_RTS) !== 0) return true;
    const use = w[MODEM_USE] as number;
    return use === MODEM_UNUSED && ((w[IER] as number) & IER_RX) !== 0 ||
      use !== MODEM_RTS && w[POLLS] === POLLING;
  }

  #modemStatus(): number {
    const control = this.#w[MCR] as number;
    if ((control & MCR_LOOP) === 0) return MSR_DCD | MSR_DSR | MSR_CTS;
    return ((control & MCR_RTS) !== 0 ? MSR_CTS : 0) |
      ((control & MCR_DTR) !== 0 ? MSR_DSR : 0) |
      ((control & MCR_OUT1) !== 0 ? MSR_RI : 0) |
      ((control & MCR_OUT2) !== 0 ? MSR_DCD : 0);
  }

  #capacity(): number {
    return ((this.#w[FCR] as number) & 1) !== 0 ? FIFO_SIZE : 1;
  }

  #push(byte: number): void {
    const w = this.#w;
    const count = w[FIFO_COUNT] as number;
    w[FIFO + ((w[FIFO_HEAD] as number) + count) % FIFO_SIZE] = byte;
    w[FIFO_COUNT] = count + 1;
  }

  #pop(): number {
    const w = this.#w;
    const count = w[FIFO_COUNT] as number;
    const head = w[FIFO_HEAD] as number;
    if (count === 0) {
      // A single register reads its last character again.
      return ((w[FCR] as number) & 1) !== 0
        ? 0
        : w[FIFO + (head + FIFO_SIZE - 1) % FIFO_SIZE] as number;
    }
    w[FIFO_HEAD] = (head + 1) % FIFO_SIZE;
    w[FIFO_COUNT] = count - 1;
    this.#update();
    if (count === 1) this.#signalRoom();
    return w[FIFO + head] as number;
  }

  #clearFifo(): void {
    const w = this.#w;
    const had = w[FIFO_COUNT] !== 0;
    w[FIFO_HEAD] = 0;
    w[FIFO_COUNT] = 0;
    if (had) this.#signalRoom();
  }

  #signalRoom(): void {
    Atomics.add(this.#w, ROOM_EVENT, 1);
    Atomics.notify(this.#w, ROOM_EVENT);
  }

  /** The interrupt of highest priority, as IIR shows it. */
  #interrupt(): number {
    const w = this.#w;
    const enabled = w[IER] as number;
    if ((enabled & IER_LINE) !== 0 && w[ERRORS] !== 0) return IIR_LINE;
    const count = w[FIFO_COUNT] as number;
    if ((enabled & IER_RX) !== 0 && count > 0) {
      if (((w[FCR] as number) & 1) === 0) return IIR_RX;
      return count >= (TRIGGERS[(w[FCR] as number) >> 6] as number) ? IIR_RX : IIR_TIMEOUT;
    }
    if ((enabled & IER_THR) !== 0 && w[THR_PENDING] !== 0) return IIR_THR;
    if ((enabled & IER_MODEM) !== 0 && w[MSR_DELTA] !== 0) return IIR_MODEM;
    return IIR_NONE;
  }

  #update(): void {
    const level = this.#interrupt() !== IIR_NONE;
    if (level === (this.#w[LINE] !== 0)) return;
    this.#w[LINE] = level ? 1 : 0;
    this.#irq(this.#gsi, level);
  }
}
