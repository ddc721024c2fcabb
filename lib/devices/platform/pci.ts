import { PCI_INTX_GSIS } from "../../boot/mod.ts";
import { SharedLock } from "../../memory/mod.ts";
import type { SharedEvent } from "./shared_event.ts";
import type { IrqLine } from "./wiring.ts";

/** Devices on the bus. */
export const PCI_DEVICE_COUNT = 32;
/** Bytes of a function's configuration space as the configuration ports reach it. */
export const PCI_CONFIG_SIZE = 256;

// Words at the start of the state.
const LOCK = 0;
const ADDRESS = 1;
const PRESENT = 2;
/** Words of windows that are in use. */
const WINDOW_WORDS = 3;
/** 1 once the guest has written to a configuration space. */
const CONFIGURED = 4;
/** For each interrupt line, the devices that assert it, as bits. */
const LINES = 5;
const WINDOWS = LINES + PCI_INTX_GSIS.length;

/** Words of a window: which BAR it is, its size, and where it is decoded now, in pages; 0 is nowhere. */
const WINDOW_OWNER = 0;
const WINDOW_PAGES = 1;
const WINDOW_PAGE = 2;
const WORDS_PER_WINDOW = 3;
const BARS_PER_FUNCTION = 3;
const MAX_WINDOWS = PCI_DEVICE_COUNT * BARS_PER_FUNCTION;
const HEADER_WORDS = WINDOWS + MAX_WINDOWS * WORDS_PER_WINDOW;

const SPACES = HEADER_WORDS * 4;
const MASKS = SPACES + PCI_DEVICE_COUNT * PCI_CONFIG_SIZE;

const PAGE_BYTES = 4096;
const COMMAND = 0x04;
const COMMAND_MEMORY = 2;
const FIRST_BAR = 0x10;
const BAR_64_BITS = 4;

/** Bytes that the bus takes in shared memory. */
export const PCI_STATE_BYTES = MASKS + PCI_DEVICE_COUNT * PCI_CONFIG_SIZE;

const ENABLED = 0x8000_0000;

/** A function to put on the bus. */
export interface PciFunction {
  /** Device number, 0 to 31; its function number is 0. */
  readonly device: number;
  /** Initial configuration space, at most {@link PCI_CONFIG_SIZE} bytes. */
  readonly config: Uint8Array;
  /** Bits that the guest may write, for the same bytes; none where absent. */
  readonly writable?: Uint8Array;
  /** Its BARs: memory with 64-bit addresses. */
  readonly bars?: readonly PciBar[];
}

/** A BAR for memory, which may be anywhere. */
export interface PciBar {
  /** 0, 1 or 2; its registers are 2n and 2n + 1. */
  readonly index: number;
  /** A power of two, at least a page. */
  readonly sizeBytes: number;
  /** Where it is in the beginning, as firmware would put it: a multiple of its size. */
  readonly address: number;
}

/** Who answers for a function in one worker. Called with no lock of the bus held. */
export interface PciHandler {
  /** The guest is about to read `size` bytes of configuration space at `offset`. */
  configReading?(offset: number, size: number): void;
  /** The guest has written configuration space. */
  configWritten?(offset: number, size: number): void;
  /** Fill `data` with the `size` bytes at `offset` of BAR `bar`. */
  barRead?(bar: number, offset: number, size: number, data: DataView): void;
  /** Take the `size` bytes of `data`. */
  barWrite?(bar: number, offset: number, size: number, data: DataView): void;
}

/**
 * Bus 0 of PCI, its configuration mechanism 1 (PCI Local Bus 3.0, 3.2.2.3.2) and its memory-mapped one
 * (PCI Express 5.0, 7.2.2). Configuration spaces and their write masks are shared memory, so a function
 * put on the bus by one worker is there for all; each worker has its own handlers. Base address
 * registers are sized by their masks alone.
 */
export class PciBus {
  readonly #w: Int32Array<SharedArrayBuffer>;
  readonly #bytes: Uint8Array<SharedArrayBuffer>;
  readonly #lock: SharedLock;
  readonly #irq: IrqLine | undefined;
  readonly #handlers: (PciHandler | undefined)[] = [];
  #configured = false;

  /**
   * @param state {@link PCI_STATE_BYTES} shared bytes
   * @param irq drives the interrupt lines; there are none where it is absent
   */
  constructor(state: DataView<SharedArrayBuffer>, irq?: IrqLine) {
    this.#irq = irq;
    this.#w = new Int32Array(state.buffer, state.byteOffset, HEADER_WORDS);
    this.#bytes = new Uint8Array(state.buffer, state.byteOffset, PCI_STATE_BYTES);
    this.#lock = new SharedLock(this.#w, LOCK);
    for (let n = 0; n < PCI_DEVICE_COUNT; n++) this.#handlers.push(undefined);
  }

  /** Power-on state with the host bridge alone, before any worker uses it. */
  reset(): void {
    this.#w.fill(0);
    this.#bytes.fill(0);
    this.install(hostBridge());
  }

  /**
   * Puts a function on the bus, in place of the one that was there.
   * @throws {RangeError} when the device number or the sizes are out of range.
   */
  install(added: PciFunction): void {
    const { device, config, writable } = added;
    if (!Number.isInteger(device) || device < 0 || device >= PCI_DEVICE_COUNT) {
      throw new RangeError(`expected a PCI device number from 0 to 31, got ${device}`);
    }
    if (config.length > PCI_CONFIG_SIZE || (writable?.length ?? 0) > PCI_CONFIG_SIZE) {
      throw new RangeError(`expected a configuration space of at most ${PCI_CONFIG_SIZE} bytes`);
    }
    const at = device * PCI_CONFIG_SIZE;
    this.#lock.lock();
    try {
      this.#bytes.fill(0, SPACES + at, SPACES + at + PCI_CONFIG_SIZE);
      this.#bytes.fill(0, MASKS + at, MASKS + at + PCI_CONFIG_SIZE);
      this.#bytes.set(config, SPACES + at);
      if (writable !== undefined) this.#bytes.set(writable, MASKS + at);
      for (const bar of added.bars ?? []) this.#addBar(device, bar);
      this.#moveWindows(device);
      Atomics.or(this.#w, PRESENT, 1 << device);
    } finally {
      this.#lock.unlock();
    }
  }

  /** Sets who answers, in this worker, for `device`. */
  attach(device: number, handler: PciHandler | undefined): void {
    this.#handlers[device] = handler;
  }

  /** What `device` itself has of the bus. */
  slot(
    device: number,
  ): {
    readonly config: Uint8Array;
    barPage(index: number): number;
    interrupt(level: boolean): void;
  } {
    return {
      config: this.configSpace(device),
      barPage: (index) => this.barPage(device, index),
      interrupt: (level) => this.#setInterrupt(device, level),
    };
  }

  /** Number of the 4 KiB page at which BAR `bar` of `device` is decoded, 0 where it is not. */
  barPage(device: number, bar: number): number {
    const owner = device * BARS_PER_FUNCTION + bar;
    for (let at = WINDOWS; at < this.#windowsEnd; at += WORDS_PER_WINDOW) {
      if (this.#w[at + WINDOW_OWNER] === owner) {
        return Atomics.load(this.#w, at + WINDOW_PAGE) >>> 0;
      }
    }
    return 0;
  }

  /** Reads `size` (1, 2, 4, 8) bytes at `address`, for the BAR that is there; false for none. */
  memoryRead(address: number, size: number, data: DataView): boolean {
    const at = this.#windowAt(address);
    if (at < 0) return false;
    const owner = this.#w[at + WINDOW_OWNER] as number;
    const handler = this.#handlers[owner / BARS_PER_FUNCTION | 0];
    if (handler?.barRead === undefined) return false;
    const offset = this.#offsetIn(at, address);
    handler.barRead(owner % BARS_PER_FUNCTION, offset, size, data);
    return true;
  }

  /** Writes `size` bytes at `address`, for the BAR that is there. */
  memoryWrite(address: number, size: number, data: DataView): void {
    const at = this.#windowAt(address);
    if (at < 0) return;
    const owner = this.#w[at + WINDOW_OWNER] as number;
    const handler = this.#handlers[owner / BARS_PER_FUNCTION | 0];
    handler?.barWrite?.(owner % BARS_PER_FUNCTION, this.#offsetIn(at, address), size, data);
  }

  /** Reads at `offset` of the memory-mapped configuration spaces. */
  ecamRead(offset: number, size: number, data: DataView): void {
    // A register has 4 bytes; what is wider is several, what straddles two is several bytes.
    const width = (offset & 3) + size <= 4 ? size : (offset & 3) === 0 ? 4 : 1;
    for (let n = 0; n < size; n += width) {
      const value = this.configRead((offset + n) >>> 12, offset + n & 0xfff, width);
      if (width === 1) data.setUint8(n, value);
      else if (width === 2) data.setUint16(n, value, true);
      else data.setUint32(n, value, true);
    }
  }

  /** Writes at `offset` of the memory-mapped configuration spaces. */
  ecamWrite(offset: number, size: number, data: DataView): void {
    const width = (offset & 3) + size <= 4 ? size : (offset & 3) === 0 ? 4 : 1;
    for (let n = 0; n < size; n += width) {
      const value = width === 1
        ? data.getUint8(n)
        : width === 2
        ? data.getUint16(n, true)
        : data.getUint32(n, true);
      this.configWrite((offset + n) >>> 12, offset + n & 0xfff, { size: width, value });
    }
  }

  /** The live configuration space of `device`, for the device's own use. */
  configSpace(device: number): Uint8Array<SharedArrayBuffer> {
    const at = SPACES + device * PCI_CONFIG_SIZE;
    return this.#bytes.subarray(at, at + PCI_CONFIG_SIZE);
  }

  /** Reads the address port (32 bits). */
  readAddress(): number {
    return (this.#w[ADDRESS] as number) >>> 0;
  }

  /** Writes the address port. */
  writeAddress(value: number): void {
    Atomics.store(this.#w, ADDRESS, value & 0x80ff_fffc);
  }

  /** Reads `size` (1, 2, 4) bytes at the data port plus `offset`; within one register of 32 bits. */
  readData(offset: number, size: number): number {
    const address = this.#w[ADDRESS] as number;
    if ((address & ENABLED) === 0) return size === 4 ? 0xffff_ffff : size === 2 ? 0xffff : 0xff;
    return this.configRead(address >> 8 & 0xffff, address & 0xfc | offset, size);
  }

  /** Writes `size` bytes at the data port plus `offset`. */
  writeData(offset: number, size: number, value: number): void {
    const address = this.#w[ADDRESS] as number;
    if ((address & ENABLED) === 0) return;
    this.configWrite(address >> 8 & 0xffff, address & 0xfc | offset, { size, value });
  }

  /**
   * Reads configuration space of function `bdf` (bus, device, function: 8, 5, 3 bits). Absent ones read
   * all ones; behind the conventional {@link PCI_CONFIG_SIZE} bytes there are no capabilities.
   */
  configRead(bdf: number, offset: number, size: number): number {
    if (!this.#present(bdf)) return size === 4 ? 0xffff_ffff : size === 2 ? 0xffff : 0xff;
    if (offset >= PCI_CONFIG_SIZE) return 0;
    this.#handlers[bdf >> 3]?.configReading?.(offset, size);
    const at = SPACES + (bdf >> 3) * PCI_CONFIG_SIZE + offset;
    let value = 0;
    for (let n = size - 1; n >= 0; n--) value = value << 8 | this.#bytes[at + n] as number;
    return value >>> 0;
  }

  /** Changes when the guest begins to configure what is on the bus: soon it uses it. */
  get configuredEvent(): SharedEvent {
    return { words: this.#w, index: CONFIGURED };
  }

  #noteConfigured(): void {
    this.#configured = true;
    Atomics.store(this.#w, CONFIGURED, 1);
    Atomics.notify(this.#w, CONFIGURED);
  }

  /** Writes configuration space of function `bdf`, as far as it is writable. */
  configWrite(bdf: number, offset: number, write: { size: number; value: number }): void {
    if (!this.#present(bdf) || offset >= PCI_CONFIG_SIZE) return;
    if (!this.#configured) this.#noteConfigured();
    const { size, value } = write;
    const device = bdf >> 3;
    const bytes = this.#bytes;
    const at = device * PCI_CONFIG_SIZE + offset;
    this.#lock.lock();
    for (let n = 0; n < size; n++) {
      const mask = bytes[MASKS + at + n] as number;
      bytes[SPACES + at + n] = (bytes[SPACES + at + n] as number) & ~mask |
        (value >>> n * 8) & mask;
    }
    this.#moveWindows(device);
    this.#lock.unlock();
    this.#handlers[device]?.configWritten?.(offset, size);
  }

  /** Asserts INTA# of `device`, or no longer; several devices share a line. */
  #setInterrupt(device: number, level: boolean): void {
    const line = device % PCI_INTX_GSIS.length;
    this.#lock.lock();
    try {
      const before = this.#w[LINES + line] as number;
      const after = level ? before | 1 << device : before & ~(1 << device);
      this.#w[LINES + line] = after;
      const changes = (before === 0) !== (after === 0);
      if (changes) this.#irq?.(PCI_INTX_GSIS[line] as number, after !== 0);
    } finally {
      this.#lock.unlock();
    }
  }

  get #windowsEnd(): number {
    return WINDOWS + Atomics.load(this.#w, WINDOW_WORDS);
  }

  /** Index of the window that `address` is in, -1 for none. */
  #windowAt(address: number): number {
    const words = this.#w;
    const page = Math.floor(address / PAGE_BYTES);
    const end = this.#windowsEnd;
    for (let at = WINDOWS; at < end; at += WORDS_PER_WINDOW) {
      const first = Atomics.load(words, at + WINDOW_PAGE) >>> 0;
      if (first !== 0 && page >= first && page < first + (words[at + WINDOW_PAGES] as number)) {
        return at;
      }
    }
    return -1;
  }

  /** Aligned by its size, so that another worker may move it meanwhile. */
  #offsetIn(window: number, address: number): number {
    return address % ((this.#w[window + WINDOW_PAGES] as number) * PAGE_BYTES);
  }

  #addBar(device: number, { index, sizeBytes, address }: PciBar): void {
    const pages = sizeBytes / PAGE_BYTES;
    const valid = Number.isInteger(Math.log2(pages)) && pages >= 1 && pages < 2 ** 19 &&
      address % sizeBytes === 0 && index >= 0 && index < BARS_PER_FUNCTION;
    if (!valid) {
      throw new RangeError(
        `expected a BAR of a power of two of pages at a multiple of that, got BAR ${index} of ` +
          `${sizeBytes} bytes at ${address}`,
      );
    }
    const at = SPACES + device * PCI_CONFIG_SIZE + FIRST_BAR + index * 8;
    const view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset);
    view.setUint32(at, address % 2 ** 32 | BAR_64_BITS, true);
    view.setUint32(at + 4, Math.floor(address / 2 ** 32), true);
    const mask = at - SPACES + MASKS;
    view.setUint32(mask, -sizeBytes >>> 0, true);
    view.setUint32(mask + 4, 0xffff_ffff, true);
    const owner = device * BARS_PER_FUNCTION + index;
    let window = WINDOWS;
    while (window < this.#windowsEnd && this.#w[window] !== owner) window += WORDS_PER_WINDOW;
    this.#w[window + WINDOW_OWNER] = owner;
    this.#w[window + WINDOW_PAGES] = pages;
    this.#w[window + WINDOW_PAGE] = 0;
    if (window === this.#windowsEnd) Atomics.add(this.#w, WINDOW_WORDS, WORDS_PER_WINDOW);
  }

  /** Decodes the windows of `device` where its registers say now. Under the lock. */
  #moveWindows(device: number): void {
    const words = this.#w;
    const space = SPACES + device * PCI_CONFIG_SIZE;
    const on = ((this.#bytes[space + COMMAND] as number) & COMMAND_MEMORY) !== 0;
    const end = this.#windowsEnd;
    for (let at = WINDOWS; at < end; at += WORDS_PER_WINDOW) {
      const owner = words[at + WINDOW_OWNER] as number;
      if ((owner / BARS_PER_FUNCTION | 0) !== device) continue;
      const register = space + FIRST_BAR + owner % BARS_PER_FUNCTION * 8;
      const low = this.#read32(register);
      const high = this.#read32(register + 4);
      // Beyond 16 TiB no processor of ours has addresses.
      const page = on && high < 0x1000 ? high * 2 ** 20 + (low >>> 12) : 0;
      Atomics.store(words, at + WINDOW_PAGE, page | 0);
    }
  }

  #read32(at: number): number {
    const bytes = this.#bytes;
    return ((bytes[at] as number) | (bytes[at + 1] as number) << 8 |
      (bytes[at + 2] as number) << 16 | (bytes[at + 3] as number) << 24) >>> 0;
  }

  #present(bdf: number): boolean {
    return bdf < 0x100 && (bdf & 7) === 0 && ((this.#w[PRESENT] as number) & 1 << (bdf >> 3)) !== 0;
  }
}

/** An Intel 440FX host bridge, as guests know it from other virtual machines. */
function hostBridge(): PciFunction {
  const config = new Uint8Array(PCI_CONFIG_SIZE);
  const view = new DataView(config.buffer);
  view.setUint16(0x00, 0x8086, true);
  view.setUint16(0x02, 0x1237, true);
  view.setUint8(0x08, 0x02);
  view.setUint8(0x0b, 0x06); // Class: bridge, host.
  const writable = new Uint8Array(PCI_CONFIG_SIZE);
  writable[0x04] = 0x07; // Command: I/O, memory, bus master.
  return { device: 0, config, writable };
}
