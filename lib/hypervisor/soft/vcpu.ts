/**
 * A vCPU of the software engine.
 *
 * @module
 */

import {
  ExitReason,
  type MpState,
  type Regs,
  type Segment,
  type Sregs,
  type Vcpu,
  type VcpuExit,
  type VcpuIo,
} from "../types.ts";
import { sleepExactly } from "../../host/mod.ts";
import type { RamMap } from "./cpu/code_fetch.ts";
import { Processor, RunResult } from "./cpu/processor.ts";
import { S, Seg, SegAttr, SegField, segOffset } from "./cpu/state.ts";
import type { DeskPart } from "./cpu/translator/desk.ts";
import { TranslationStore } from "./cpu/translator/store.ts";
import type { Tier } from "./cpu/translator/tier.ts";
import { storeOptions, type TranslationSettings } from "./translations.ts";
import { loadFlags, readMsr, updateMode, writeMsr } from "./cpu/system/mod.ts";
import { type EngineCounters, SLOW_PAGES } from "./engine_stats.ts";
import type { SoftEvents } from "./events.ts";
import type { SoftIrqChip } from "./irqchip/mod.ts";

const names = [
  "rax",
  "rcx",
  "rdx",
  "rbx",
  "rsp",
  "rbp",
  "rsi",
  "rdi",
  "r8",
  "r9",
  "r10",
  "r11",
  "r12",
  "r13",
  "r14",
  "r15",
] as const;

const segments:
  readonly (readonly ["es" | "cs" | "ss" | "ds" | "fs" | "gs" | "ldt" | "tr", Seg])[] = [
    ["es", Seg.ES],
    ["cs", Seg.CS],
    ["ss", Seg.SS],
    ["ds", Seg.DS],
    ["fs", Seg.FS],
    ["gs", Seg.GS],
    ["ldt", Seg.LDTR],
    ["tr", Seg.TR],
  ];

/** Parts of a {@link SoftVcpu}. */
export interface SoftVcpuOptions {
  readonly id: number;
  readonly state: WebAssembly.Memory;
  readonly ram: WebAssembly.Memory;
  readonly map: RamMap;
  readonly chip: SoftIrqChip;
  readonly events: SoftEvents;
  readonly tier: Tier;
  /** Where there are several vCPUs: what they share, and the state memories of all. */
  readonly team?: { memory: WebAssembly.Memory; cpus: readonly WebAssembly.Memory[] };
  readonly translations: TranslationSettings;
  readonly counters: EngineCounters;
  /** Where translations may be asked for. */
  readonly desk: DeskPart;
}

/** A software processor behind the engine interface. */
export class SoftVcpu implements Vcpu {
  readonly id: number;
  readonly #processor: Processor;
  readonly #store: TranslationStore;
  readonly #counters: EngineCounters;
  readonly #exit: VcpuExit = { reason: ExitReason.Interrupted, detail: "" };

  constructor(options: SoftVcpuOptions) {
    const { map } = options;
    this.id = options.id;
    // The guest's timers are as exact as the sleep of HLT.
    sleepExactly();
    const { folder, version, limitBytes } = storeOptions(
      options.translations,
      { several: options.team !== undefined, ramBytes: map.lowBytes + map.highBytes },
    );
    this.#store = new TranslationStore({ folder, version, limitBytes });
    this.#store.load();
    this.#processor = new Processor({
      id: options.id,
      memory: options.state,
      ram: options.ram,
      map: options.map,
      chip: options.chip,
      events: options.events,
      tier: options.tier,
      ...(options.team === undefined ? {} : { team: options.team }),
      store: this.#store,
      files: folder === undefined ? undefined : { folder, version },
      codeLimitBytes: options.translations.codeLimitBytes,
      desk: options.desk,
    });
    this.#processor.reset(options.id !== 0);
    this.#counters = options.counters;
    this.#processor.samples.onMany = () => this.#publish();
  }

  prepare(isCalled: () => boolean): void {
    this.#processor.translator.installer.prepare(isCalled);
  }

  run(io: VcpuIo): VcpuExit {
    const exit = this.#exit;
    const result = this.#processor.run(io);
    this.#publish();
    exit.reason = result === RunResult.TripleFault ? ExitReason.Shutdown : ExitReason.Interrupted;
    exit.detail = result === RunResult.TripleFault ? this.#describe("triple fault") : "";
    return exit;
  }

  /** Lets others see the counters. */
  #publish(): void {
    this.#counters.write(this.id, this.stats(), this.#processor.samples.worst(SLOW_PAGES));
  }

  #describe(what: string): string {
    const cpu = this.#processor.cpu;
    const hex = (value: bigint) => `0x${value.toString(16)}`;
    const general = names.map((name, n) => `${name}=${hex(cpu.reg(n))}`).join(" ");
    return `${what}: rip=${hex(cpu.get64(S.rip))} rflags=${hex(cpu.getRflags())} ${general} ` +
      `cs=${hex(BigInt(cpu.selector(Seg.CS)))} cr0=${hex(cpu.get64(S.cr0))} ` +
      `cr2=${hex(cpu.get64(S.cr2))} cr3=${hex(cpu.get64(S.cr3))} cr4=${hex(cpu.get64(S.cr4))} ` +
      `efer=${hex(cpu.get64(S.efer))}`;
  }

  getRegs(): Regs {
    const cpu = this.#processor.cpu;
    const regs: Record<string, bigint> = {};
    names.forEach((name, n) => regs[name] = cpu.reg(n));
    return {
      ...(regs as unknown as Omit<Regs, "rip" | "rflags">),
      rip: cpu.get64(S.rip),
      rflags: cpu.getRflags(),
    };
  }

  setRegs(regs: Partial<Regs>): void {
    const cpu = this.#processor.cpu;
    names.forEach((name, n) => {
      const value = regs[name];
      if (value !== undefined) cpu.setReg(n, value);
    });
    if (regs.rip !== undefined) cpu.set64(S.rip, regs.rip);
    if (regs.rflags !== undefined) loadFlags(cpu, regs.rflags);
  }

  getSregs(): Sregs {
    const cpu = this.#processor.cpu;
    const result: Record<string, Segment> = {};
    for (const [name, seg] of segments) result[name] = this.#getSegment(seg);
    return {
      ...(result as unknown as Pick<Sregs, "cs" | "ds" | "es" | "fs" | "gs" | "ss" | "tr" | "ldt">),
      gdt: { base: cpu.get64(S.gdtBase), limit: cpu.get32(S.gdtLimit) },
      idt: { base: cpu.get64(S.idtBase), limit: cpu.get32(S.idtLimit) },
      cr0: cpu.get64(S.cr0),
      cr2: cpu.get64(S.cr2),
      cr3: cpu.get64(S.cr3),
      cr4: cpu.get64(S.cr4),
      cr8: BigInt(cpu.platform.getTpr()),
      efer: cpu.get64(S.efer),
      apicBase: cpu.platform.readApicMsr(0x1b) ?? 0n,
    };
  }

  setSregs(sregs: Partial<Sregs>): void {
    const cpu = this.#processor.cpu;
    for (const [name, seg] of segments) {
      const value = sregs[name];
      if (value !== undefined) this.#setSegment(seg, value);
    }
    if (sregs.gdt !== undefined) {
      cpu.set64(S.gdtBase, sregs.gdt.base);
      cpu.set32(S.gdtLimit, sregs.gdt.limit);
    }
    if (sregs.idt !== undefined) {
      cpu.set64(S.idtBase, sregs.idt.base);
      cpu.set32(S.idtLimit, sregs.idt.limit);
    }
    if (sregs.cr0 !== undefined) cpu.set64(S.cr0, sregs.cr0);
    if (sregs.cr2 !== undefined) cpu.set64(S.cr2, sregs.cr2);
    if (sregs.cr3 !== undefined) cpu.set64(S.cr3, sregs.cr3);
    if (sregs.cr4 !== undefined) cpu.set64(S.cr4, sregs.cr4);
    if (sregs.efer !== undefined) cpu.set64(S.efer, sregs.efer);
    if (sregs.cr8 !== undefined) cpu.platform.setTpr(Number(sregs.cr8));
    if (sregs.apicBase !== undefined) cpu.platform.writeApicMsr(0x1b, sregs.apicBase);
    this.#processor.flush();
    updateMode(cpu);
  }

  #getSegment(seg: Seg): Segment {
    const cpu = this.#processor.cpu;
    const at = segOffset(seg);
    const attrs = cpu.get32(at + SegField.attrs);
    return {
      base: cpu.get64(at + SegField.base),
      limit: cpu.get32(at + SegField.limit) >>> 0,
      selector: cpu.get32(at + SegField.selector),
      type: (attrs >>> SegAttr.typeShift) & 15,
      present: (attrs & SegAttr.present) !== 0,
      dpl: (attrs >>> SegAttr.dplShift) & 3,
      db: (attrs & SegAttr.db) !== 0,
      s: (attrs & SegAttr.s) !== 0,
      l: (attrs & SegAttr.long) !== 0,
      g: (attrs & SegAttr.granularity) !== 0,
      avl: (attrs & SegAttr.avl) !== 0,
      unusable: (attrs & SegAttr.unusable) !== 0,
    };
  }

  #setSegment(seg: Seg, value: Segment): void {
    const cpu = this.#processor.cpu;
    const at = segOffset(seg);
    cpu.set64(at + SegField.base, value.base);
    cpu.set32(at + SegField.limit, value.limit);
    cpu.set32(at + SegField.selector, value.selector);
    cpu.set32(
      at + SegField.attrs,
      (value.type << SegAttr.typeShift) | (value.s ? SegAttr.s : 0) |
        (value.dpl << SegAttr.dplShift) | (value.present ? SegAttr.present : 0) |
        (value.avl ? SegAttr.avl : 0) | (value.l ? SegAttr.long : 0) |
        (value.db ? SegAttr.db : 0) | (value.g ? SegAttr.granularity : 0) |
        (value.unusable ? SegAttr.unusable : 0),
    );
  }

  getMsr(index: number): bigint {
    return readMsr(this.#processor.cpu, index);
  }

  setMsr(index: number, value: bigint): void {
    writeMsr(this.#processor.cpu, index, value);
  }

  getMpState(): MpState {
    return this.#processor.waiting ? "uninitialized" : "runnable";
  }

  /** Counters of the engine. */
  stats(): Record<string, number> {
    const { code, translator, lockstep, guards, stats, samples, cpu } = this.#processor;
    return {
      samplesInterpreted: samples.interpreted,
      samplesTranslated: samples.translated,
      ...stats,
      tlbFills: Number(cpu.get64(S.tlbFills)),
      codeFlushes: code.flushes,
      decoded: code.decoded,
      invalidated: code.invalidated,
      ...translator.stats,
      ...translator.installer.stats,
      ...this.#store.stats,
      instances: translator.installer.instances,
      keptUnits: this.#store.size,
      ...(lockstep === undefined ? {} : {
        comparedRegions: lockstep.stats.regions,
        comparedInstructions: lockstep.stats.instructions,
        comparedFaults: lockstep.stats.faults,
        ...guards === undefined ? {} : {
          guardedRegions: guards.stats.regions,
          guardedRegionsCompared: guards.stats.compared,
        },
      }),
    };
  }

  [Symbol.dispose](): void {
    // Its memory goes with the VM.
    this.#store.save();
  }
}
