/**
 * The run loop of a software vCPU: generated code, decoding, faults, interrupts, HLT.
 *
 * @module
 */

import { yieldThread } from "../../../host/mod.ts";
import type { VcpuIo } from "../../types.ts";
import { HypervisorError } from "../../errors.ts";
import { EVENT_INIT, EVENT_NMI, EVENT_SIPI, MsrStatus, type SoftIrqChip } from "../irqchip/mod.ts";
import type { SoftEvents } from "../events.ts";
import { createTag, type Tag } from "../wasm/mod.ts";
import { Collector, IDLE_MS } from "./collector.ts";
import { CodeCache, type CodePage, DecodeResult } from "./code_cache.ts";
import { cpuLayout } from "./cpu_memory.ts";
import { CpuTeam } from "./cpu_team.ts";
import { HostResult, type Locked } from "./cx.ts";
import { Decoder } from "./decoder.ts";
import { type EngineExports, HostContext, type Platform } from "./host_context.ts";
import { Host } from "./host_calls.ts";
import { compileInterpreter, emitInterpreter, type Interpreter } from "./interpreter.ts";
import {
  embeddedImage,
  type ImageFiles,
  imageFor,
  imagePart,
  type InterpreterKind,
} from "./interpreter_image.ts";
import { KickWatch } from "./kick_watch.ts";
import { protectModule } from "./mmu/mod.ts";
import { SplitLocks } from "./split_lock.ts";
import { Samples } from "./samples.ts";
import {
  Access,
  CodeMode,
  Exit,
  Flag,
  FuelCost,
  HANDLER_SLOTS,
  ITLB,
  ITLB_ENTRIES,
  ITLB_ENTRY,
  Mailbox,
  pseudoOffset,
  Rec,
  S,
  SCRATCH_RECORDS,
  Seg,
  SegField,
  segOffset,
  TlbNotes,
  Vector,
  WalkFlag,
} from "./state.ts";
import { deliver, hostFunctions, resetCpu, updateMode } from "./system/mod.ts";
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
  /** Waits for INIT/SIPI. */
  Waiting,
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

/** How much RAM there is. */
export interface RamMap {
  /** Bytes of it from guest physical 0. */
  readonly lowBytes: number;
  /** Bytes of it from 4 GiB. */
  readonly highBytes: number;
}

/** One software processor, in the worker that runs it. */
export class Processor {
  readonly cpu: HostContext;
  readonly code: CodeCache;
  readonly interpreter: Interpreter;
  readonly #exports: EngineExports;
  readonly #chip: SoftIrqChip;
  readonly #map: RamMap;
  readonly #ram: Uint8Array;
  readonly #tag: Tag;
  readonly #mmioData: DataView;
  readonly #mailbox: Int32Array;
  readonly #ioWrite: { size: number; data: DataView };
  readonly #fetched = new Uint8Array(32);
  readonly #events: SoftEvents;
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
  #waiting = false;
  #nmiPending = false;
  /** Generated code may have met a guard, where the next region is compared. */
  #atGuard = false;
  /** Data breakpoints that the running instruction hit. */
  #hits = 0;

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
    this.#events = options.events;
    const layout = cpuLayout();
    this.#map = options.map;
    const cpuPages = memory.buffer.byteLength / 65536;
    if (options.team !== undefined) {
      this.#team = joinTeam(options.team, { id, cpuPages });
      this.#locks = new SplitLocks({ team: this.#team, ram, cpu: memory });
    }
    this.#chip = chip;
    this.#tag = createTag();
    this.#ram = new Uint8Array(ram.buffer);
    this.cpu = new HostContext(memory, { id, tag: this.#tag });
    this.cpu.vcpuCount = options.team?.cpus.length ?? 1;
    this.#mailbox = this.cpu.i32;
    this.samples = new Samples(this.cpu.i32);
    this.#mmioData = new DataView(memory.buffer, S.mmioData, 8);
    this.#ioWrite = { size: 0, data: this.#mmioData };
    this.cpu.set64(S.ramLow, BigInt(this.#map.lowBytes));
    this.cpu.set64(S.ramHigh, BigInt(this.#map.highBytes));
    const kind = { smp: options.team !== undefined, holdsRam: cpuPages > layout.pages };
    this.interpreter = interpreterFor(kind, options.files);
    const table = new WebAssembly.Table({ element: "anyfunc", initial: HANDLER_SLOTS });
    const instance = new WebAssembly.Instance(this.interpreter.module, {
      e: {
        cpu: memory,
        ram,
        table,
        fault: this.#tag as unknown as WebAssembly.ImportValue,
        host: (id: number, record: number) => this.#host(id, record),
        mmioLoad: (physical: number, size: number) => this.#mmioLoad(physical, size),
        mmioStore: (physical: number, size: number) => this.#mmioStore(physical, size),
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
      tag: this.#tag,
      interpreter: this.interpreter,
      exports: instance.exports,
      code: this.code,
      lockstep: this.#tier.compares,
      guards: this.guards,
      pageAt: (linear) => this.#pageAt(linear),
      isIntact: (at) => this.#exports.codeIntact(at) !== 0,
      store: this.#tier.compares ? undefined : options.store,
      codeLimitBytes: options.codeLimitBytes,
      shared: this.#team !== undefined,
      large: options.desk?.large,
      used: options.desk?.used,
      desk: this.#tier.tier === "auto" || this.#tier.asksNow ? options.desk : undefined,
    });
    if (this.#tier.compares) this.lockstep = this.#makeLockstep();
    this.cpu.flushCode = () => this.code.flushTlb();
    this.cpu.platform = this.#platform(chip, id);
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
    this.#waiting = waiting;
  }

  /** Empties all TLBs. */
  flush(): void {
    this.#exports.flushTlb();
    this.code.flushTlb();
  }

  /** True while it waits for INIT and SIPI. */
  get waiting(): boolean {
    return this.#waiting;
  }

  #platform(chip: SoftIrqChip, id: number): Platform {
    return {
      nowNs: () => chip.clock.nowNs(),
      readApicMsr: (index) => {
        const status = chip.readMsr(id, index);
        if (status === MsrStatus.NotMine) return undefined;
        if (status === MsrStatus.Fault) return null;
        return (BigInt(chip.msrHigh >>> 0) << 32n) | BigInt(chip.msrLow >>> 0);
      },
      writeApicMsr: (index, value) => {
        const status = chip.writeMsr(
          id,
          index,
          Number(BigInt.asIntN(32, value)),
          Number(BigInt.asIntN(32, value >> 32n)),
        );
        this.#lookAround();
        if (status === MsrStatus.NotMine) return undefined;
        return status !== MsrStatus.Fault;
      },
      setTscOffset: (ticks) => chip.setTscOffset(id, ticks),
      getTpr: () => chip.getTpr(id) >>> 4,
      setTpr: (value) => {
        chip.setTpr(id, value << 4);
        this.#lookAround();
      },
      portIn: (port, size, data) => {
        if (chip.handlesPort(port)) chip.portIn(port, size, data);
        else this.cpu.io.portIn(port, size, data);
        this.#lookAround();
      },
      portOut: (port, size, data) => {
        if (chip.handlesPort(port)) chip.portOut(port, size, data);
        else if (
          // The table is empty for guests without such devices, so nothing is made for them.
          !this.#events.hasIoEvents || !this.#events.signalIoEvent(false, port, { size, data })
        ) this.cpu.io.portOut(port, size, data);
        this.#lookAround();
      },
    };
  }

  /** After device work: come back at the next branch where there is something to do. */
  #lookAround(): void {
    // Who raised a level-triggered interrupt learns of its end when the guest says so, not at the next exit.
    this.#signalEnds();
    const io = this.cpu.io;
    const mail = this.cpu.get32(S.mailbox);
    // What enables interrupts looks for those that wait.
    const held = mail === Mailbox.interrupt && (this.cpu.get32(S.flagOther) & Flag.IF) === 0 &&
      !this.#chip.hasEvents(this.cpu.id);
    if ((mail !== 0 && !held) || (io !== undefined && io.stopRequested)) {
      this.cpu.set32(S.fuel, 0);
    }
  }

  #host(id: number, record: number): number {
    this.stats.hostCalls++;
    const f = hostFunctions.get(id);
    if (f === undefined) throw new HypervisorError(`software engine: no host function ${id}`);
    const result = f(this.cpu, record);
    if (id === Host.interruptReturn && this.cpu.get32(S.nmiBlocked) !== 0) this.#endOfNmi();
    // Most of them serialize: code that other vCPUs wrote before is seen from here on.
    if (this.cpu.get32(S.mailbox) & Mailbox.code) this.cpu.set32(S.fuel, 0);
    // Where something waits, the runtime looks at it now, not at the next branch.
    return result === HostResult.Next && this.cpu.get32(S.fuel) <= 0 ? HostResult.Jump : result;
  }

  #mmioLoad(physical: number, size: number): void {
    if (this.lockstep?.device(physical, { size, store: false }) === true) return;
    this.#deviceLoad(physical, size);
    this.lockstep?.deviceDone(physical, { size, store: false });
  }

  #deviceLoad(physical: number, size: number): void {
    this.stats.deviceAccesses++;
    if (this.#chip.handlesMmio(physical, this.cpu.id)) {
      this.#chip.mmioRead(this.cpu.id, physical, size, this.#mmioData);
    } else this.cpu.io.mmioRead(physical, size, this.#mmioData);
    this.#lookAround();
  }

  #mmioStore(physical: number, size: number): void {
    if (this.lockstep?.device(physical, { size, store: true }) === true) return;
    this.lockstep?.deviceDone(physical, { size, store: true });
    this.#deviceStore(physical, size);
  }

  #deviceStore(physical: number, size: number): void {
    this.stats.deviceAccesses++;
    if (this.#chip.handlesMmio(physical, this.cpu.id)) {
      this.#chip.mmioWrite(this.cpu.id, physical, size, this.#mmioData);
    } else if (!this.#events.hasIoEvents || !this.#signalMmio(physical, size)) {
      this.cpu.io.mmioWrite(physical, size, this.#mmioData);
    }
    this.#lookAround();
  }

  #signalMmio(physical: number, size: number): boolean {
    this.#ioWrite.size = size;
    if (!this.#events.signalIoEvent(true, physical, this.#ioWrite)) return false;
    const { cpu } = this;
    if (this.#tier.tier === "auto") cpu.set32(S.fuel, this.#kickWatch.begin(cpu.get32(S.fuel)));
    return true;
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
      if (this.#waiting) {
        if (!this.#awaitStart()) continue;
      }
      this.#runTimers();
      const oneMore = cpu.get32(S.shadow) !== 0;
      if (!oneMore && this.#mailbox[S.mailbox >>> 2] !== 0) {
        if (this.#interrupts() === "triple") return RunResult.TripleFault;
        if (this.#waiting) continue;
      }
      cpu.set32(S.shadow, 0);
      const trap = (cpu.get32(S.flagOther) & Flag.TF) !== 0;
      let exit: number;
      const debug = (cpu.get32(S.dr + 8 * 7) & 0xff) !== 0;
      if (oneMore || trap || debug || this.#tier.stepsAside()) exit = this.#step({ trap, debug });
      else if (this.lockstep !== undefined && (this.guards === undefined || this.#atGuard)) {
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
          if (this.#halt(io)) return RunResult.Interrupted;
          break;
      }
    }
  }

  #makeLockstep(): Lockstep {
    const cpu = this.cpu;
    const page = () => {
      const rip = cpu.get64(S.rip);
      const linear = (rip + cpu.segBase(Seg.CS)) & cpu.get64(S.linearMask);
      const ram = this.#fetchAddress(linear);
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
        return at === undefined ? Exit.Fault : this.#runScratch(at.linear, { ...at, stop: true });
      },
      ramOffset: (physical) => this.#ramOffset(physical),
      codeAt: (rip) => {
        const at = page();
        if (at === undefined) return new Uint8Array(16);
        const start = at.page.ram + Number(rip & 0xfffn);
        return this.#ram.slice(start, start + 15);
      },
      faultRip: () => this.#faultRip(),
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
    const ram = this.#fetchAddress(rip & cpu.get64(S.linearMask));
    if (tag !== CodeMode.bits64 || ram < 0) return this.#step({ trap: false, debug: false });
    const page = this.code.page(ram - (ram & 4095), tag);
    const guards = this.guards;
    if (guards === undefined) this.translator.translate(page, rip, { wide: true });
    const record = cpu.get32(page.map + offset * 4);
    const module = this.translator.bytesOf(page, record);
    if (module === undefined) return this.#step({ trap: false, debug: false });
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

  /** The code page at `linear`, where the instruction TLB has it. */
  #pageAt(linear: bigint): CodePage | undefined {
    const { cpu } = this;
    const entry = ITLB + Number((linear >> 12n) & BigInt(ITLB_ENTRIES - 1)) * ITLB_ENTRY;
    const tag = (linear & ~0xfffn) | BigInt(cpu.get32(S.codeTag));
    return cpu.get64(entry) === tag ? this.code.pageOfMap(cpu.get32(entry + 8)) : undefined;
  }

  #runTimers(): void {
    const now = this.#chip.clock.nowNs();
    if (now >= this.#chip.nextDeadlineNs(this.cpu.id)) this.#chip.runTimers(now);
    if (this.#events.hasIrqfds) {
      this.#events.pump(this.#chip);
      this.#signalEnds();
    }
  }

  /** Tells of level-triggered interrupts that ended. */
  #signalEnds(): void {
    const ended = this.#chip.takeEndedPins();
    if (ended !== 0) this.#events.resample(ended);
  }

  /** Waits for a start-up IPI; true when one came. */
  #awaitStart(): boolean {
    const words = this.#mailbox;
    const at = S.mailbox >>> 2;
    Atomics.and(words, at, ~Mailbox.interrupt);
    const events = this.#chip.takeEvents(this.cpu.id);
    if (events & EVENT_SIPI) {
      this.#start(this.#chip.sipiVector(this.cpu.id));
      return true;
    }
    // What came behind an INIT is there already.
    if (events !== 0) return false;
    this.#team?.leave();
    if (Atomics.load(words, at) === 0) this.#awaitMail(1000);
    this.#team?.enter();
    return false;
  }

  #start(vector: number): void {
    this.#waiting = false;
    const cs = segOffset(Seg.CS);
    this.cpu.set32(cs + SegField.selector, vector << 8);
    this.cpu.set64(cs + SegField.base, BigInt(vector << 12));
    this.cpu.set64(S.rip, 0n);
    updateMode(this.cpu);
  }

  /** Events and interrupts that wait. */
  #interrupts(): "ok" | "triple" {
    const cpu = this.cpu;
    const words = this.#mailbox;
    const at = S.mailbox >>> 2;
    Atomics.and(words, at, ~Mailbox.interrupt);
    const events = this.#chip.takeEvents(cpu.id);
    if (events & EVENT_INIT) {
      this.reset(true);
      return "ok";
    }
    if (events & EVENT_NMI) this.#nmiPending = true;
    if (this.#nmiPending && cpu.get32(S.nmiBlocked) === 0) {
      this.#nmiPending = false;
      cpu.set32(S.nmiBlocked, 1);
      // An interrupt may wait behind it.
      Atomics.or(words, at, Mailbox.interrupt);
      return deliver(cpu, {
        vector: Vector.NMI,
        hasError: false,
        external: true,
        rip: cpu.get64(S.rip),
      });
    }
    if ((cpu.get32(S.flagOther) & Flag.IF) === 0) {
      // Keep the mark, so that STI sees it.
      if (this.#chip.pendingVector(cpu.id) >= 0) Atomics.or(words, at, Mailbox.interrupt);
      return "ok";
    }
    const vector = this.#chip.acknowledge(cpu.id);
    if (vector < 0) return "ok";
    // Another may wait behind it.
    if (this.#chip.pendingVector(cpu.id) >= 0) Atomics.or(words, at, Mailbox.interrupt);
    return deliver(cpu, { vector, hasError: false, external: true, rip: cpu.get64(S.rip) });
  }

  /** HLT: sleeps until an interrupt can be taken. True where the machine wants the processor back. */
  #halt(io: VcpuIo): boolean {
    this.#team?.leave();
    try {
      return this.#sleep(io);
    } finally {
      this.#team?.enter();
      // What others did to code meanwhile is looked at now.
      if (this.#team !== undefined) Atomics.or(this.#mailbox, S.mailbox >>> 2, Mailbox.code);
    }
  }

  #sleep(io: VcpuIo): boolean {
    const words = this.#mailbox;
    const at = S.mailbox >>> 2;
    const chip = this.#chip;
    const id = this.cpu.id;
    const enabled = (this.cpu.get32(S.flagOther) & Flag.IF) !== 0;
    for (;;) {
      const before = Atomics.and(words, at, ~(Mailbox.interrupt | Mailbox.code));
      if ((before & Mailbox.leave) !== 0 || io.stopRequested) {
        // HLT is not over: it runs again from its own address.
        Atomics.or(words, at, before & Mailbox.interrupt);
        this.cpu.set64(S.rip, this.cpu.get64(S.rip) - 1n);
        Atomics.and(words, at, ~Mailbox.leave);
        return true;
      }
      this.#runTimers();
      if (chip.hasEvents(id) || (enabled && chip.pendingVector(id) >= 0)) {
        Atomics.or(words, at, Mailbox.interrupt);
        this.#kickWatch.woken(chip.clock.nowNs());
        return false;
      }
      if (Atomics.load(words, at) !== 0) continue;
      const now = chip.clock.nowNs();
      const wait = (chip.nextDeadlineNs(id) - now) / 1e6;
      if (wait <= 0) continue;
      if (this.#kickWatch.spins(now)) {
        // The device may need this very processor of the host.
        yieldThread();
        continue;
      }
      if (wait >= IDLE_MS && this.#collector.idle(this.translator.installer.stats.droppedBytes)) {
        continue;
      }
      this.#awaitMail(Math.min(wait, 0x7fffffff));
    }
  }

  /** Sleeps until there is something in the mailbox, or an irqfd was signalled. */
  #awaitMail(timeoutMs: number): void {
    const words = this.#mailbox;
    const index = S.mailbox >>> 2;
    if (this.#events.hasIrqfds && timeoutMs >= 1) {
      const options = { id: this.cpu.id, timeoutMs: Math.floor(timeoutMs), words, index };
      if (this.#events.sleep(this.#chip, options)) return;
    }
    Atomics.wait(words, index, 0, timeoutMs);
  }

  /** The end of an NMI's handler: IRET. */
  #endOfNmi(): void {
    this.cpu.set32(S.nmiBlocked, 0);
    if (!this.#nmiPending) return;
    Atomics.or(this.#mailbox, S.mailbox >>> 2, Mailbox.interrupt);
    this.cpu.set32(S.fuel, 0);
  }

  /** A fault that generated code or a host call threw. */
  #fault(): "ok" | "triple" {
    const cpu = this.cpu;
    const rip = this.#faultRip();
    const hasError = cpu.get32(S.faultHasError) !== 0;
    return deliver(cpu, {
      vector: cpu.get32(S.faultVector),
      error: cpu.get32(S.faultError),
      hasError,
      rip,
    });
  }

  /** Address of the instruction that faulted. */
  #faultRip(): bigint {
    const cpu = this.cpu;
    if (cpu.get32(S.faultRipSet) !== 0) return cpu.get64(S.rip);
    const record = cpu.get32(S.record);
    const offset = record < 0 ? pseudoOffset(record) : cpu.u16[(record + Rec.off) >>> 1] as number;
    return BigInt.asUintN(64, cpu.get64(S.ripBase) + BigInt(offset));
  }

  #setFault(vector: number, error?: number): number {
    const cpu = this.cpu;
    cpu.set32(S.faultVector, vector);
    cpu.set32(S.faultError, error ?? 0);
    cpu.set32(S.faultHasError, error === undefined ? 0 : 1);
    cpu.set32(S.faultRipSet, 1);
    return Exit.Fault;
  }

  /** RAM offset of linear address `linear` for fetching, or -1 with a fault set. */
  #fetchAddress(linear: bigint): number {
    const cpu = this.cpu;
    const user = cpu.get32(S.cpl) === 3 ? Access.user : 0;
    const physical = this.#exports.tryWalk(linear, Access.fetch | user);
    if (physical < 0n) {
      cpu.set32(S.faultRipSet, 1);
      return -1;
    }
    const ram = this.#ramOffset(Number(physical));
    if (ram >= 0) return ram;
    // Nothing answers there: all ones, which is no instruction.
    this.#setFault(Vector.UD);
    return -1;
  }

  #ramOffset(physical: number): number {
    if (physical < this.#map.lowBytes) return physical;
    const high = physical - 0x1_0000_0000;
    return high >= 0 && high < this.#map.highBytes ? this.#map.lowBytes + high : -1;
  }

  /** Makes the code at `S.rip` ready; returns an exit to handle. */
  #lookup(): number {
    const cpu = this.cpu;
    this.stats.lookups++;
    const rip = cpu.get64(S.rip);
    const linear = (rip + cpu.segBase(Seg.CS)) & cpu.get64(S.linearMask);
    const codeTag = cpu.get32(S.codeTag);
    const long = (codeTag & CodeMode.sizeMask) === CodeMode.bits64;
    if (!long && rip > BigInt(cpu.get32(segOffset(Seg.CS) + SegField.limit) >>> 0)) {
      return this.#setFault(Vector.GP, 0);
    }
    const ram = this.#fetchAddress(linear);
    if (ram < 0) return Exit.Fault;
    const offset = ram & 4095;
    if (!this.code.hasRoom || this.code.isWasteful) this.code.flush();
    if (this.#exports.codeIntact(ram) === 0) this.code.invalidate(ram >>> 12);
    const page = this.code.page(ram - offset, codeTag & ~CodeMode.user);
    this.#enterTlb(linear, codeTag, page);
    if (!page.opened && page.mode === CodeMode.bits64 && this.#tier.tier !== "interpreter") {
      this.translator.installer.open(page);
    }
    this.code.decodeThere(page);
    const record = cpu.get32(page.map + offset * 4);
    if (record === 0) {
      if (this.code.decode(page, offset) === DecodeResult.Ready) return Exit.Resume;
    } else if (!this.code.isCrossing(record)) return Exit.Resume;
    if ((codeTag & ~CodeMode.user) === CodeMode.bits64 && !this.#decodeCrossing(linear, page)) {
      return Exit.Fault;
    }
    return this.#runScratch(linear, { page, stop: false });
  }

  /** Keeps the instruction at `linear`, which reaches into the next page; false for a fault there. */
  #decodeCrossing(linear: bigint, page: CodePage): boolean {
    const { code } = this;
    const codeTag = this.cpu.get32(S.codeTag);
    const nextLinear = BigInt.asUintN(64, (linear & ~0xfffn) + 0x1000n);
    const nextRam = this.#fetchAddress(nextLinear);
    if (nextRam < 0) return false;
    if (this.#exports.codeIntact(nextRam) === 0) code.invalidate(nextRam >>> 12);
    const next = code.page(nextRam - (nextRam & 4095), page.mode);
    // Making room for the next page may have thrown this one away.
    if (code.pageOfMap(page.map) !== page) return true;
    this.#enterTlb(nextLinear, codeTag, next);
    code.decodeCrossing(page, Number(linear & 0xfffn), next);
    return true;
  }

  #enterTlb(linear: bigint, codeTag: number, page: CodePage): void {
    const index = Number((linear >> 12n) & BigInt(ITLB_ENTRIES - 1));
    const entry = ITLB + index * ITLB_ENTRY;
    this.cpu.set64(entry, (linear & ~0xfffn) | BigInt(codeTag));
    this.cpu.set32(entry + 8, page.map);
    const global = this.cpu.get32(S.walkFlags) & WalkFlag.global;
    this.cpu.set32(entry + 12, global);
    if (global === 0) this.cpu.set32(TlbNotes.code, 1);
  }

  /** An access while data breakpoints are armed (Intel SDM vol. 3, 18.2.4). */
  #dataAccess(linear: bigint, access: { size: number; write: boolean }): void {
    if (this.lockstep?.active === true) {
      this.lockstep.access(linear, access);
      return;
    }
    const dr7 = this.cpu.get32(S.dr + 8 * 7);
    for (let n = 0; n < 4; n++) {
      if (((dr7 >>> (2 * n)) & 3) === 0) continue;
      const type = (dr7 >>> (16 + 4 * n)) & 3;
      if (type === 0 || type === 2 || (type === 1 && !access.write)) continue;
      const length = [1n, 2n, 8n, 4n][(dr7 >>> (18 + 4 * n)) & 3] as bigint;
      const start = this.cpu.get64(S.dr + 8 * n) & ~(length - 1n);
      if (linear < start + length && start < linear + BigInt(access.size)) this.#hits |= 1 << n;
    }
  }

  /** Breakpoints of instructions at `linear`. */
  #instructionHits(linear: bigint): number {
    const dr7 = this.cpu.get32(S.dr + 8 * 7);
    let hits = 0;
    for (let n = 0; n < 4; n++) {
      if (((dr7 >>> (2 * n)) & 3) === 0 || ((dr7 >>> (16 + 4 * n)) & 3) !== 0) continue;
      if (this.cpu.get64(S.dr + 8 * n) === linear) hits |= 1 << n;
    }
    return hits;
  }

  /** Sets bits of DR6. */
  #noteDebug(bits: number): void {
    this.cpu.set32(S.dr + 8 * 6, this.cpu.get32(S.dr + 8 * 6) | bits);
  }

  /** Executes exactly one instruction; with `trap` it ends in #DB, with `debug` breakpoints count. */
  #step(how: { trap: boolean; debug: boolean }): number {
    const cpu = this.cpu;
    const rip = cpu.get64(S.rip);
    const linear = (rip + cpu.segBase(Seg.CS)) & cpu.get64(S.linearMask);
    const resume = (cpu.get32(S.flagOther) & Flag.RF) !== 0;
    if (how.debug && !resume) {
      const hits = this.#instructionHits(linear);
      if (hits !== 0) {
        this.#noteDebug(hits);
        return this.#setFault(Vector.DB);
      }
    }
    this.#hits = 0;
    const ram = this.#fetchAddress(linear);
    if (ram < 0) return Exit.Fault;
    const page = this.code.page(ram - (ram & 4095), cpu.get32(S.codeTag) & ~CodeMode.user);
    this.#enterTlb(linear, cpu.get32(S.codeTag), page);
    const enabled = cpu.get32(S.flagOther) & Flag.IF;
    const exit = this.#runScratch(linear, { page, stop: true });
    if (exit === Exit.Fault) return exit;
    // STI holds interrupts back for one instruction more, HLT most of all.
    if (enabled === 0 && (cpu.get32(S.flagOther) & Flag.IF) !== 0 && this.#fetched[0] === 0xfb) {
      cpu.set32(S.shadow, 1);
    }
    if (resume) cpu.set32(S.flagOther, cpu.get32(S.flagOther) & ~Flag.RF);
    const trap = how.trap &&
      ((cpu.get32(S.flagOther) & Flag.TF) !== 0 || !entersHandler(this.#fetched));
    if (!trap && this.#hits === 0) return exit;
    this.#noteDebug((trap ? 0x4000 : 0) | this.#hits);
    return this.#setFault(Vector.DB);
  }

  /** Runs the one instruction at `linear` (= `S.rip`) from scratch records. */
  #runScratch(linear: bigint, how: { page: CodePage; stop: boolean }): number {
    const cpu = this.cpu;
    const { page } = how;
    const offset = Number(linear & 0xfffn);
    const bytes = this.#fetched;
    const inPage = Math.min(4096 - offset, 16);
    for (let i = 0; i < inPage; i++) bytes[i] = this.#ram[page.ram + offset + i] as number;
    const options = { at: 0, end: inPage, offset, mode: page.mode, stop: how.stop };
    if (this.code.decodeScratch(bytes, options) === DecodeResult.Crosses) {
      const next = this.#fetchAddress(((linear & ~0xfffn) + 0x1000n) & cpu.get64(S.linearMask));
      if (next < 0) return Exit.Fault;
      for (let i = inPage; i < inPage + 16; i++) bytes[i] = this.#ram[next + i - inPage] as number;
      this.code.decodeScratch(bytes, { ...options, end: inPage + 16 });
    }
    cpu.set64(S.ripBase, cpu.get64(S.rip) - BigInt(offset));
    cpu.set32(S.pageMap, page.map);
    // Going on with what was left: a loop around here would else be looked at in one place only.
    if (how.stop) cpu.set32(S.fuel, 0);
    else if (cpu.get32(S.fuel) <= 0) cpu.set32(S.fuel, 1);
    const exit = this.#exports.runRecord(SCRATCH_RECORDS);
    return exit;
  }
}

/**
 * True for INT n, INT3, INTO, INT1 and SYSCALL: where they clear TF, the step that they are is not
 * trapped in their handler (Intel SDM vol. 3, 18.3.1.4; SYSCALL looks at the new flags).
 */
function entersHandler(code: Uint8Array): boolean {
  const [first, second] = code;
  return first === 0xcc || first === 0xcd || first === 0xce || first === 0xf1 ||
    (first === 0x0f && second === 0x05);
}
