/**
 * A processor of the software engine with the tables of a test guest, in 64-bit mode, for tests that
 * look at its state.
 *
 * @module
 */

import { GuestMemory } from "../../../../memory/mod.ts";
import { CODE, GDT, IDT, Selector, STACK, TSS } from "../../../conformance/layout.ts";
import { GDT_SIZE_BYTES, PageTables, Pte, writeGdt } from "../../../conformance/tables.ts";
import { SoftEvents } from "../../events.ts";
import { SoftIrqChip } from "../../irqchip/mod.ts";
import { noteCodeEntry } from "../code_fetch.ts";
import type { HostContext } from "../host_context.ts";
import { cpuLayout, createCpuMemory } from "../cpu_memory.ts";
import { Processor } from "../processor.ts";
import {
  CodeMode,
  Exit,
  FuelCost,
  ITLB,
  ITLB_ENTRIES,
  ITLB_ENTRY,
  Reg,
  S,
  Seg,
  SegAttr,
} from "../state.ts";
import { setSegment } from "./access.ts";
import { loadFlags, updateMode } from "./mode.ts";

const MEMORY_SIZE_BYTES = 0x100_0000;

/** Attributes of flat segments of privilege 0. */
export const Attrs = {
  code64: 0xa0_9b00,
  data: 0xc0_9300,
  busyTss: 0x8b00,
  userDpl: 0x6000,
} as const;

/** The processor and its memory. */
export class TestCpu implements Disposable {
  readonly memory: GuestMemory;
  readonly processor: Processor;
  readonly cpu: HostContext;
  readonly tables: PageTables;
  readonly #events: SoftEvents;

  constructor() {
    this.memory = GuestMemory.create({ sizeBytes: MEMORY_SIZE_BYTES, backing: "wasm" });
    const ram = this.memory.wasmMemory;
    if (ram === undefined) throw new TypeError("the guest memory is not a WebAssembly memory");
    const state = createCpuMemory(cpuLayout());
    const chip = SoftIrqChip.create({
      mailboxes: [{ words: new Int32Array(state.buffer), index: S.mailbox >>> 2 }],
    });
    this.#events = SoftEvents.create();
    this.processor = new Processor({
      id: 0,
      memory: state,
      ram,
      map: { lowBytes: MEMORY_SIZE_BYTES, highBytes: 0 },
      chip,
      events: this.#events,
      tier: "interpreter",
    });
    this.cpu = this.processor.cpu;
    this.tables = PageTables.identity(this.memory);
    this.reset();
  }

  /** 64-bit mode of privilege 0 at the code, with the test guest's tables. */
  reset(): void {
    const { cpu } = this;
    this.processor.reset(false);
    writeGdt(this.memory, 64);
    cpu.set64(S.gdtBase, BigInt(GDT));
    cpu.set32(S.gdtLimit, GDT_SIZE_BYTES - 1);
    cpu.set64(S.idtBase, BigInt(IDT));
    cpu.set32(S.idtLimit, 0xfff);
    cpu.set64(S.cr3, BigInt(this.tables.root));
    cpu.set64(S.cr4, 0x6a0n);
    cpu.set64(S.efer, 0xd01n);
    cpu.set64(S.cr0, 0x8005_0033n);
    setSegment(cpu, Seg.TR, {
      selector: Selector.Tss,
      base: BigInt(TSS),
      limit: 0x3ff,
      attrs: Attrs.busyTss,
    });
    for (const seg of [Seg.ES, Seg.DS, Seg.FS, Seg.GS]) {
      setSegment(cpu, seg, { selector: 0, base: 0n, limit: 0, attrs: SegAttr.unusable });
    }
    this.setPrivilege(0);
    cpu.setReg(Reg.rsp, BigInt(STACK));
    cpu.set64(S.rip, BigInt(CODE));
    loadFlags(cpu, 2n);
    cpu.exports.resetTlb();
    cpu.flushCode();
  }

  /** CS and SS of privilege 0 or 3, for 64-bit code. */
  setPrivilege(cpl: 0 | 3): void {
    const { cpu } = this;
    const user = cpl === 3;
    const flat = { base: 0n, limit: -1 };
    const dpl = user ? Attrs.userDpl : 0;
    const cs = user ? Selector.UserCode64 : Selector.Code64;
    const ss = user ? Selector.UserData : Selector.Data;
    setSegment(cpu, Seg.CS, { ...flat, selector: cs, attrs: Attrs.code64 | dpl });
    setSegment(cpu, Seg.SS, { ...flat, selector: ss, attrs: Attrs.data | dpl });
    updateMode(cpu);
  }

  /** Lets ring 3 at the page of `address`. */
  openToUser(address: number): void {
    const page = address & ~0xfff;
    this.tables.map(page, page, { flags: Pte.Present | Pte.Write | Pte.User });
  }

  /** Runs `code`, written at RIP, until a jump is through (`jumps` of them) or something else comes up. */
  execute(code: readonly number[], jumps = 1): Exit {
    return this.executeAt(Number(this.cpu.get64(S.rip)), code, jumps);
  }

  /** Runs `code` at RIP, which is physical address `physical`. */
  executeAt(physical: number, code: readonly number[], jumps = 1): Exit {
    const { cpu, processor } = this;
    const rip = cpu.get64(S.rip);
    this.memory.writeFrom(physical, new Uint8Array(code));
    processor.code.invalidate(physical >>> 12);
    for (let n = 0; n < 10; n++) {
      // The jump to the first instruction counts too.
      cpu.set32(S.fuel, jumps * FuelCost.jump);
      const exit: Exit = cpu.exports.run();
      if (exit !== Exit.Lookup || cpu.get64(S.rip) !== rip) return exit;
      const page = processor.code.page(physical & ~0xfff, cpu.get32(S.codeTag) & ~CodeMode.user);
      processor.code.decode(page, physical & 0xfff);
      // Only 64-bit code is found without the run loop's help.
      const linear = rip + cpu.segBase(Seg.CS);
      const index = Number((linear >> 12n) % BigInt(ITLB_ENTRIES));
      const entry = ITLB + ITLB_ENTRY * index;
      cpu.set64(entry, (linear & ~0xfffn) | BigInt(cpu.get32(S.codeTag)));
      cpu.set32(entry + 8, page.map);
      cpu.set32(entry + 12, 0);
      noteCodeEntry(cpu, index);
    }
    throw new Error(`the code at ${rip} was never decoded`);
  }

  /** Everything that instructions may change: architectural state, and what follows from it. */
  state(): string {
    const { cpu } = this;
    const words: string[] = [];
    for (let at = 0; at < S.fpu; at += 8) {
      if (transient.has(at)) continue;
      words.push(`${at.toString(16)}=${cpu.get64(at).toString(16)}`);
    }
    return `${words.join(" ")} cpl=${cpu.get32(S.cpl)} flags=${cpu.getRflags().toString(16)}`;
  }

  [Symbol.dispose](): void {
    this.#events[Symbol.dispose]();
    this.memory[Symbol.dispose]();
  }
}

/** Places whose contents mean nothing between instructions. */
const transient = new Set<number>(
  [
    S.ripBase,
    S.flagResult,
    S.flagAux,
    S.flagKind,
    S.fuel,
    S.flagOther,
    S.mailbox,
    S.record,
    S.pageMap,
    S.shadow,
    S.tempEa,
    S.faultVector,
    S.faultError,
    S.faultHasError,
    S.faultRipSet,
    S.exit,
    S.mmioData,
    S.largePages,
  ].map((at) => at & ~7),
);
