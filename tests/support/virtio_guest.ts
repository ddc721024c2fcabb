/**
 * A guest of a few hundred bytes that reads one sector of the first virtio disk, as a driver does: finds the
 * function's registers where the machine puts them, sets up a queue and an interrupt, notifies, and waits
 * for the interrupt. It runs on engines that cannot run a stock kernel.
 *
 * @module
 */

import { Code, elf } from "./tiny_kernel.ts";

const COM1 = 0x3f8;
const CONFIG_ADDRESS = 0xcf8;
const CONFIG_DATA = 0xcfc;
/** The first function's BAR, before anybody moves it. */
const BAR = 0xc000_8000;
const NOTIFY = BAR + 0x3000;
const MSIX_TABLE = BAR + 0x4000;
const APIC = 0xfee0_0000;
const VECTOR = 0x41;

const IDT_POINTER = 0x2_fff0;
const IDT = 0x3_0000;
const DESCRIPTORS = 0x4_0000;
const AVAILABLE = 0x4_1000;
const USED = 0x4_2000;
const HEADER = 0x5_0000;
const DATA = 0x5_1000;
const STATUS = 0x5_2000;
const FLAG = 0x5_3000;

/** Stores to memory, and the instructions around an interrupt. */
class DriverCode extends Code {
  /** MOV RDI, address. */
  rdi(address: number): this {
    return this.raw(0x48, 0xbf, ...little(address, 8));
  }

  /** MOV value to memory, `size` bytes wide. */
  store(address: number, size: 1 | 2 | 4, value: number): this {
    this.rdi(address);
    if (size === 1) return this.raw(0xc6, 0x07, value);
    if (size === 2) return this.raw(0x66, 0xc7, 0x07, ...little(value, 2));
    return this.raw(0xc7, 0x07, ...little(value, 4));
  }

  /** Writes a register of configuration space of device 1. */
  config(offset: number, value: number): this {
    const register = 0x8000_0800 + (offset & 0xfc);
    return this.raw(0xb8, ...little(register, 4)).dx(CONFIG_ADDRESS).raw(0xef)
      .outWord(CONFIG_DATA + (offset & 3), value);
  }

  /** Has interrupt {@link VECTOR} set {@link FLAG}. */
  catchInterrupt(): this {
    return this.call("idt") // leaves the handler's address on the stack
      .raw(0x57).store(FLAG, 1, 1).store(APIC + 0xb0, 4, 0).raw(0x5f) // push rdi … pop rdi
      .raw(0x48, 0xcf) // iretq
      .label("idt").raw(0x58, 0x8c, 0xc9) // pop rax; mov ecx, cs
      .rdi(IDT + VECTOR * 16)
      .raw(0x66, 0x89, 0x07, 0x66, 0x89, 0x4f, 0x02) // mov [rdi], ax; mov [rdi + 2], cx
      .raw(0x66, 0xc7, 0x47, 0x04, 0x00, 0x8e) // mov word [rdi + 4], present interrupt gate
      .raw(0xc1, 0xe8, 0x10, 0x66, 0x89, 0x47, 0x06) // shr eax, 16; mov [rdi + 6], ax
      .raw(0xc7, 0x47, 0x08, 0, 0, 0, 0)
      .store(IDT_POINTER, 2, 0xfff).store(IDT_POINTER + 2, 4, IDT).store(IDT_POINTER + 6, 4, 0)
      .rdi(IDT_POINTER).raw(0x0f, 0x01, 0x1f) // lidt [rdi]
      .store(APIC + 0xf0, 4, 0x1ff);
  }

  /** Describes a buffer. */
  descriptor(
    index: number,
    buffer: { address: number; length: number; flags: number; next: number },
  ): this {
    const at = DESCRIPTORS + index * 16;
    return this.store(at, 4, buffer.address).store(at + 4, 4, 0)
      .store(at + 8, 4, buffer.length).store(at + 12, 2, buffer.flags)
      .store(at + 14, 2, buffer.next);
  }

  /** Waits until the byte at `address` is not 0. */
  waitFor(address: number): this {
    const wait = this.fresh();
    return this.rdi(address).label(wait).raw(0x80, 0x3f, 0).jumpIfZero(wait);
  }

  /** Prints the text that ends with a zero at `address`. */
  printAt(address: number): this {
    const [loop, done] = [this.fresh(), this.fresh()];
    return this.raw(0x48, 0xbe, ...little(address, 8)).dx(COM1) // mov rsi, address
      .label(loop).raw(0xac, 0x84, 0xc0).jumpIfZero(done) // lodsb; test al, al
      .raw(0xee).jump(loop).label(done);
  }
}

function little(value: number, size: number): number[] {
  return Array.from({ length: size }, (_, n) => Math.floor(value / 2 ** (8 * n)) & 0xff);
}

/** Prints the text in sector `sector` of the first disk, and powers off. */
export function sectorReader(sector: number): Uint8Array {
  const code = new DriverCode().catchInterrupt()
    .config(0x04, 0x06) // memory and bus master
    .config(0x42, 0x8000) // MSI-X
    .store(MSIX_TABLE + 16, 4, APIC).store(MSIX_TABLE + 20, 4, 0)
    .store(MSIX_TABLE + 24, 4, VECTOR).store(MSIX_TABLE + 28, 4, 0)
    .store(BAR + 0x14, 1, 1).store(BAR + 0x14, 1, 3)
    // Nothing but VERSION_1.
    .store(BAR + 0x08, 4, 0).store(BAR + 0x0c, 4, 0)
    .store(BAR + 0x08, 4, 1).store(BAR + 0x0c, 4, 1)
    .store(BAR + 0x14, 1, 0xb)
    .store(BAR + 0x16, 2, 0).store(BAR + 0x18, 2, 4).store(BAR + 0x1a, 2, 1)
    .store(BAR + 0x20, 4, DESCRIPTORS).store(BAR + 0x28, 4, AVAILABLE)
    .store(BAR + 0x30, 4, USED).store(BAR + 0x1c, 2, 1)
    .store(BAR + 0x14, 1, 0xf)
    .store(HEADER + 8, 4, sector).store(STATUS, 1, 0xff)
    .descriptor(0, { address: HEADER, length: 16, flags: 1, next: 1 })
    .descriptor(1, { address: DATA, length: 512, flags: 3, next: 2 })
    .descriptor(2, { address: STATUS, length: 1, flags: 2, next: 0 })
    .store(AVAILABLE + 2, 2, 1)
    .raw(0xfb) // sti
    .store(NOTIFY, 2, 0)
    .waitFor(FLAG).print("interrupted\n").printAt(DATA).powerOff();
  return elf(code.finish());
}
