/**
 * A chip with a clock that stands still until told, for tests.
 *
 * @module
 */

import { type CpuMailbox, SoftIrqChip } from "./chip.ts";

/** A chip, its mailboxes and its clock. */
export class TestChip {
  /** Guest time in nanoseconds. */
  nowNs = 0;
  readonly chip: SoftIrqChip;
  readonly mailboxes: readonly CpuMailbox[];
  readonly #data = new DataView(new ArrayBuffer(8));

  constructor(cpuCount = 1) {
    const words = new Int32Array(new SharedArrayBuffer(4 * cpuCount));
    this.mailboxes = Array.from({ length: cpuCount }, (_, index) => ({ words, index }));
    this.chip = SoftIrqChip.create({ mailboxes: this.mailboxes, hostNow: () => this.nowNs });
  }

  /** Writes `values` to `port` one after the other. */
  out(port: number, ...values: number[]): void {
    for (const value of values) this.chip.writePort(port, value);
  }

  in(port: number): number {
    return this.chip.readPort(port);
  }

  /** Initializes the PICs as every PC operating system does, all inputs open. */
  initPics(first = 0x20, second = 0x28): void {
    this.out(0x20, 0x11);
    this.out(0x21, first, 4, 1, 0);
    this.out(0xa0, 0x11);
    this.out(0xa1, second, 2, 1, 0);
  }

  /** Writes a register of the I/O APIC. */
  setIoApic(index: number, value: number): void {
    this.#store(0, 0xfec0_0000, index);
    this.#store(0, 0xfec0_0010, value);
  }

  /** Reads a register of the I/O APIC. */
  ioApic(index: number): number {
    this.#store(0, 0xfec0_0000, index);
    return this.#load(0, 0xfec0_0010);
  }

  /** Writes both words of the entry of `pin`. */
  setPin(pin: number, low: number, destination = 0): void {
    this.setIoApic(0x11 + 2 * pin, destination << 24);
    this.setIoApic(0x10 + 2 * pin, low);
  }

  /** Writes a register of the local APIC of `cpu`. */
  setApic(offset: number, value: number, cpu = 0): void {
    this.#store(cpu, 0xfee0_0000 + offset, value);
  }

  /** Reads a register of the local APIC of `cpu`. */
  apic(offset: number, cpu = 0): number {
    return this.#load(cpu, 0xfee0_0000 + offset);
  }

  /** Enables all local APICs, with the PIC masked. */
  enableApics(): void {
    for (let cpu = 0; cpu < this.mailboxes.length; cpu++) {
      this.setApic(0xf0, 0x1ff, cpu);
      this.setApic(0x350, 0x1_0000, cpu);
    }
  }

  /** Takes the next interrupt of `cpu` and ends it; -1 where none waits. */
  serve(cpu = 0): number {
    const vector = this.chip.acknowledge(cpu);
    if (vector >= 0) this.setApic(0xb0, 0, cpu);
    return vector;
  }

  /** Whether the mailbox of `cpu` was rung since the last call. */
  woken(cpu = 0): boolean {
    const { words, index } = this.mailboxes[cpu] as CpuMailbox;
    return Atomics.exchange(words, index, 0) !== 0;
  }

  /** Lets `ns` pass, with timers run at each deadline at most `limit` times; returns how often. */
  advance(ns: number, limit = 1000): number {
    const end = this.nowNs + ns;
    let runs = 0;
    while (runs < limit) {
      const next = this.chip.earliestDeadlineNs;
      if (next > end) break;
      this.nowNs = Math.max(this.nowNs, next);
      this.chip.runTimers(this.nowNs);
      runs++;
    }
    this.nowNs = end;
    return runs;
  }

  #store(cpu: number, address: number, value: number): void {
    this.#data.setInt32(0, value, true);
    this.chip.mmioWrite(cpu, address, 4, this.#data);
  }

  #load(cpu: number, address: number): number {
    this.chip.mmioRead(cpu, address, 4, this.#data);
    return this.#data.getUint32(0, true);
  }
}
