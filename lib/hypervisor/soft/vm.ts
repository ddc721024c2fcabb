/**
 * A VM of the software engine.
 *
 * @module
 */

import { GuestMemory, PCI_HOLE_START } from "../../memory/mod.ts";
import { HypervisorError } from "../errors.ts";
import type {
  Capabilities,
  GsiRoute,
  Hypervisor,
  IoEventAddress,
  Vcpu,
  Vm,
  VmHandle,
  VmOptions,
  VmService,
} from "../types.ts";
import { cpuLayout, createCpuMemory } from "./cpu/cpu_memory.ts";
import { createTeamMemory, MAX_TEAM } from "./cpu/cpu_team.ts";
import { Mailbox, S } from "./cpu/state.ts";
import { type Tier, tierOfEnvironment } from "./cpu/translator/tier.ts";
import { describeCounters, EngineCounters } from "./engine_stats.ts";
import { SoftEvents, type SoftEventsHandle } from "./events.ts";
import { SoftIrqChip, type SoftIrqChipHandle } from "./irqchip/mod.ts";
import type { TranslationSettings } from "./translations.ts";
import { type DeskHandle, TranslationDesk } from "./cpu/translator/desk.ts";
import { serveTranslations } from "./serve_translations.ts";
import { SoftVcpu } from "./vcpu.ts";

/** RAM that one 32-bit WebAssembly memory can hold, with a page to spare. */
const MAX_MEMORY_BYTES = PCI_HOLE_START + 0x3fff_0000;

const capabilities: Capabilities = {
  maxVcpus: MAX_TEAM,
  maxMemoryBytes: MAX_MEMORY_BYTES,
  dirtyLog: false,
  tscKhz: 1_000_000,
};

/** Settings of the software engine. */
export interface SoftOptions {
  /** How code is executed; for tests. */
  readonly tier?: Tier;
  /** What is kept of translated code; nothing on disk where it is absent. */
  readonly translations?: TranslationSettings;
}

/** The software engine; needs no privilege and no device. */
export class SoftHypervisor implements Hypervisor {
  readonly kind = "soft";
  readonly capabilities: Capabilities = capabilities;
  readonly #tier: Tier;
  readonly #translations: TranslationSettings;

  constructor(options: SoftOptions = {}) {
    this.#translations = options.translations ?? {};
    this.#tier = options.tier ?? tierOfEnvironment();
  }

  createVm(memory: GuestMemory, options: VmOptions): Vm {
    const { vcpuCount } = options;
    if (!Number.isInteger(vcpuCount) || vcpuCount < 1 || vcpuCount > MAX_TEAM) {
      throw new HypervisorError(
        `the software engine runs 1 to ${MAX_TEAM} vCPUs, ${vcpuCount} were asked for`,
      );
    }
    if (memory.wasmMemory === undefined) {
      throw new HypervisorError("the software engine needs guest memory with backing wasm");
    }
    const layout = cpuLayout();
    const cpus = Array.from({ length: options.vcpuCount }, () => createCpuMemory(layout, memory));
    const mailboxes = cpus.map((cpu) => ({
      words: new Int32Array(cpu.buffer),
      index: S.mailbox >>> 2,
      ...(vcpuCount > 1 ? { fuel: S.fuel >>> 2 } : {}),
    }));
    const chip = SoftIrqChip.create({ mailboxes });
    const claimed = new Int32Array(new SharedArrayBuffer(4 * options.vcpuCount));
    const events = SoftEvents.create();
    const team = vcpuCount > 1 ? { team: createTeamMemory() } : {};
    const [tier, translations] = [this.#tier, this.#translations];
    const counters = EngineCounters.create(vcpuCount);
    const desk = TranslationDesk.create(vcpuCount);
    const parts = {
      ...{ memory, cpus, ...team, chip, claimed, events, tier, translations, counters, desk },
    };
    return new SoftVm(parts, true);
  }

  [Symbol.dispose](): void {
    // Holds nothing.
  }
}

interface Parts {
  readonly memory: GuestMemory;
  readonly cpus: readonly WebAssembly.Memory[];
  /** What several vCPUs share. */
  readonly team?: WebAssembly.Memory;
  readonly chip: SoftIrqChip;
  /** 1 for vCPUs that were made. */
  readonly claimed: Int32Array;
  readonly events: SoftEvents;
  readonly tier: Tier;
  readonly translations: TranslationSettings;
  readonly counters: EngineCounters;
  /** Where vCPUs ask for translations. */
  readonly desk: TranslationDesk;
}

interface Handle {
  readonly kind: "soft";
  readonly cpus: readonly WebAssembly.Memory[];
  /** What several vCPUs share. */
  readonly team?: WebAssembly.Memory;
  readonly chip: SoftIrqChipHandle;
  readonly claimed: Int32Array;
  readonly events: SoftEventsHandle;
  readonly tier: Tier;
  readonly translations: TranslationSettings;
  readonly counters: SharedArrayBuffer;
  readonly desk: DeskHandle;
}

/** Attaches to the VM of `handle` in another worker. */
export function attachSoftVm(handle: VmHandle, memory: GuestMemory): Vm {
  const parts = handle as unknown as Handle;
  return new SoftVm({
    memory,
    cpus: parts.cpus,
    ...(parts.team === undefined ? {} : { team: parts.team }),
    chip: SoftIrqChip.attach(parts.chip),
    claimed: parts.claimed,
    events: SoftEvents.attach(parts.events),
    tier: parts.tier,
    translations: parts.translations,
    counters: EngineCounters.attach(parts.counters),
    desk: TranslationDesk.attach(parts.desk),
  }, false);
}

class SoftVm implements Vm {
  readonly kind = "soft";
  readonly vcpuCount: number;
  readonly #parts: Parts;
  readonly #owner: boolean;

  constructor(parts: Parts, owner: boolean) {
    this.#parts = parts;
    this.#owner = owner;
    this.vcpuCount = parts.cpus.length;
    parts.chip.onWake = (cpu) => parts.events.wake(cpu);
  }

  handle(): VmHandle {
    const { cpus, team, chip, claimed, events, tier, translations, counters, desk } = this.#parts;
    const handle: Handle = {
      kind: "soft",
      cpus,
      ...(team === undefined ? {} : { team }),
      chip: chip.handle(),
      claimed,
      events: events.handle(),
      tier,
      translations,
      counters: counters.handle(),
      desk: desk.handle(),
    };
    return { ...handle };
  }

  createVcpu(id: number): Vcpu {
    const { memory, cpus, team, chip, claimed, events, tier, translations, counters, desk } =
      this.#parts;
    const state = cpus[id];
    const ram = memory.wasmMemory;
    if (state === undefined || ram === undefined) {
      throw new HypervisorError(`no vCPU ${id}: the VM has 0 to ${this.vcpuCount - 1}`);
    }
    if (Atomics.exchange(claimed, id, 1) !== 0) {
      throw new HypervisorError(`vCPU ${id} was made already`);
    }
    const map = { lowBytes: memory.lowBytes, highBytes: memory.highBytes };
    const shared = team === undefined ? {} : { team: { memory: team, cpus } };
    return new SoftVcpu({
      id,
      state,
      ram,
      map,
      chip,
      events,
      tier,
      translations,
      counters,
      desk: desk.of(id),
      ...shared,
    });
  }

  get service(): VmService | undefined {
    const { memory, cpus, team, tier, translations, desk } = this.#parts;
    const { wasmMemory: ram, sizeBytes: ramBytes, lowBytes } = memory;
    if ((tier !== "auto" && tier !== "elsewhere") || ram === undefined) return undefined;
    return {
      serve: () => serveTranslations({ desk, cpus, ram, ramBytes, lowBytes, team, translations }),
      lost: () => desk.lose(),
      end: () => desk.end(),
    };
  }

  engineStats(): Record<string, unknown> {
    return describeCounters(this.#parts.counters.read());
  }

  setIrqLine(gsi: number, level: boolean): void {
    this.#parts.chip.setIrqLine(gsi, level);
  }

  signalMsi(address: bigint, data: number): void {
    this.#parts.chip.deliverMsi(Number(address), data);
  }

  setGsiRoutes(gsi: number, routes: readonly GsiRoute[]): void {
    this.#parts.chip.setGsiRoutes(gsi, routes);
  }

  registerIrqfd(eventFd: number, gsi: number, resampleFd?: number): void {
    const { chip, events } = this.#parts;
    events.addIrqfd(eventFd, gsi, resampleFd ?? -1);
    if (resampleFd !== undefined && gsi < 24) chip.watchEndOfInterrupt(gsi, true);
    // A vCPU may sleep without looking at descriptors: it must begin to.
    for (let id = 0; id < this.vcpuCount; id++) this.#nudge(id, Mailbox.interrupt);
  }

  unregisterIrqfd(eventFd: number, gsi: number): void {
    const { chip, events } = this.#parts;
    const resample = events.removeIrqfd(eventFd, gsi);
    if (resample !== -1 && gsi < 24) chip.watchEndOfInterrupt(gsi, false);
  }

  registerIoeventfd(at: IoEventAddress, eventFd: number): void {
    this.#parts.events.addIoEvent(at, eventFd);
  }

  unregisterIoeventfd(at: IoEventAddress, _eventFd: number): void {
    this.#parts.events.removeIoEvent(at);
  }

  pauseClock(): void {
    this.#parts.chip.clock.pause();
  }

  resumeClock(): void {
    this.#parts.chip.clock.resume();
  }

  setDirtyLog(_regionIndex: number, _enabled: boolean): void {
    throw new HypervisorError("the software engine does not log written pages");
  }

  takeDirtyLog(_regionIndex: number): Uint8Array {
    throw new HypervisorError("the software engine does not log written pages");
  }

  kick(id: number): void {
    this.#nudge(id, Mailbox.leave);
  }

  #nudge(id: number, bits: number): void {
    const state = this.#parts.cpus[id];
    if (state === undefined) {
      throw new HypervisorError(`no vCPU ${id}: the VM has 0 to ${this.vcpuCount - 1}`);
    }
    const words = new Int32Array(state.buffer);
    Atomics.or(words, S.mailbox >>> 2, bits);
    Atomics.notify(words, S.mailbox >>> 2);
    this.#parts.events.wake();
  }

  [Symbol.dispose](): void {
    if (!this.#owner) return;
    this.#parts.desk.end();
    this.#parts.events[Symbol.dispose]();
  }
}
