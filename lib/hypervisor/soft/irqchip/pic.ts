import { PIC, PIC_WORDS } from "./layout.ts";

// Words of one 8259A.
const IRR = 0;
const ISR = 1;
const IMR = 2;
const LINES = 3;
const ELCR = 4;
/** The input of lowest priority is `PRIORITY_ADD - 1`. */
const PRIORITY_ADD = 5;
const VECTOR_BASE = 6;
const READ_ISR = 7;
const POLL = 8;
const SPECIAL_MASK = 9;
/** Which initialization word comes next: 0 none, 1 ICW2, 2 ICW3, 3 ICW4. */
const INIT_STATE = 10;
const NEEDS_ICW4 = 11;
const AUTO_EOI = 12;
const ROTATE_ON_AUTO_EOI = 13;
const FULLY_NESTED_SPECIAL = 14;
const SINGLE = 15;
/** Level of the INT output (of the master). */
const OUTPUT = 16;

const MASTER = PIC;
const SLAVE = PIC + PIC_WORDS;
const CASCADE = 2;

/** Inputs that ELCR can make level-triggered: not the timer, keyboard and cascade, nor RTC and FPU. */
const ELCR_MASK_MASTER = 0xf8;
const ELCR_MASK_SLAVE = 0xde;

/**
 * The PC's pair of 8259A interrupt controllers with the edge/level control registers of PCI chipsets
 * (Intel 8259A data sheet; 82371SB, 4D0h and 4D1h). Not locked: the chip that owns it does that.
 */
export class PicPair {
  readonly #w: Int32Array;
  readonly #onOutput: () => void;

  /**
   * @param words the shared state.
   * @param onOutput called when the INT output towards the processor rose or may have a new vector.
   */
  constructor(words: Int32Array, onOutput: () => void) {
    this.#w = words;
    this.#onOutput = onOutput;
  }

  /** Power-on state. */
  reset(): void {
    this.#w.fill(0, MASTER, SLAVE + PIC_WORDS);
  }

  /** Whether the INT output is up. */
  get output(): boolean {
    return this.#w[MASTER + OUTPUT] !== 0;
  }

  /** Drives input `irq` (0 to 15). */
  setLine(irq: number, level: boolean): void {
    const pic = irq < 8 ? MASTER : SLAVE;
    this.#setInput(pic, irq & 7, level);
    this.#update(pic);
  }

  /** The vector that {@link acknowledge} would give, or -1 when nothing is requested. */
  peekVector(): number {
    const w = this.#w;
    if (w[MASTER + OUTPUT] === 0) return -1;
    const irq = this.#pending(MASTER);
    if (irq < 0) return (w[MASTER + VECTOR_BASE] as number) + 7;
    if (irq !== CASCADE || this.#single()) return (w[MASTER + VECTOR_BASE] as number) + irq;
    const second = this.#pending(SLAVE);
    return (w[SLAVE + VECTOR_BASE] as number) + (second < 0 ? 7 : second);
  }

  /** The INTA cycle: takes the request of highest priority and returns its vector. */
  acknowledge(): number {
    const w = this.#w;
    let vector: number;
    let taken = MASTER;
    const irq = this.#pending(MASTER);
    if (irq < 0) {
      vector = (w[MASTER + VECTOR_BASE] as number) + 7; // Spurious.
    } else {
      this.#take(MASTER, irq);
      if (irq === CASCADE && !this.#single()) {
        const second = this.#pending(SLAVE);
        if (second >= 0) this.#take(SLAVE, second);
        vector = (w[SLAVE + VECTOR_BASE] as number) + (second < 0 ? 7 : second);
        taken = SLAVE;
      } else {
        vector = (w[MASTER + VECTOR_BASE] as number) + irq;
      }
    }
    this.#update(taken);
    return vector;
  }

  /** Reads port 20h, 21h, A0h, A1h, 4D0h or 4D1h. */
  read(port: number): number {
    const w = this.#w;
    if (port === 0x4d0) return w[MASTER + ELCR] as number;
    if (port === 0x4d1) return w[SLAVE + ELCR] as number;
    const pic = (port & 0x80) === 0 ? MASTER : SLAVE;
    if (w[pic + POLL] !== 0) return this.#poll(pic);
    if ((port & 1) !== 0) return w[pic + IMR] as number;
    return (w[pic + READ_ISR] !== 0 ? w[pic + ISR] : w[pic + IRR]) as number;
  }

  /** Writes port 20h, 21h, A0h, A1h, 4D0h or 4D1h. */
  write(port: number, value: number): void {
    const w = this.#w;
    const pic = (port === 0x4d1 || port < 0x400 && (port & 0x80) !== 0) ? SLAVE : MASTER;
    if (port >= 0x400) {
      w[pic + ELCR] = value & (pic === MASTER ? ELCR_MASK_MASTER : ELCR_MASK_SLAVE);
      return;
    }
    if ((port & 1) !== 0) this.#writeData(pic, value);
    else if ((value & 0x10) !== 0) this.#writeIcw1(pic, value);
    else if ((value & 0x08) !== 0) this.#writeOcw3(pic, value);
    else this.#writeOcw2(pic, value);
    this.#update(pic);
  }

  #single(): boolean {
    return this.#w[MASTER + SINGLE] !== 0;
  }

  #writeIcw1(pic: number, value: number): void {
    const w = this.#w;
    // Edge sense is reset. An input that is driven high once more counts as an edge then, so that a
    // request does not get stuck behind an initialization.
    w[pic + IRR] = (w[pic + IRR] as number) & (w[pic + ELCR] as number);
    w[pic + LINES] = 0;
    w[pic + IMR] = 0;
    w[pic + ISR] = 0;
    w[pic + PRIORITY_ADD] = 0;
    w[pic + VECTOR_BASE] = 0;
    w[pic + READ_ISR] = 0;
    w[pic + POLL] = 0;
    w[pic + SPECIAL_MASK] = 0;
    w[pic + AUTO_EOI] = 0;
    w[pic + ROTATE_ON_AUTO_EOI] = 0;
    w[pic + FULLY_NESTED_SPECIAL] = 0;
    w[pic + INIT_STATE] = 1;
    w[pic + NEEDS_ICW4] = value & 1;
    w[pic + SINGLE] = value & 2;
  }

  #writeOcw3(pic: number, value: number): void {
    const w = this.#w;
    if ((value & 0x04) !== 0) w[pic + POLL] = 1;
    if ((value & 0x02) !== 0) w[pic + READ_ISR] = value & 1;
    if ((value & 0x40) !== 0) w[pic + SPECIAL_MASK] = (value >> 5) & 1;
  }

  #writeOcw2(pic: number, value: number): void {
    const w = this.#w;
    const level = value & 7;
    switch (value >> 5) {
      case 0: // Rotation in automatic EOI mode, clear and (4) set.
      case 4:
        w[pic + ROTATE_ON_AUTO_EOI] = value >> 7;
        break;
      case 1: // Non-specific EOI, and (5) with rotation.
      case 5: {
        const irq = this.#highest(pic, this.#inService(pic));
        if (irq >= 0) {
          w[pic + ISR] = (w[pic + ISR] as number) & ~(1 << irq);
          if ((value & 0x80) !== 0) w[pic + PRIORITY_ADD] = (irq + 1) & 7;
        }
        break;
      }
      case 3: // Specific EOI.
        w[pic + ISR] = (w[pic + ISR] as number) & ~(1 << level);
        break;
      case 6: // Set priority.
        w[pic + PRIORITY_ADD] = (level + 1) & 7;
        break;
      case 7: // Specific EOI with rotation.
        w[pic + ISR] = (w[pic + ISR] as number) & ~(1 << level);
        w[pic + PRIORITY_ADD] = (level + 1) & 7;
        break;
      default: // 2: no operation.
    }
  }

  #writeData(pic: number, value: number): void {
    const w = this.#w;
    switch (w[pic + INIT_STATE]) {
      case 1:
        w[pic + VECTOR_BASE] = value & 0xf8;
        w[pic + INIT_STATE] = w[pic + SINGLE] !== 0 ? (w[pic + NEEDS_ICW4] !== 0 ? 3 : 0) : 2;
        break;
      case 2: // ICW3: the cascade is wired, so its word is only counted.
        w[pic + INIT_STATE] = w[pic + NEEDS_ICW4] !== 0 ? 3 : 0;
        break;
      case 3:
        w[pic + FULLY_NESTED_SPECIAL] = (value >> 4) & 1;
        w[pic + AUTO_EOI] = (value >> 1) & 1;
        w[pic + INIT_STATE] = 0;
        break;
      default:
        w[pic + IMR] = value;
    }
  }

  /** A read after a poll command is an INTA: bit 7 says whether there was a request. */
  #poll(pic: number): number {
    const w = this.#w;
    w[pic + POLL] = 0;
    const irq = this.#pending(pic);
    if (irq < 0) return 0;
    this.#take(pic, irq);
    this.#update(pic);
    return 0x80 | irq;
  }

  #setInput(pic: number, irq: number, level: boolean): void {
    const w = this.#w;
    const bit = 1 << irq;
    const lines = w[pic + LINES] as number;
    if (level) {
      if (((w[pic + ELCR] as number) & bit) !== 0 || (lines & bit) === 0) {
        w[pic + IRR] = (w[pic + IRR] as number) | bit;
      }
      w[pic + LINES] = lines | bit;
    } else {
      // An edge stays latched: devices pulse their lines (the 8259A itself would answer with IR7).
      if (((w[pic + ELCR] as number) & bit) !== 0) w[pic + IRR] = (w[pic + IRR] as number) & ~bit;
      w[pic + LINES] = lines & ~bit;
    }
  }

  /** In-service inputs that hold back others. */
  #inService(pic: number): number {
    const w = this.#w;
    const isr = w[pic + ISR] as number;
    return w[pic + SPECIAL_MASK] !== 0 ? isr & ~(w[pic + IMR] as number) : isr;
  }

  /** The bit of highest priority in `mask`, or -1. */
  #highest(pic: number, mask: number): number {
    if (mask === 0) return -1;
    const add = this.#w[pic + PRIORITY_ADD] as number;
    for (let i = 0; i < 8; i++) {
      const irq = (i + add) & 7;
      if ((mask & (1 << irq)) !== 0) return irq;
    }
    return -1;
  }

  /** The input to be served next, or -1. */
  #pending(pic: number): number {
    const w = this.#w;
    const irq = this.#highest(pic, (w[pic + IRR] as number) & ~(w[pic + IMR] as number));
    if (irq < 0) return -1;
    let serving = this.#inService(pic);
    // In special fully nested mode the slave may interrupt while one of its inputs is in service.
    if (pic === MASTER && w[pic + FULLY_NESTED_SPECIAL] !== 0) serving &= ~(1 << CASCADE);
    const current = this.#highest(pic, serving);
    if (current < 0) return irq;
    const add = w[pic + PRIORITY_ADD] as number;
    return ((irq - add) & 7) < ((current - add) & 7) ? irq : -1;
  }

  #take(pic: number, irq: number): void {
    const w = this.#w;
    const bit = 1 << irq;
    if (w[pic + AUTO_EOI] !== 0) {
      if (w[pic + ROTATE_ON_AUTO_EOI] !== 0) w[pic + PRIORITY_ADD] = (irq + 1) & 7;
    } else {
      w[pic + ISR] = (w[pic + ISR] as number) | bit;
    }
    if (((w[pic + ELCR] as number) & bit) === 0) w[pic + IRR] = (w[pic + IRR] as number) & ~bit;
    if (pic === SLAVE) {
      // INT falls with INTA; if another input waits, it rises again as a new edge.
      this.#setInput(MASTER, CASCADE, false);
    }
  }

  /** Recomputes the outputs after a change of `pic`; the slave's is an input of the master. */
  #update(pic: number): void {
    const w = this.#w;
    if (pic === SLAVE) this.#setInput(MASTER, CASCADE, this.#pending(SLAVE) >= 0);
    const output = this.#pending(MASTER) >= 0;
    w[MASTER + OUTPUT] = output ? 1 : 0;
    if (output) this.#onOutput();
  }
}
