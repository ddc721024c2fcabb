/**
 * What the TypeScript part of instructions works on: the CPU state in linear memory, guest memory
 * through page walks, and the way to raise faults.
 *
 * @module
 */

import type { VcpuIo } from "../../types.ts";
import { createException, type Tag } from "../wasm/mod.ts";
import type { Insn } from "./opcode.ts";
import type { HostResult } from "./cx.ts";
import { regOffset, S, SEG_SIZE, SegField } from "./state.ts";

/** Row, operand size and form behind a handler's table slot. */
export interface HandlerInfo {
  readonly insn: Insn;
  /** Operand size in bytes; 0 where the row is not sized. */
  readonly size: number;
  readonly mem: boolean;
  /** True where it changes its memory operand atomically. */
  readonly locked: boolean;
}

/** Exports of the generated module that TypeScript calls. */
export interface EngineExports {
  /** Runs at `S.rip` until there is an Exit. */
  run(): number;
  /** Runs the records at `record` (scratch) until there is an Exit. */
  runRecord(record: number): number;
  /** `size` (1 to 8) bytes at linear address; access is Access bits; throws the fault. */
  systemLoad(linear: bigint, size: number, access: number): bigint;
  /** Stores `size` bytes, nothing of it where any of them faults. */
  systemStore(linear: bigint, value: bigint, size: number, access: number): void;
  /** Physical address, or -1n with the fault left in `fault*`. */
  tryWalk(linear: bigint, access: number): bigint;
  /** Empties the data TLBs. */
  flushTlb(): void;
  /** Empties all of them and the table for checked accesses. */
  resetTlb(): void;
  /** Keeps the checksum of a RAM page's decoded lines. */
  sealCode(ram: number): void;
  /** 1 where the decoded lines are as they were. */
  codeIntact(ram: number): number;
  /** Decodes a run of 64-bit code, see fast_decode.ts; 1 where the first instruction ends behind the page. */
  decodeRun(map: number, ram: number, offset: number): number;
  /** Empties the TLBs but for global pages, as a load of CR3 does. */
  flushLocal(): void;
  /** Drops a linear page from the TLBs; 0 where it may be a large one, so that all must go. */
  flushPage(linear: bigint): number;
  /** Drops write permission of a RAM page (offset in RAM) from the data TLBs. */
  protectPage(ram: number): void;
  /** Enters a handler in 64-bit mode (`how`: Deliver bits); 0 where it takes the long way. */
  deliverFast(vector: number, error: number, how: number, rip: bigint): number;
  /** The six arithmetic flags in RFLAGS layout. */
  arithFlags(): bigint;
  /** Sets them. */
  setArithFlags(flags: bigint): void;
}

/** The interrupt controllers and clock, as far as instructions see them. */
export interface Platform {
  /** Guest time in nanoseconds. */
  nowNs(): number;
  /** Reads an APIC-related MSR; undefined where it is not one, null for #GP. */
  readApicMsr(index: number): bigint | undefined | null;
  /** Writes an APIC-related MSR; undefined where it is not one, false for #GP. */
  writeApicMsr(index: number, value: bigint): boolean | undefined;
  /** By how many ticks the TSC is ahead of guest nanoseconds, for the deadline timer. */
  setTscOffset?(ticks: number): void;
  /** CR8. */
  getTpr(): number;
  /** Sets CR8 (0 to 15). */
  setTpr(value: number): void;
  /** Port input, the engine's own ports first. */
  portIn(port: number, size: number, data: DataView): void;
  /** Port output. */
  portOut(port: number, size: number, data: DataView): void;
}

/** State and services for host calls; one per vCPU. */
export class HostContext {
  /** State as bytes. */
  readonly u8: Uint8Array;
  /** State as 16-bit words. */
  readonly u16: Uint16Array;
  /** State as 32-bit words. */
  readonly i32: Int32Array;
  /** State as unsigned 64-bit words. */
  readonly u64: BigUint64Array;
  /** State for unaligned access. */
  readonly view: DataView;
  readonly tag: Tag;
  /** Number of the vCPU. */
  readonly id: number;
  /** How many vCPUs the machine has, for CPUID. */
  vcpuCount = 1;
  exports!: EngineExports;
  platform!: Platform;
  /** Devices outside the engine, during run. */
  io!: VcpuIo;
  /** By table slot. */
  handlers: readonly (HandlerInfo | undefined)[] = [];
  /** The instruction TLB must be emptied (set by mode changes and TLB flushes). */
  flushCode: () => void = () => {};
  /** Scratch of 8 bytes for port data. */
  readonly portData: DataView = new DataView(new ArrayBuffer(8));

  constructor(memory: WebAssembly.Memory, options: { id: number; tag: Tag }) {
    const buffer = memory.buffer;
    this.u8 = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.i32 = new Int32Array(buffer);
    this.u64 = new BigUint64Array(buffer);
    this.view = new DataView(buffer);
    this.tag = options.tag;
    this.id = options.id;
  }

  /** i32 of the state at byte offset `at` (a multiple of 4). */
  get32(at: number): number {
    return this.i32[at >>> 2] as number;
  }
  /** Sets an i32. */
  set32(at: number, value: number): void {
    this.i32[at >>> 2] = value;
  }
  /** u64 of the state at byte offset `at` (a multiple of 8). */
  get64(at: number): bigint {
    return this.u64[at >>> 3] as bigint;
  }
  /** Sets a u64 (taken modulo 2^64). */
  set64(at: number, value: bigint): void {
    this.u64[at >>> 3] = value;
  }
  /** General register `n`. */
  reg(n: number): bigint {
    return this.u64[regOffset(n) >>> 3] as bigint;
  }
  /** Sets general register `n`. */
  setReg(n: number, value: bigint): void {
    this.u64[regOffset(n) >>> 3] = value;
  }
  /** Selector of segment `seg`. */
  selector(seg: number): number {
    return this.get32(S.segs + SEG_SIZE * seg + SegField.selector);
  }
  /** Base of segment `seg`. */
  segBase(seg: number): bigint {
    return this.get64(S.segs + SEG_SIZE * seg + SegField.base);
  }
  /** Row, size and form of the instruction in `record`. */
  info(record: number): HandlerInfo {
    const info = this.handlers[this.get32(record)];
    if (info === undefined) throw new TypeError(`record ${record} has no handler information`);
    return info;
  }
  /** RFLAGS, all of them. */
  getRflags(): bigint {
    return this.exports.arithFlags() | BigInt(this.get32(S.flagOther) >>> 0);
  }

  /**
   * Raises exception `vector` in the guest; does not return. RIP is that of the running instruction.
   */
  raise(vector: number, error?: number): never {
    this.set32(S.faultVector, vector);
    this.set32(S.faultError, error ?? 0);
    this.set32(S.faultHasError, error === undefined ? 0 : 1);
    this.set32(S.faultRipSet, 0);
    throw createException(this.tag);
  }
}

/**
 * TypeScript's part of an instruction. At entry `S.rip` is the next instruction's address and
 * `S.record` the record. Operand values that generated code prepared are in `S.scratch` (values) and
 * `S.tempEa` (linear address of a memory operand).
 */
export type HostFunction = (cpu: HostContext, record: number) => HostResult;
