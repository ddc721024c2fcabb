/**
 * What the workers of a process share about a VM of KVM, in one SharedArrayBuffer.
 *
 * @module
 */

import { SharedLock } from "../../memory/mod.ts";
import { HypervisorError } from "../errors.ts";
import type { GsiRoute } from "../types.ts";
import { Irqchip, ROUTE_SIZE_BYTES, RouteType } from "./abi.ts";

// Words of the header, then one cache line per vCPU, then the saved clock, then the routes.
const WORD_LOCK = 0;
const WORD_CLOSED = 1;
const WORD_CLOCK_SAVED = 2;
const HEADER_WORDS = 16;
const SLOT_WORDS = 16;
const SLOT_CLAIMED = 0;
const SLOT_TID = 1;
const SLOT_KICK = 2;
/** Clock (48 bytes of struct kvm_clock_data), TSC, PIT (112 bytes of struct kvm_pit_state2). */
const CLOCK_SIZE_BYTES = 256;

/** GSIs up to this one can be routed (KVM_MAX_IRQ_ROUTES). */
export const MAX_GSI = 4095;
const MAX_ROUTES = 4096;
const ROUTES_HEADER_SIZE_BYTES = 8;
const PIC_PINS = 16;
const IOAPIC_PINS = 24;
const PIC_CHIP_PINS = 8;

/** One vCPU's part: who runs it, and whether it was kicked. */
export class VcpuSlot {
  readonly #words: Int32Array;
  readonly #base: number;

  constructor(words: Int32Array, base: number) {
    this.#words = words;
    this.#base = base;
  }

  /** The thread that runs the vCPU, 0 where there is none yet. */
  get tid(): number {
    return Atomics.load(this.#words, this.#base + SLOT_TID);
  }

  /** Makes the caller the one that may create the vCPU; false where somebody is it. */
  claim(): boolean {
    return Atomics.compareExchange(this.#words, this.#base + SLOT_CLAIMED, 0, 1) === 0;
  }

  /** Thread `tid` runs the vCPU from now on. */
  enter(tid: number): void {
    Atomics.store(this.#words, this.#base + SLOT_TID, tid);
  }

  /** Nobody runs the vCPU any more. */
  leave(): void {
    Atomics.store(this.#words, this.#base + SLOT_TID, 0);
  }

  /** Notes that the vCPU has to leave its loop. */
  requestKick(): void {
    Atomics.store(this.#words, this.#base + SLOT_KICK, 1);
  }

  /** Whether it had to; clears the note. */
  takeKick(): boolean {
    return Atomics.exchange(this.#words, this.#base + SLOT_KICK, 0) !== 0;
  }
}

/** The shared part of a VM. */
export class SharedVmState {
  /** What is posted to other workers. */
  readonly buffer: SharedArrayBuffer;
  /** Guards the routes and the saved clock. */
  readonly lock: SharedLock;
  readonly #words: Int32Array;
  readonly #clockOffset: number;
  readonly #routes: DataView;

  private constructor(buffer: SharedArrayBuffer, vcpuCount: number) {
    this.buffer = buffer;
    this.#words = new Int32Array(buffer, 0, HEADER_WORDS + vcpuCount * SLOT_WORDS);
    this.lock = new SharedLock(this.#words, WORD_LOCK);
    this.#clockOffset = this.#words.byteLength;
    this.#routes = new DataView(buffer, this.#clockOffset + CLOCK_SIZE_BYTES);
  }

  /** State of a new VM, with GSI 0 to 23 at the pins of that number. */
  static create(vcpuCount: number): SharedVmState {
    const size = (HEADER_WORDS + vcpuCount * SLOT_WORDS) * 4 + CLOCK_SIZE_BYTES +
      ROUTES_HEADER_SIZE_BYTES + MAX_ROUTES * ROUTE_SIZE_BYTES;
    const state = new SharedVmState(new SharedArrayBuffer(size), vcpuCount);
    for (let gsi = 0; gsi < IOAPIC_PINS; gsi++) {
      const routes: GsiRoute[] = [{ type: "irqchip", chip: "ioapic", pin: gsi }];
      if (gsi < PIC_PINS) routes.unshift({ type: "irqchip", chip: "pic", pin: gsi });
      state.setRoutes(gsi, routes);
    }
    return state;
  }

  /** The state that another worker made. */
  static attach(buffer: SharedArrayBuffer, vcpuCount: number): SharedVmState {
    return new SharedVmState(buffer, vcpuCount);
  }

  /** Whether the owner disposed the VM. */
  get closed(): boolean {
    return Atomics.load(this.#words, WORD_CLOSED) !== 0;
  }

  /** Notes that the owner disposes the VM. */
  close(): void {
    Atomics.store(this.#words, WORD_CLOSED, 1);
  }

  /** Whether the clock is stopped and saved in {@link clock}. */
  get clockSaved(): boolean {
    return Atomics.load(this.#words, WORD_CLOCK_SAVED) !== 0;
  }

  set clockSaved(saved: boolean) {
    Atomics.store(this.#words, WORD_CLOCK_SAVED, Number(saved));
  }

  /** Where the stopped clock is kept. */
  get clock(): Uint8Array {
    return new Uint8Array(this.buffer, this.#clockOffset, CLOCK_SIZE_BYTES);
  }

  /** The part of vCPU `id`. */
  slot(id: number): VcpuSlot {
    return new VcpuSlot(this.#words, HEADER_WORDS + id * SLOT_WORDS);
  }

  /** Replaces the routes of `gsi`. */
  setRoutes(gsi: number, routes: readonly GsiRoute[]): void {
    if (!Number.isInteger(gsi) || gsi < 0 || gsi > MAX_GSI) {
      throw new HypervisorError(`GSI ${gsi} is outside 0 to ${MAX_GSI}`);
    }
    const entries = this.#otherEntries(gsi);
    for (const route of routes) entries.push(encodeRoute(gsi, route));
    if (entries.length > MAX_ROUTES) {
      throw new HypervisorError(`more than ${MAX_ROUTES} interrupt routes`);
    }
    const bytes = new Uint8Array(this.buffer, this.#routes.byteOffset);
    entries.forEach((entry, index) =>
      bytes.set(entry, ROUTES_HEADER_SIZE_BYTES + index * ROUTE_SIZE_BYTES)
    );
    this.#routes.setUint32(0, entries.length, true);
  }

  /** A copy of the whole table as `struct kvm_irq_routing`. */
  routingTable(): Uint8Array<ArrayBuffer> {
    const count = this.#routes.getUint32(0, true);
    const length = ROUTES_HEADER_SIZE_BYTES + count * ROUTE_SIZE_BYTES;
    return new Uint8Array(new Uint8Array(this.buffer, this.#routes.byteOffset, length));
  }

  #otherEntries(gsi: number): Uint8Array[] {
    const table = this.routingTable();
    const view = new DataView(table.buffer);
    const entries: Uint8Array[] = [];
    for (let at = ROUTES_HEADER_SIZE_BYTES; at < table.length; at += ROUTE_SIZE_BYTES) {
      if (view.getUint32(at, true) !== gsi) entries.push(table.subarray(at, at + ROUTE_SIZE_BYTES));
    }
    return entries;
  }
}

function encodeRoute(gsi: number, route: GsiRoute): Uint8Array {
  const bytes = new Uint8Array(ROUTE_SIZE_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, gsi, true);
  if (route.type === "msi") {
    view.setUint32(4, RouteType.Msi, true);
    view.setBigUint64(16, route.address, true);
    view.setUint32(24, route.data, true);
    return bytes;
  }
  const pins = route.chip === "pic" ? PIC_PINS : IOAPIC_PINS;
  if (!Number.isInteger(route.pin) || route.pin < 0 || route.pin >= pins) {
    throw new HypervisorError(`GSI ${gsi}: the ${route.chip} has no pin ${route.pin}`);
  }
  const slave = route.pin >= PIC_CHIP_PINS;
  const chip = route.chip === "ioapic"
    ? Irqchip.Ioapic
    : slave
    ? Irqchip.PicSlave
    : Irqchip.PicMaster;
  view.setUint32(4, RouteType.Irqchip, true);
  view.setUint32(16, chip, true);
  view.setUint32(20, route.chip === "pic" ? route.pin % PIC_CHIP_PINS : route.pin, true);
  return bytes;
}
