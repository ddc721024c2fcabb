/**
 * A VM for one test, its vCPU 0 in the test's own thread.
 *
 * @module
 */

import assert from "node:assert/strict";
import { GuestMemory } from "../../memory/mod.ts";
import {
  type EngineKind,
  ExitReason,
  type Hypervisor,
  memoryBackingFor,
  type Segment,
  type Sregs,
  type Vcpu,
  type VcpuExit,
  type Vm,
} from "../mod.ts";
import { Assembler, type Bits } from "./asm/mod.ts";
import {
  CODE,
  FAULT,
  FaultRecord,
  GDT,
  IDT,
  MEMORY_SIZE_BYTES,
  Selector,
  STACK,
} from "./layout.ts";
import { type Command, Word } from "./protocol.ts";
import { RecordingIo } from "./recording_io.ts";
import { GDT_SIZE_BYTES, PageTables, result, writeGdt } from "./tables.ts";

/** Bits of the control registers and EFER. */
export const Control = {
  PE: 1n,
  MP: 2n,
  EM: 4n,
  TS: 8n,
  ET: 0x10n,
  NE: 0x20n,
  WP: 1n << 16n,
  AM: 1n << 18n,
  PG: 1n << 31n,
  PAE: 0x20n,
  PGE: 0x80n,
  OSFXSR: 0x200n,
  OSXMMEXCPT: 0x400n,
  UMIP: 1n << 11n,
  SMEP: 1n << 20n,
  SMAP: 1n << 21n,
  SCE: 1n,
  LME: 0x100n,
  LMA: 0x400n,
  NXE: 0x800n,
} as const;

/** When a guest counts as hanging. None needs seconds, but a busy host may give them to others. */
const TIMEOUT_MS = 300_000;

/** The thread that acts on the VM while the test's thread is in {@link Vcpu.run}. */
export class Helper {
  readonly #worker: Worker;

  private constructor(worker: Worker) {
    this.#worker = worker;
  }

  /** Starts it; it lives as long as the process. */
  static async start(): Promise<Helper> {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    await new Promise((resolve, reject) => {
      worker.onmessage = resolve;
      worker.onerror = reject;
    });
    return new Helper(worker);
  }

  /** Gives it something to do. */
  tell(command: Command): void {
    this.#worker.postMessage(command);
  }

  /** Ends it. */
  stop(): void {
    this.#worker.terminate();
  }
}

/** Settings of {@link TestMachine}. */
export interface TestMachineOptions {
  readonly hypervisor: Hypervisor;
  readonly helper: Helper;
  /** Does the VM's service, where that is to be done. */
  readonly server?: Helper | undefined;
  readonly vcpuCount: number;
  readonly memorySizeBytes?: number;
}

/** A VM with a test guest. */
export class TestMachine implements Disposable {
  /** Which engine runs it. */
  readonly kind: EngineKind;
  /** Its memory. */
  readonly memory: GuestMemory;
  /** The VM. */
  readonly vm: Vm;
  /** vCPU 0. */
  readonly vcpu: Vcpu;
  /** Where accesses of vCPU 0 go. */
  readonly io = new RecordingIo();
  /** Shared with the helper and with vCPU workers, see {@link Word}. */
  readonly words = new Int32Array(new SharedArrayBuffer(Word.Count * 4));
  readonly #helper: Helper;
  readonly #workers: Helper[] = [];
  readonly #resources = new DisposableStack();
  #run = 0;

  constructor(options: TestMachineOptions) {
    const { hypervisor, helper, vcpuCount, memorySizeBytes = MEMORY_SIZE_BYTES } = options;
    this.kind = hypervisor.kind;
    const backing = memoryBackingFor(hypervisor.kind);
    this.memory = this.#resources.use(GuestMemory.create({ sizeBytes: memorySizeBytes, backing }));
    this.vm = this.#resources.use(hypervisor.createVm(this.memory, { vcpuCount }));
    this.vcpu = this.#resources.use(this.vm.createVcpu(0));
    this.#helper = helper;
    this.tell({ do: "attach", ...this.#handles() });
    const { handle, memory } = this.#handles();
    options.server?.tell({ do: "serve", handle, memory });
  }

  /** Assembles code for vCPU 0 (or at another `origin`) and puts it into memory. */
  load(bits: Bits, build: (a: Assembler) => void, origin: number = CODE): Assembler {
    const assembler = new Assembler(origin, bits);
    build(assembler);
    this.memory.writeFrom(origin, assembler.assemble());
    return assembler;
  }

  /** Puts vCPU 0 at `rip` in real mode, all segments 0. */
  startReal(rip: number = CODE): void {
    const sregs = this.vcpu.getSregs();
    const segment = (was: Segment, type: number): Segment => ({
      ...was,
      selector: 0,
      base: 0n,
      limit: 0xffff,
      type,
    });
    const data = segment(sregs.ds, 3);
    this.vcpu.setSregs({
      cs: segment(sregs.cs, 11),
      ds: data,
      es: data,
      fs: data,
      gs: data,
      ss: data,
    });
    this.#startAt(rip);
  }

  /** Puts vCPU 0 at `rip` in 32-bit protected mode, flat, ring 0, without paging. */
  startProtected(rip: number = CODE, more: Partial<Sregs> = {}): void {
    writeGdt(this.memory, 32);
    const { cr0 } = this.vcpu.getSregs();
    this.vcpu.setSregs({
      ...segments(Selector.Code32, { db: true, l: false }, 32),
      idt: { base: BigInt(IDT), limit: 0x7ff },
      cr0: cr0 & ~Control.PG | Control.PE | Control.ET | Control.NE,
      ...more,
    });
    this.#startAt(rip);
  }

  /** Puts vCPU 0 at `rip` in 64-bit mode, ring 0, with {@link PageTables.identity}. */
  startLong(rip: number | bigint = CODE, more: Partial<Sregs> = {}): PageTables {
    writeGdt(this.memory, 64);
    const tables = PageTables.identity(this.memory);
    this.vcpu.setSregs({
      ...segments(Selector.Code64, { db: false, l: true }, 64),
      idt: { base: BigInt(IDT), limit: 0xfff },
      cr0: Control.PE | Control.MP | Control.ET | Control.NE | Control.WP | Control.PG,
      cr3: BigInt(tables.root),
      cr4: Control.PAE | Control.PGE | Control.OSFXSR | Control.OSXMMEXCPT,
      efer: Control.SCE | Control.LME | Control.LMA | Control.NXE,
      ...more,
    });
    this.#startAt(rip);
    return tables;
  }

  /** Runs vCPU 0 until the guest is done. */
  run(): void {
    const exit = this.runToExit();
    assert.equal(ExitReason[exit.reason], "Interrupted", exit.detail);
    assert.ok(this.io.done, "the guest was interrupted before it was done");
    this.io.done = false;
  }

  /** Runs vCPU 0 until {@link Vcpu.run} comes back; fails when that takes too long. */
  runToExit(timeoutMs: number = TIMEOUT_MS): VcpuExit {
    const run = ++this.#run;
    Atomics.store(this.words, Word.Run, run);
    this.tell({ do: "watch", run, timeoutMs });
    const exit = this.vcpu.run(this.io);
    Atomics.store(this.words, Word.Run, 0);
    if (Atomics.load(this.words, Word.TimedOut) !== 0) {
      const { rip } = this.vcpu.getRegs();
      assert.fail(
        `the guest was not done after ${timeoutMs} ms; it was at 0x${rip.toString(16)}, state ` +
          `${this.vcpu.getMpState()}, had reported [${this.io.reports.map(hex32).join(", ")}]`,
      );
    }
    return exit;
  }

  /** Makes the helper do something while vCPU 0 runs, or soon. */
  tell(command: Command): void {
    this.#helper.tell(command);
  }

  /** Starts a worker for each further vCPU and waits until all are about to run. */
  async startOtherVcpus(): Promise<void> {
    for (let id = 1; id < this.vm.vcpuCount; id++) {
      const worker = await Helper.start();
      this.#workers.push(worker);
      worker.tell({ do: "attach", ...this.#handles() });
      worker.tell({ do: "vcpu", id });
    }
    await this.#waitFor(Word.Ready, this.#workers.length);
  }

  /** Ends the workers of {@link startOtherVcpus}. */
  async stopOtherVcpus(): Promise<void> {
    Atomics.store(this.words, Word.Stop, 1);
    for (let id = 1; id <= this.#workers.length; id++) this.vm.kick(id);
    await this.#waitFor(Word.Ended, this.#workers.length);
    for (const worker of this.#workers) worker.stop();
    const reason = Atomics.load(this.words, Word.ExitReason);
    if (reason !== 0) assert.fail(`another vCPU ended with ${ExitReason[reason - 1]}`);
  }

  /** After a failure: no other vCPU may run on when the memory goes. */
  async abandon(): Promise<void> {
    try {
      await this.stopOtherVcpus();
    } catch {
      // What has failed first is what is reported.
    }
  }

  /** Result `index` that the guest left at DATA. */
  result(index: number): bigint {
    return this.memory.readU64(result(index));
  }

  /** A field of what the fault handler noted. */
  fault(field: keyof typeof FaultRecord): bigint {
    return this.memory.readU64(FAULT + FaultRecord[field]);
  }

  [Symbol.dispose](): void {
    this.tell({ do: "detach" });
    this.#resources.dispose();
  }

  async #waitFor(word: number, value: number): Promise<void> {
    const deadline = Date.now() + TIMEOUT_MS;
    for (;;) {
      const now = Atomics.load(this.words, word);
      if (now >= value) return;
      if (Date.now() > deadline) assert.fail(`only ${now} of ${value} vCPU workers answered`);
      await Atomics.waitAsync(this.words, word, now, 1000).value;
    }
  }

  #handles() {
    return { handle: this.vm.handle(), memory: this.memory.handle(), words: this.words };
  }

  #startAt(rip: number | bigint): void {
    this.vcpu.setRegs({ rip: BigInt(rip), rsp: BigInt(STACK), rflags: 2n });
  }
}

function segments(
  codeSelector: number,
  code: { db: boolean; l: boolean },
  bits: 32 | 64,
): Partial<Sregs> {
  const common = {
    base: 0n,
    limit: 0xffff_ffff,
    present: true,
    dpl: 0,
    s: true,
    g: true,
    avl: false,
    unusable: false,
  };
  const data = { ...common, selector: Selector.Data, type: 3, db: true, l: false };
  return {
    cs: { ...common, ...code, selector: codeSelector, type: 11 },
    ds: data,
    es: data,
    fs: data,
    gs: data,
    ss: data,
    tr: {
      ...data,
      selector: Selector.Tss,
      base: BigInt(0x3000),
      limit: 0x3ff,
      type: 11,
      s: false,
      g: false,
      db: false,
      l: false,
      dpl: 0,
    },
    gdt: { base: BigInt(GDT), limit: GDT_SIZE_BYTES - (bits === 64 ? 1 : 1) },
  };
}

function hex32(value: number): string {
  return `0x${value.toString(16)}`;
}
