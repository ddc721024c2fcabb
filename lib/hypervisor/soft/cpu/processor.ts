/**
 * A software vCPU: its parts, and the loop that runs generated code and sees to what it comes back with.
 *
 * @module
 */

import { yieldThread } from "../../../host/mod.ts";
import type { VcpuIo } from "../../types.ts";
import { HypervisorError } from "../../errors.ts";
import type { SoftIrqChip } from "../irqchip/mod.ts";
import type { SoftEvents } from "../events.ts";
import { createTag } from "../wasm/mod.ts";
import { Collector } from "./collector.ts";
import { CodeCache } from "./code_cache.ts";
import { CodeFetch, type RamMap } from "./code_fetch.ts";
import { cpuLayout } from "./cpu_memory.ts";
import { CpuTeam } from "./cpu_team.ts";
import { HostResult, type Locked } from "./cx.ts";
import { Decoder } from "./decoder.ts";
import { DeviceAccess } from "./device_access.ts";
import { type EngineExports, HostContext } from "./host_context.ts";
import { Host } from "./host_calls.ts";
import { compileInterpreter, emitInterpreter, type Interpreter } from "./interpreter.ts";
import {
  embeddedImage,
  type ImageFiles,
  imageFor,
  imagePart,
  type InterpreterKind,
} from "./interpreter_image.ts";
import { Incoming } from "./incoming.ts";
import { KickWatch } from "./kick_watch.ts";
import { protectModule } from "./mmu/mod.ts";
import { SingleStep } from "./single_step.ts";
import { SplitLocks } from "./split_lock.ts";
import { Samples } from "./samples.ts";
import {
  CodeMode,
  Exit,
  Flag,
  FuelCost,
  HANDLER_SLOTS,
  ITLB,
  ITLB_ENTRIES,
  ITLB_ENTRY,
  Mailbox,
  S,
  Seg,
} from "./state.ts";
import { deliver, hostFunctions, resetCpu } from "./system/mod.ts";
import { allRows, registerHelpers } from "./table.ts";
import { Guards, type TableFunction } from "./translator/guards.ts";
import { Lockstep } from "./translator/lockstep.ts";
import type { TranslationStore } from "./translator/store.ts";
import type { DeskPart } from "./translator/desk.ts";
import { type Tier, TierPolicy } from "./translator/tier.ts";
import { Translator } from "./translator/translator.ts";

/** Fuel between looks at timers and requests, see FuelCost. */
const FUEL = 6000;
/** PAUSE instructions in that time that are a spin. */
const SPINS = 64;

/** What {@link Processor.run} came back with. */
export enum RunResult {
  Interrupted,
  TripleFault,
}

let lastInterpreter: { key: string; interpreter: Interpreter } | undefined;

/** The interpreter; the last one made in this worker is kept. */
export function interpreterFor(kind: InterpreterKind, files: ImageFiles | undefined): Interpreter {
  const key = imagePart(kind);
  if (lastInterpreter?.key !== key) {
    const emit = () => emitInterpreter({ rows: allRows, ...kind, extend: registerHelpers });
    const image = embeddedImage(kind) ??
      (files === undefined ? emit() : imageFor(key, emit, files));
    lastInterpreter = { key, interpreter: compileInterpreter(image, { rows: allRows }) };
  }
  return lastInterpreter.interpreter;
}

/** Arguments of the import `splitLock`, see `Imports`. */
type SplitLockArguments = [number, number, number, Locked, bigint, bigint];

function joinTeam(
  team: { memory: WebAssembly.Memory; cpus: readonly WebAssembly.Memory[] },
  options: { id: number; cpuPages: number },
): CpuTeam {
  const module = protectModule(options.cpuPages);
  const protect = team.cpus.filter((_, id) => id !== options.id).map((cpu) => {
    const { exports } = new WebAssembly.Instance(module, { e: { cpu } });
    return exports.protectPage as unknown as (ram: number) => void;
  });
  return new CpuTeam(team.memory, { ...options, cpus: team.cpus, protect });
}

/** One software processor, in the worker that runs it. */
export class Processor {
  readonly cpu: HostContext;
  readonly code: CodeCache;
  readonly interpreter: Interpreter;
  readonly #exports: EngineExports;
  readonly #ram: Uint8Array;
  readonly #mailbox: Int32Array;
  readonly #fetch: CodeFetch;
  readonly #steps: SingleStep;
  readonly #incoming: Incoming;
  readonly #devices: DeviceAccess;
  /** Makes hot code fast. */
  readonly translator: Translator;
  readonly #tier: TierPolicy;
  /** Compares regions with the interpreter, in tests. */
  readonly lockstep: Lockstep | undefined;
  /** Where regions are compared now and then. */
  readonly guards: Guards | undefined;
  readonly #team: CpuTeam | undefined;
  readonly #locks: SplitLocks | undefined;
  /** Counters of the run loop. */
  readonly stats = {
    lookups: 0,
    faults: 0,
    hostCalls: 0,
    deviceAccesses: 0,
    halts: 0,
  };
  /** Where the guest was found. */
  readonly samples: Samples;
  readonly #collector = new Collector();
  /** Fuel to go on with, 0 for a new load. */
  #fuelLeft = 0;
  /** Looks for the answer of a device. */
  readonly #kickWatch = new KickWatch();
  /** Generated code may have met a guard, where the next region is compared. */
  #atGuard = false;

  constructor(options: {
    id: number;
    memory: WebAssembly.Memory;
    ram: WebAssembly.Memory;
    map: RamMap;
    chip: SoftIrqChip;
    events: SoftEvents;
    tier?: Tier;
    /** Where there are several vCPUs: what they share, and the state memories of all. */
    team?: { memory: WebAssembly.Memory; cpus: readonly WebAssembly.Memory[] };
    store?: TranslationStore | undefined;
    files?: ImageFiles | undefined;
    codeLimitBytes?: number | undefined;
    /** Where another thread may be asked to translate. */
    desk?: DeskPart | undefined;
  }) {
    const { id, memory, ram, chip } = options;
    // Another vCPU may change memory between a region and the interpreter, so they are not compared.
    const tier = options.tier ?? "auto";
    this.#tier = new TierPolicy(
      options.team === undefined
        ? tier
        : tier === "lockstep"
        ? "translator-forced"
        : tier === "spot-checks"
        ? "auto"
        : tier,
      FUEL,
    );
    const layout = cpuLayout();
    const cpuPages = memory.buffer.byteLength / 65536;
    if (options.team !== undefined) {
      this.#team = joinTeam(options.team, { id, cpuPages });
      this.#locks = new SplitLocks({ team: this.#team, ram, cpu: memory });
    }
    const tag = createTag();
    this.#ram = new Uint8Array(ram.buffer);
    this.cpu = new HostContext(memory, { id, tag });
    this.cpu.vcpuCount = options.team?.cpus.length ?? 1;
    this.#mailbox = this.cpu.i32;
    this.samples = new Samples(this.cpu.i32);
    this.cpu.set64(S.ramLow, BigInt(options.map.lowBytes));
    this.cpu.set64(S.ramHigh, BigInt(options.map.highBytes));
    const kind = { smp: options.team !== undefined, holdsRam: cpuPages > layout.pages };
    this.interpreter = interpreterFor(kind, options.files);
    const table = new WebAssembly.Table({ element: "anyfunc", initial: HANDLER_SLOTS });
    const instance = new WebAssembly.Instance(this.interpreter.module, {
      e: {
        cpu: memory,
        ram,
        table,
        fault: tag as unknown as WebAssembly.ImportValue,
        host: (id: number, record: number) => this.#host(id, record),
        mmioLoad: (physical: number, size: number) => this.#devices.load(physical, size),
        mmioStore: (physical: number, size: number) => this.#devices.store(physical, size),
        dataAccess: (linear: bigint, size: number, write: number) =>
          this.#dataAccess(linear, { size, write: write !== 0 }),
        codeWrite: (at: number, size: number) => this.code.write(at >>> 0, size),
        splitLock: (...args: SplitLockArguments) => this.#splitLock(...args),
        now: () => chip.clock.nowNs(),
        exchange16: (at: number) => this.#locks?.exchange16(at >>> 0),
        ...(options.team === undefined ? {} : { vm: options.team.memory }),
      },
    });
    this.#exports = instance.exports as unknown as EngineExports;
    this.cpu.exports = this.#exports;
    this.cpu.handlers = this.interpreter.handlers;
    this.code = new CodeCache(memory, ram, {
      regions: layout.regions,
      interpreter: this.interpreter,
      decoder: new Decoder(allRows),
      protect: (at) => this.#exports.protectPage(at),
      seal: (at) => this.#exports.sealCode(at),
      decodeRun: this.#exports.decodeRun,
      ...(this.#team === undefined ? {} : { team: this.#team }),
    });
    // The handler that leaves at its instruction stands before regions.
    const guard = table.get(this.interpreter.special.stop) as TableFunction;
    this.guards = this.#tier.tier === "spot-checks" ? new Guards(table, guard) : undefined;
    this.translator = new Translator({
      cpuMemory: memory,
      ramMemory: ram,
      table,
      tag,
      interpreter: this.interpreter,
      exports: instance.exports,
      code: this.code,
      lockstep: this.#tier.compares,
      guards: this.guards,
      pageAt: (linear) => this.#fetch.pageAt(linear),
      isIntact: (at) => this.#exports.codeIntact(at) !== 0,
      store: this.#tier.compares ? undefined : options.store,
      codeLimitBytes: options.codeLimitBytes,
      shared: this.#team !== undefined,
      large: options.desk?.large,
      used: options.desk?.used,
      desk: this.#tier.tier === "auto" || this.#tier.asksNow ? options.desk : undefined,
    });
    const translates = this.#tier.tier !== "interpreter";
    this.#fetch = new CodeFetch({
      ...{ cpu: this.cpu, code: this.code, exports: this.#exports },
      ...{ ram: this.#ram, map: options.map },
      open: (page) => {
        if (translates) this.translator.installer.open(page);
      },
    });
    this.#steps = new SingleStep(this.cpu, this.code, this.#fetch);
    this.#incoming = new Incoming({
      ...{ cpu: this.cpu, chip, events: options.events, team: this.#team },
      kickWatch: this.#kickWatch,
      tidy: () => this.#tidy(options.store),
      reset: () => this.reset(true),
    });
    if (this.#tier.compares) this.lockstep = this.#makeLockstep();
    this.#devices = new DeviceAccess({
      ...{ cpu: this.cpu, chip, events: options.events, incoming: this.#incoming },
      ...{ stats: this.stats, lockstep: this.lockstep },
      kickWatch: this.#tier.tier === "auto" ? this.#kickWatch : undefined,
    });
    this.cpu.flushCode = () => this.code.flushTlb();
    this.cpu.platform = this.#devices.platform();
  }

  /** For a guest that has nothing to do for a while; true where that was made use of. */
  #tidy(store: TranslationStore | undefined): boolean {
    const { droppedBytes } = this.translator.installer.stats;
    if (store?.rest(performance.now()) !== true) return this.#collector.idle(droppedBytes);
    // A file takes several times its size while it is made.
    this.#collector.behindWork(droppedBytes);
    return true;
  }

  #splitLock(...[ram, next, size, kind, operand, expected]: SplitLockArguments): bigint {
    const at = { ram: ram >>> 0, next: next === -1 ? -1 : next >>> 0, size };
    const how = { kind, operand, expected: BigInt.asUintN(64, expected) };
    const old = this.#locks?.change(at, how) ?? 0n;
    if (at.next === -1) this.code.write(at.ram, size);
    else {
      this.code.write(at.ram, 4096 - (at.ram & 4095));
      this.code.write(at.next, (at.ram + size) & 4095);
    }
    return old;
  }

  /** Power-on state; `waiting` processors (all but the first) wait for INIT and SIPI. */
  reset(waiting: boolean): void {
    resetCpu(this.cpu);
    this.#exports.resetTlb();
    this.code.flushTlb();
    this.#incoming.waiting = waiting;
  }

  /** Empties all TLBs. */
  flush(): void {
    this.#exports.flushTlb();
    this.code.flushTlb();
  }

  /** True while it waits for INIT and SIPI. */
  get waiting(): boolean {
    return this.#incoming.waiting;
  }

  #host(id: number, record: number): number {
    this.stats.hostCalls++;
    const f = hostFunctions.get(id);
    if (f === undefined) throw new HypervisorError(`software engine: no host function ${id}`);
    const result = f(this.cpu, record);
    if (id === Host.interruptReturn && this.cpu.get32(S.nmiBlocked) !== 0) {
      this.#incoming.endOfNmi();
    }
    // Most of them serialize: code that other vCPUs wrote before is seen from here on.
    if (this.cpu.get32(S.mailbox) & Mailbox.code) this.cpu.set32(S.fuel, 0);
    // Where something waits, the runtime looks at it now, not at the next branch.
    return result === HostResult.Next && this.cpu.get32(S.fuel) <= 0 ? HostResult.Jump : result;
  }

  #dataAccess(linear: bigint, access: { size: number; write: boolean }): void {
    if (this.lockstep?.active === true) this.lockstep.access(linear, access);
    else this.#steps.dataAccess(linear, access);
  }

  #lookup(): number {
    this.stats.lookups++;
    return this.#fetch.lookup();
  }

  /** Executes until there is something for the machine. Sleeps in HLT. */
  run(io: VcpuIo): RunResult {
    this.#team?.enter();
    try {
      return this.#run(io);
    } finally {
      this.#team?.leave();
    }
  }

  #run(io: VcpuIo): RunResult {
    const cpu = this.cpu;
    cpu.io = io;
    for (;;) {
      this.#team?.turn();
      if (io.stopRequested) return RunResult.Interrupted;
      const mail = Atomics.load(this.#mailbox, S.mailbox >>> 2);
      if (mail & Mailbox.leave) {
        Atomics.and(this.#mailbox, S.mailbox >>> 2, ~Mailbox.leave);
        return RunResult.Interrupted;
      }
      if (mail & Mailbox.code) this.#renewCode();
      if (this.#incoming.waiting) {
        if (!this.#incoming.awaitStart()) continue;
      }
      this.#incoming.runTimers();
      const oneMore = cpu.get32(S.shadow) !== 0;
      if (!oneMore && this.#mailbox[S.mailbox >>> 2] !== 0) {
        if (this.#incoming.deliver() === "triple") return RunResult.TripleFault;
        if (this.#incoming.waiting) continue;
      }
      cpu.set32(S.shadow, 0);
      const trap = (cpu.get32(S.flagOther) & Flag.TF) !== 0;
      let exit: number;
      const debug = (cpu.get32(S.dr + 8 * 7) & 0xff) !== 0;
      if (oneMore || trap || debug || this.#tier.stepsAside()) {
        exit = this.#steps.run({ trap, debug });
      } else if (this.lockstep !== undefined && (this.guards === undefined || this.#atGuard)) {
        this.#atGuard = false;
        exit = this.#compare(this.lockstep);
      } else {
        // Fuel goes on behind other exits: what often comes soon after one, such as after HLT, would else
        // never be sampled.
        cpu.set32(S.fuel, this.#fuelLeft > 0 ? this.#fuelLeft : this.#tier.nextFuel());
        exit = this.#exports.run();
        this.#atGuard = exit === Exit.Resume;
        if (exit === Exit.Lookup) {
          exit = this.#lookup();
          // The jump that failed will be paid for again.
          if (exit === Exit.Resume || exit === Exit.Lookup) {
            cpu.set32(S.fuel, cpu.get32(S.fuel) + FuelCost.jump);
          }
        }
        this.#fuelLeft = cpu.get32(S.fuel);
      }
      switch (exit) {
        case Exit.Fuel:
          this.#fuelLeft = this.#kickWatch.next();
          if (this.#fuelLeft > 0) break;
          this.guards?.turn();
          // Where something waits it was called back, which says nothing of where the time goes.
          if (this.#mailbox[S.mailbox >>> 2] === 0) this.#sample();
          else this.#fuelLeft = this.#tier.restOfFuel();
          this.#yield();
          break;
        case Exit.Fault:
          this.stats.faults++;
          if (this.#fault() === "triple") return RunResult.TripleFault;
          break;
        case Exit.Halt:
          this.stats.halts++;
          this.#fuelLeft += this.#kickWatch.end();
          if (this.#incoming.halt(io)) return RunResult.Interrupted;
          break;
      }
    }
  }

  #makeLockstep(): Lockstep {
    const cpu = this.cpu;
    const page = () => {
      const rip = cpu.get64(S.rip);
      const linear = (rip + cpu.segBase(Seg.CS)) & cpu.get64(S.linearMask);
      const ram = this.#fetch.address(linear);
      if (ram < 0) return undefined;
      return {
        linear,
        page: this.code.page(ram - (ram & 4095), cpu.get32(S.codeTag) & ~CodeMode.user),
      };
    };
    return new Lockstep(cpu, this.#ram, {
      runRecord: (record) => this.#exports.runRecord(record),
      step: () => {
        const at = page();
        return at === undefined
          ? Exit.Fault
          : this.#fetch.runScratch(at.linear, { ...at, stop: true });
      },
      ramOffset: (physical) => this.#fetch.ramOffset(physical),
      codeAt: (rip) => {
        const at = page();
        if (at === undefined) return new Uint8Array(16);
        const start = at.page.ram + Number(rip & 0xfffn);
        return this.#ram.slice(start, start + 15);
      },
      faultRip: () => this.#fetch.faultRip(),
    });
  }

  /** Runs the code at `S.rip` as a region and interpreted, where it can be a region. */
  #compare(lockstep: Lockstep): number {
    const cpu = this.cpu;
    const exit = this.#lookup();
    const tag = cpu.get32(S.codeTag) & ~CodeMode.user;
    if (exit !== Exit.Resume) return exit;
    const rip = cpu.get64(S.rip);
    const offset = Number(rip & 0xfffn);
    const ram = this.#fetch.address(rip & cpu.get64(S.linearMask));
    if (tag !== CodeMode.bits64 || ram < 0) return this.#steps.run({ trap: false, debug: false });
    const page = this.code.page(ram - (ram & 4095), tag);
    const guards = this.guards;
    if (guards === undefined) this.translator.translate(page, rip, { wide: true });
    const record = cpu.get32(page.map + offset * 4);
    const module = this.translator.bytesOf(page, record);
    if (module === undefined) return this.#steps.run({ trap: false, debug: false });
    cpu.set64(S.ripBase, rip - BigInt(offset));
    cpu.set32(S.pageMap, page.map);
    const how = { fuel: this.#tier.comparedFuel(), module, always: guards !== undefined };
    const slot = cpu.u16[record >>> 1] as number;
    guards?.open(slot);
    const result = lockstep.run(record, how);
    guards?.compared(slot);
    return result;
  }

  /** Drops code that other vCPUs wrote over. */
  #renewCode(): void {
    this.#team?.renew(
      (page) => page === undefined ? this.code.flush() : this.code.invalidate(page),
      (ram) => this.#exports.codeIntact(ram) !== 0,
    );
    this.cpu.set32(S.codeChanged, 0);
  }

  /** Lets others have the host's processor where the guest spins: who it waits for may need it. */
  #yield(): void {
    const spun = this.cpu.get32(S.pauses);
    if (spun === 0) return;
    this.cpu.set32(S.pauses, 0);
    if (spun >= SPINS) yieldThread();
  }

  /** Shows the translator where the guest is. */
  #sample(): void {
    const i32 = this.#mailbox;
    const low = i32[S.rip >>> 2] as number;
    const tag = i32[S.codeTag >>> 2] as number;
    if ((tag & ~CodeMode.user) !== CodeMode.bits64) return;
    const entry = (ITLB + ((low >>> 12) & (ITLB_ENTRIES - 1)) * ITLB_ENTRY) >>> 2;
    if (
      i32[entry] !== ((low & ~0xfff) | tag) || i32[entry + 1] !== i32[(S.rip >>> 2) + 1]
    ) return;
    const page = this.code.pageOfMap(i32[entry + 2] as number);
    if (page === undefined) return;
    this.samples.count(page);
    if (this.#tier.tier === "interpreter") return;
    this.#collector.busy(this.translator.installer.stats.droppedBytes);
    if (this.translator.installer.isFull) {
      // What runs now comes back soon, and finds its modules where nobody collected them yet.
      this.code.flush();
      return;
    }
    const rip = this.cpu.get64(S.rip);
    if (this.#tier.asksNow) {
      this.translator.ask(page, rip, { wide: this.#tier.asksWide(), waits: this.#tier.waitsNow() });
    } else if (this.#tier.translatesNow()) this.translator.translate(page, rip, { wide: true });
    else this.translator.sample(page, rip);
  }

  /** A fault that generated code or a host call threw. */
  #fault(): "ok" | "triple" {
    const cpu = this.cpu;
    const rip = this.#fetch.faultRip();
    const hasError = cpu.get32(S.faultHasError) !== 0;
    return deliver(cpu, {
      vector: cpu.get32(S.faultVector),
      error: cpu.get32(S.faultError),
      hasError,
      rip,
    });
  }
}
