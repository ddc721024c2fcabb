import { SharedLock } from "../../memory/mod.ts";

/** Devices on the bus. */
export const PCI_DEVICE_COUNT = 32;
/** Bytes of a function's configuration space as the configuration ports reach it. */
export const PCI_CONFIG_SIZE = 256;

// Words at the start of the state.
const LOCK = 0;
const ADDRESS = 1;
const PRESENT = 2;
const HEADER_WORDS = 4;

const SPACES = HEADER_WORDS * 4;
const MASKS = SPACES + PCI_DEVICE_COUNT * PCI_CONFIG_SIZE;

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
}

/** Who is told of a guest's write to a function's configuration space, after it took effect. */
export type PciConfigListener = (offset: number, size: number) => void;

/**
 * Bus 0 of PCI and its configuration mechanism 1 (PCI Local Bus 3.0, 3.2.2.3.2). Configuration spaces
 * and their write masks are shared memory, so a function put on the bus by one worker is there for all;
 * each worker has its own listeners. Base address registers are sized by their masks alone.
 */
export class PciBus {
  readonly #w: Int32Array<SharedArrayBuffer>;
  readonly #bytes: Uint8Array<SharedArrayBuffer>;
  readonly #lock: SharedLock;
  readonly #listeners: (PciConfigListener | undefined)[] = [];

  /** @param state {@link PCI_STATE_BYTES} shared bytes. */
  constructor(state: DataView<SharedArrayBuffer>) {
    this.#w = new Int32Array(state.buffer, state.byteOffset, HEADER_WORDS);
    this.#bytes = new Uint8Array(state.buffer, state.byteOffset, PCI_STATE_BYTES);
    this.#lock = new SharedLock(this.#w, LOCK);
    for (let n = 0; n < PCI_DEVICE_COUNT; n++) this.#listeners.push(undefined);
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
      Atomics.or(this.#w, PRESENT, 1 << device);
    } finally {
      this.#lock.unlock();
    }
  }

  /** Sets who hears, in this worker, of writes to the configuration space of `device`. */
  listen(device: number, listener: PciConfigListener | undefined): void {
    this.#listeners[device] = listener;
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
    this.configWrite(address >> 8 & 0xffff, address & 0xfc | offset, size, value);
  }

  /**
   * Reads configuration space of function `bdf` (bus, device, function: 8, 5, 3 bits). Absent ones read
   * all ones.
   */
  configRead(bdf: number, offset: number, size: number): number {
    if (!this.#present(bdf)) return size === 4 ? 0xffff_ffff : size === 2 ? 0xffff : 0xff;
    const at = SPACES + (bdf >> 3) * PCI_CONFIG_SIZE + offset;
    let value = 0;
    for (let n = size - 1; n >= 0; n--) value = value << 8 | this.#bytes[at + n] as number;
    return value >>> 0;
  }

  /** Writes configuration space of function `bdf`, as far as it is writable. */
  configWrite(bdf: number, offset: number, size: number, value: number): void {
    if (!this.#present(bdf)) return;
    const device = bdf >> 3;
    const bytes = this.#bytes;
    const at = device * PCI_CONFIG_SIZE + offset;
    this.#lock.lock();
    for (let n = 0; n < size; n++) {
      const mask = bytes[MASKS + at + n] as number;
      bytes[SPACES + at + n] = (bytes[SPACES + at + n] as number) & ~mask |
        (value >>> n * 8) & mask;
    }
    this.#lock.unlock();
    this.#listeners[device]?.(offset, size);
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
