/**
 * The software processor behind the same interface as the native runner: one instruction in 64-bit user
 * mode from the state of a case, the state it leaves in the same place.
 *
 * @module
 */

import { createTag } from "../wasm/mod.ts";
import { CodeCache } from "../cpu/code_cache.ts";
import { Decoder } from "../cpu/decoder.ts";
import { type EngineExports, HostContext } from "../cpu/host_context.ts";
import { compileInterpreter, emitInterpreter } from "../cpu/interpreter.ts";
import type { Insn } from "../cpu/opcode.ts";
import { cpuLayout, createCpuMemory } from "../cpu/cpu_memory.ts";
import {
  ARITH_FLAGS,
  CodeMode,
  Exit,
  HANDLER_SLOTS,
  S,
  SCRATCH_RECORDS,
  Seg,
  SegAttr,
  SegField,
  segOffset,
  Vector,
} from "../cpu/state.ts";
import { hostFunctions, updateMode } from "../cpu/system/mod.ts";
import { registerHelpers } from "../cpu/table.ts";
import { Case, WINDOW } from "./native.ts";

const PAGE = 4096;
const RAM_BYTES = 1 << 20;
/** Where the two data pages lie in guest RAM, and the page tables. */
const DATA_RAM = 0x40000;
const TABLES_RAM = 0x1000;

/** Linear address of the instructions of the interpreter. */
export const IP = 0x1000n;

/** Something that does the instruction of a case. */
export interface SingleStep extends Disposable {
  /** Chooses the instruction for the next cases. */
  prepare(instruction: Uint8Array): void;
  /** Does it: `at` is the offset of the case in `cases`, which is changed in place. */
  step(cases: Uint8Array, at: number): void;
}

/** The interpreter as a {@link SingleStep}. */
export class InterpreterStep implements SingleStep {
  readonly cpu: HostContext;
  readonly #code: CodeCache;
  readonly #exports: EngineExports;
  readonly #ram: Uint8Array;
  readonly #pages: bigint;

  /**
   * @param rows The opcode table.
   * @param pages Linear address of the two data pages; the pages around are not present.
   */
  constructor(rows: readonly Insn[], pages: bigint) {
    this.#pages = pages;
    const layout = cpuLayout();
    const memory = createCpuMemory(layout);
    const ramPages = RAM_BYTES / 65536;
    const ram = new WebAssembly.Memory({ initial: ramPages, maximum: ramPages, shared: true });
    this.#ram = new Uint8Array(ram.buffer);
    const tag = createTag();
    this.cpu = new HostContext(memory, { id: 0, tag });
    const options = {
      rows,
      smp: false,
      holdsRam: false,
      extend: registerHelpers,
    };
    this.cpu.set64(S.ramLow, BigInt(RAM_BYTES));
    const interpreter = compileInterpreter(emitInterpreter(options), options);
    const missing = () => {
      throw new Error("single steps have no devices");
    };
    const host = (id: number, record: number) =>
      hostFunctions.get(id)?.(this.cpu, record) ?? missing();
    const imports: Record<string, WebAssembly.ImportValue> = {
      cpu: memory,
      ram,
      table: new WebAssembly.Table({ element: "anyfunc", initial: HANDLER_SLOTS }),
      fault: tag as unknown as WebAssembly.ImportValue,
    };
    for (const { name, kind } of WebAssembly.Module.imports(interpreter.module)) {
      if (kind === "function") imports[name] = name === "host" ? host : missing;
    }
    const instance = new WebAssembly.Instance(interpreter.module, { e: imports });
    this.#exports = instance.exports as unknown as EngineExports;
    this.cpu.exports = this.#exports;
    this.cpu.handlers = interpreter.handlers;
    this.#code = new CodeCache(memory, ram, {
      regions: layout.regions,
      interpreter,
      decoder: new Decoder(rows),
      protect: () => {},
      seal: () => {},
    });
    this.#userMode();
  }

  #userMode(): void {
    const cpu = this.cpu;
    const view = new DataView(this.#ram.buffer);
    let top = TABLES_RAM + PAGE;
    for (let i = 0; i < 2; i++) {
      const linear = this.#pages + BigInt(i * PAGE);
      let table = TABLES_RAM;
      for (const shift of [39n, 30n, 21n]) {
        const at = table + 8 * Number((linear >> shift) & 511n);
        if (view.getBigUint64(at, true) === 0n) {
          view.setBigUint64(at, BigInt(top) | 7n, true);
          top += PAGE;
        }
        table = Number(view.getBigUint64(at, true) & ~0xfffn);
      }
      const at = table + 8 * Number((linear >> 12n) & 511n);
      view.setBigUint64(at, BigInt(DATA_RAM + i * PAGE) | 7n, true);
    }
    const data = SegAttr.present | SegAttr.s | SegAttr.writable | SegAttr.accessed |
      (3 << SegAttr.dplShift) | SegAttr.db | SegAttr.granularity;
    for (const seg of [Seg.ES, Seg.CS, Seg.SS, Seg.DS, Seg.FS, Seg.GS]) {
      const at = segOffset(seg);
      const code = seg === Seg.CS;
      cpu.set64(at + SegField.base, 0n);
      cpu.set32(at + SegField.limit, -1);
      cpu.set32(
        at + SegField.attrs,
        code ? (data & ~SegAttr.db) | SegAttr.code | SegAttr.long : data,
      );
      cpu.set32(at + SegField.selector, code ? 0x33 : 0x2b);
    }
    cpu.set64(S.zero, 0n);
    cpu.set32(S.flagOther, 0x202);
    cpu.set64(S.cr0, 0x8005_0033n);
    cpu.set64(S.cr3, BigInt(TABLES_RAM));
    cpu.set64(S.cr4, 0x6_20n | 0x20n);
    cpu.set64(S.efer, 0xd01n);
    updateMode(cpu);
    this.#exports.resetTlb();
    cpu.set64(S.rip, IP);
    cpu.set64(S.ripBase, IP);
  }

  prepare(instruction: Uint8Array): void {
    const isWhole = this.#code.scratch.decode(instruction, {
      at: 0,
      end: instruction.length,
      offset: 0,
      mode: CodeMode.bits64,
      stop: true,
    });
    if (!isWhole) throw new Error("the decoder wants more bytes");
  }

  step(cases: Uint8Array, at: number): void {
    const cpu = this.cpu;
    const view = new DataView(cases.buffer, cases.byteOffset + at, Case.size);
    cpu.u8.set(cases.subarray(at, at + 128), S.regs);
    const flags = view.getBigUint64(Case.flags, true);
    this.#exports.setArithFlags(flags);
    cpu.set32(S.flagOther, (Number(flags) & ~ARITH_FLAGS) | 2);
    this.#loadFx(cases, at + Case.fx, view);
    const window = DATA_RAM + Number(view.getBigUint64(Case.window, true) - this.#pages);
    this.#ram.set(cases.subarray(at + Case.memory, at + Case.memory + WINDOW), window);
    cpu.set64(S.rip, IP);
    cpu.set64(S.ripBase, IP);

    const exit = this.#exports.runRecord(SCRATCH_RECORDS);
    let vector = 0n;
    if (exit === Exit.Fault) {
      vector = BigInt(cpu.get32(S.faultVector));
      const error = cpu.get32(S.faultHasError) !== 0 ? cpu.get32(S.faultError) : 0;
      view.setBigUint64(Case.error, BigInt(error), true);
      if (vector === BigInt(Vector.PF)) view.setBigUint64(Case.cr2, cpu.get64(S.cr2), true);
    }
    view.setBigUint64(Case.signal, exit === Exit.Fault ? 1n : 0n, true);
    view.setBigUint64(Case.trap, vector, true);
    cases.set(cpu.u8.subarray(S.regs, S.regs + 128), at);
    view.setBigUint64(
      Case.flags,
      this.#exports.arithFlags() | BigInt(cpu.get32(S.flagOther)),
      true,
    );
    this.#saveFx(cases, at + Case.fx, view);
    cases.set(this.#ram.subarray(window, window + WINDOW), at + Case.memory);
  }

  #loadFx(cases: Uint8Array, fx: number, view: DataView): void {
    const cpu = this.cpu;
    cpu.set32(S.fpuCw, view.getUint16(Case.fx, true));
    const sw = view.getUint16(Case.fx + 2, true);
    cpu.set32(S.fpuSw, sw);
    cpu.set32(S.fpuEmpty, view.getUint8(Case.fx + 4) ^ 0xff);
    cpu.set32(S.fpuOpcode, view.getUint16(Case.fx + 6, true));
    cpu.set64(S.fpuIp, view.getBigUint64(Case.fx + 8, true));
    cpu.set64(S.fpuDp, view.getBigUint64(Case.fx + 16, true));
    cpu.set32(S.fpuSelectors, 0);
    cpu.set32(S.mxcsr, view.getUint32(Case.fx + 24, true));
    const top = (sw >> 11) & 7;
    for (let i = 0; i < 8; i++) {
      const from = fx + 32 + 16 * i;
      cpu.u8.set(cases.subarray(from, from + 16), S.fpu + 16 * ((top + i) & 7));
    }
    cpu.u8.set(cases.subarray(fx + 160, fx + 416), S.xmm);
  }

  #saveFx(cases: Uint8Array, fx: number, view: DataView): void {
    const cpu = this.cpu;
    const sw = cpu.get32(S.fpuSw);
    view.setUint16(Case.fx, cpu.get32(S.fpuCw), true);
    view.setUint16(Case.fx + 2, sw, true);
    view.setUint8(Case.fx + 4, cpu.get32(S.fpuEmpty) ^ 0xff);
    view.setUint16(Case.fx + 6, cpu.get32(S.fpuOpcode), true);
    view.setBigUint64(Case.fx + 8, cpu.get64(S.fpuIp), true);
    view.setBigUint64(Case.fx + 16, cpu.get64(S.fpuDp), true);
    view.setUint32(Case.fx + 24, cpu.get32(S.mxcsr), true);
    const top = (sw >> 11) & 7;
    for (let i = 0; i < 8; i++) {
      const from = S.fpu + 16 * ((top + i) & 7);
      cases.set(cpu.u8.subarray(from, from + 10), fx + 32 + 16 * i);
      cases.fill(0, fx + 32 + 16 * i + 10, fx + 32 + 16 * i + 16);
    }
    cases.set(cpu.u8.subarray(S.xmm, S.xmm + 256), fx + 160);
  }

  [Symbol.dispose](): void {}
}
