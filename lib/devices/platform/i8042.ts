import { SharedLock } from "../../memory/mod.ts";
import type { IrqLine } from "./wiring.ts";

// Words.
const LOCK = 0;
const CONTROL = 1;
/** Command that waits for its parameter at the data port, or 0. */
const COMMAND = 2;
const OUTPUT_PORT = 3;
const LINE = 4;
const QUEUE_HEAD = 5;
const QUEUE_COUNT = 6;
/** Keyboard command that waits for its parameter, or 0. */
const KEYBOARD_COMMAND = 7;
/** Whether the last byte written was a command, as the status register shows. */
const LAST_COMMAND = 8;
const SCAN_SET = 9;
const LAST_BYTE = 10;
const QUEUE = 16;
const QUEUE_SIZE = 16;
const RAM = QUEUE + QUEUE_SIZE;

/** Words that an i8042 takes in shared memory. */
export const I8042_WORDS = RAM + 32;

const STATUS_OUTPUT = 0x01;
const STATUS_SYSTEM = 0x04;
const STATUS_COMMAND = 0x08;
const STATUS_UNLOCKED = 0x10;

const CONTROL_KEYBOARD_IRQ = 0x01;
const CONTROL_SYSTEM = 0x04;
const CONTROL_KEYBOARD_OFF = 0x10;
const CONTROL_AUX_OFF = 0x20;
const CONTROL_TRANSLATE = 0x40;

const OUTPUT_NO_RESET = 0x01;
/** A20 gate in the output port. */
const OUTPUT_A20 = 0x02;

const ACK = 0xfa;
const RESEND = 0xfe;

/**
 * The keyboard controller with a keyboard on which nobody types, and no auxiliary port: enough that a
 * driver's probe is quick, and the way to reset that every PC has (IBM PS/2 Technical Reference,
 * keyboard and auxiliary device controller).
 */
export class I8042 {
  readonly #w: Int32Array<SharedArrayBuffer>;
  readonly #lock: SharedLock;
  readonly #gsi: number;
  readonly #irq: IrqLine;
  readonly #onReset: () => void;

  /**
   * @param words {@link I8042_WORDS} shared words.
   * @param wiring what it is connected to; `onReset` resets the machine.
   */
  constructor(
    words: Int32Array<SharedArrayBuffer>,
    wiring: { readonly gsi: number; readonly irq: IrqLine; readonly onReset: () => void },
  ) {
    this.#w = words;
    this.#lock = new SharedLock(words, LOCK);
    this.#gsi = wiring.gsi;
    this.#irq = wiring.irq;
    this.#onReset = wiring.onReset;
  }

  /** Power-on state, before any worker uses it. As firmware leaves it: tested, translating. */
  reset(): void {
    this.#w.fill(0);
    this.#w[CONTROL] = CONTROL_SYSTEM | CONTROL_TRANSLATE | CONTROL_AUX_OFF;
    this.#w[OUTPUT_PORT] = OUTPUT_NO_RESET | OUTPUT_A20;
    this.#w[SCAN_SET] = 2;
  }

  /** Whether address line 20 is on; port 92h shows and sets the same bit. */
  get a20(): boolean {
    return ((this.#w[OUTPUT_PORT] as number) & OUTPUT_A20) !== 0;
  }

  set a20(on: boolean) {
    if (on) Atomics.or(this.#w, OUTPUT_PORT, OUTPUT_A20);
    else Atomics.and(this.#w, OUTPUT_PORT, ~OUTPUT_A20);
  }

  /** Reads port 64h. */
  readStatus(): number {
    const w = this.#w;
    return STATUS_UNLOCKED | (w[QUEUE_COUNT] !== 0 ? STATUS_OUTPUT : 0) |
      (w[LAST_COMMAND] !== 0 ? STATUS_COMMAND : 0) |
      (((w[CONTROL] as number) & CONTROL_SYSTEM) !== 0 ? STATUS_SYSTEM : 0);
  }

  /** Reads port 60h. */
  readData(): number {
    const w = this.#w;
    this.#lock.lock();
    try {
      // An empty buffer reads its last byte again.
      if (w[QUEUE_COUNT] === 0) return w[LAST_BYTE] as number;
      const head = w[QUEUE_HEAD] as number;
      const value = w[QUEUE + head] as number;
      w[LAST_BYTE] = value;
      w[QUEUE_HEAD] = (head + 1) % QUEUE_SIZE;
      w[QUEUE_COUNT] = (w[QUEUE_COUNT] as number) - 1;
      // The line falls with each byte taken, so that the next one is an edge.
      this.#drive(false);
      this.#update();
      return value;
    } finally {
      this.#lock.unlock();
    }
  }

  /** Writes port 64h. */
  writeCommand(value: number): void {
    this.#lock.lock();
    let reset = false;
    try {
      this.#w[LAST_COMMAND] = 1;
      reset = this.#command(value);
      this.#update();
    } finally {
      this.#lock.unlock();
    }
    if (reset) this.#onReset();
  }

  /** Writes port 60h. */
  writeData(value: number): void {
    const w = this.#w;
    let reset = false;
    this.#lock.lock();
    try {
      w[LAST_COMMAND] = 0;
      const command = w[COMMAND] as number;
      w[COMMAND] = 0;
      if (command === 0) this.#keyboard(value);
      else if (command >= 0x60 && command < 0x80) this.#writeRam(command & 0x1f, value);
      else if (command === 0xd1) reset = this.#writeOutputPort(value);
      else if (command === 0xd2 || command === 0xd3) this.#push(value);
      // 0xd4: there is nothing at the auxiliary port that could answer.
      this.#update();
    } finally {
      this.#lock.unlock();
    }
    if (reset) this.#onReset();
  }

  /** Returns whether the machine is to be reset. */
  #command(value: number): boolean {
    const w = this.#w;
    w[COMMAND] = 0;
    if (value >= 0x20 && value < 0x40) {
      this.#answer(value === 0x20 ? w[CONTROL] as number : w[RAM + (value & 0x1f)] as number);
    } else if (value >= 0x60 && value < 0x80) {
      w[COMMAND] = value;
    } else if (value >= 0xf0) {
      // Pulses the output lines whose bits are 0; line 0 is the processor's reset.
      return (value & 1) === 0;
    } else {
      this.#otherCommand(value);
    }
    return false;
  }

  #otherCommand(value: number): void {
    const w = this.#w;
    const control = w[CONTROL] as number;
    switch (value) {
      case 0xa7:
        w[CONTROL] = control | CONTROL_AUX_OFF;
        break;
      case 0xa8: // There is no auxiliary port: it stays off, and so software sees it.
        break;
      case 0xa9: // Test of the auxiliary port: clock line stuck low.
        this.#answer(0x01);
        break;
      case 0xaa: // Self-test.
        w[CONTROL] = control | CONTROL_SYSTEM;
        this.#answer(0x55);
        break;
      case 0xab: // Test of the keyboard port: no error.
        this.#answer(0x00);
        break;
      case 0xad:
        w[CONTROL] = control | CONTROL_KEYBOARD_OFF;
        break;
      case 0xae:
        w[CONTROL] = control & ~CONTROL_KEYBOARD_OFF;
        break;
      case 0xc0: // Input port: keyboard not inhibited.
        this.#answer(0x80);
        break;
      case 0xd0:
        this.#answer((w[OUTPUT_PORT] as number) | (w[QUEUE_COUNT] !== 0 ? 0x10 : 0));
        break;
      case 0xd1:
      case 0xd2:
      case 0xd3:
      case 0xd4:
        w[COMMAND] = value;
        break;
      case 0xdd:
        w[OUTPUT_PORT] = (w[OUTPUT_PORT] as number) & ~OUTPUT_A20;
        break;
      case 0xdf:
        w[OUTPUT_PORT] = (w[OUTPUT_PORT] as number) | OUTPUT_A20;
        break;
      default:
    }
  }

  #writeRam(index: number, value: number): void {
    if (index === 0) this.#w[CONTROL] = value | CONTROL_AUX_OFF;
    else this.#w[RAM + index] = value;
  }

  #writeOutputPort(value: number): boolean {
    this.#w[OUTPUT_PORT] = value | OUTPUT_NO_RESET;
    return (value & OUTPUT_NO_RESET) === 0;
  }

  /** A byte for the keyboard. */
  #keyboard(value: number): void {
    const w = this.#w;
    // Whoever talks to the keyboard wants it on.
    w[CONTROL] = (w[CONTROL] as number) & ~CONTROL_KEYBOARD_OFF;
    const command = w[KEYBOARD_COMMAND] as number;
    w[KEYBOARD_COMMAND] = 0;
    if (command !== 0) {
      this.#push(ACK);
      if (command === 0xf0) {
        if (value === 0) this.#push(w[SCAN_SET] as number);
        else if (value <= 3) w[SCAN_SET] = value;
      }
      return;
    }
    switch (value) {
      case 0xed: // Lights, scan code set, typematic rate: a parameter follows.
      case 0xf0:
      case 0xf3:
        w[KEYBOARD_COMMAND] = value;
        this.#push(ACK);
        break;
      case 0xee:
        this.#push(0xee);
        break;
      case 0xf2: // Identity: an MF2 keyboard, translated where the controller does that.
        this.#push(ACK);
        this.#push(0xab);
        this.#push(((w[CONTROL] as number) & CONTROL_TRANSLATE) !== 0 ? 0x41 : 0x83);
        break;
      case 0xf4:
      case 0xf5:
      case 0xf6:
        this.#push(ACK);
        break;
      case 0xff:
        w[SCAN_SET] = 2;
        this.#push(ACK);
        this.#push(0xaa);
        break;
      default:
        this.#push(RESEND);
    }
  }

  /** The answer to a controller command takes the place of whatever waited. */
  #answer(value: number): void {
    this.#w[QUEUE_COUNT] = 0;
    this.#push(value);
  }

  #push(value: number): void {
    const w = this.#w;
    const count = w[QUEUE_COUNT] as number;
    if (count >= QUEUE_SIZE) return;
    w[QUEUE + ((w[QUEUE_HEAD] as number) + count) % QUEUE_SIZE] = value;
    w[QUEUE_COUNT] = count + 1;
  }

  #update(): void {
    this.#drive(
      this.#w[QUEUE_COUNT] !== 0 && ((this.#w[CONTROL] as number) & CONTROL_KEYBOARD_IRQ) !== 0,
    );
  }

  #drive(level: boolean): void {
    if (level === (this.#w[LINE] !== 0)) return;
    this.#w[LINE] = level ? 1 : 0;
    this.#irq(this.#gsi, level);
  }
}
