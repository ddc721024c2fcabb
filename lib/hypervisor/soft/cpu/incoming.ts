/**
 * What comes to a processor from outside: INIT and start-up IPIs, NMIs, interrupts, timers; and its sleep until
 * then, in HLT.
 *
 * @module
 */

import { yieldThread } from "../../../host/mod.ts";
import type { VcpuIo } from "../../types.ts";
import { EVENT_INIT, EVENT_NMI, EVENT_SIPI, type SoftIrqChip } from "../irqchip/mod.ts";
import type { SoftEvents } from "../events.ts";
import { IDLE_MS } from "./collector.ts";
import type { CpuTeam } from "./cpu_team.ts";
import type { HostContext } from "./host_context.ts";
import type { KickWatch } from "./kick_watch.ts";
import { Flag, Mailbox, S, Seg, SegField, segOffset, Vector } from "./state.ts";
import { deliver, updateMode } from "./system/mod.ts";

/** What comes to one processor. */
export class Incoming {
  readonly #cpu: HostContext;
  readonly #chip: SoftIrqChip;
  readonly #events: SoftEvents;
  readonly #team: CpuTeam | undefined;
  readonly #kickWatch: KickWatch;
  /** Collects garbage while the guest is idle; true where that took time. */
  readonly #tidy: () => boolean;
  /** Takes the processor to the state behind INIT. */
  readonly #reset: () => void;
  readonly #mailbox: Int32Array;
  /** True while the processor waits for INIT and SIPI. */
  waiting = false;
  #nmiPending = false;

  constructor(parts: {
    readonly cpu: HostContext;
    readonly chip: SoftIrqChip;
    readonly events: SoftEvents;
    readonly team: CpuTeam | undefined;
    readonly kickWatch: KickWatch;
    readonly tidy: () => boolean;
    readonly reset: () => void;
  }) {
    this.#cpu = parts.cpu;
    this.#chip = parts.chip;
    this.#events = parts.events;
    this.#team = parts.team;
    this.#kickWatch = parts.kickWatch;
    this.#tidy = parts.tidy;
    this.#reset = parts.reset;
    this.#mailbox = parts.cpu.i32;
  }

  /** Has the timers run whose time has come, and looks for signalled irqfds. */
  runTimers(): void {
    const now = this.#chip.clock.nowNs();
    if (now >= this.#chip.nextDeadlineNs(this.#cpu.id)) this.#chip.runTimers(now);
    if (this.#events.hasIrqfds) {
      this.#events.pump(this.#chip);
      this.signalEnds();
    }
  }

  /** Tells of level-triggered interrupts that ended. */
  signalEnds(): void {
    const ended = this.#chip.takeEndedPins();
    if (ended !== 0) this.#events.resample(ended);
  }

  /** Waits for a start-up IPI; true when one came. */
  awaitStart(): boolean {
    const words = this.#mailbox;
    const at = S.mailbox >>> 2;
    Atomics.and(words, at, ~Mailbox.interrupt);
    const events = this.#chip.takeEvents(this.#cpu.id);
    if (events & EVENT_SIPI) {
      this.#start(this.#chip.sipiVector(this.#cpu.id));
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
    this.waiting = false;
    const cs = segOffset(Seg.CS);
    this.#cpu.set32(cs + SegField.selector, vector << 8);
    this.#cpu.set64(cs + SegField.base, BigInt(vector << 12));
    this.#cpu.set64(S.rip, 0n);
    updateMode(this.#cpu);
  }

  /** Events and interrupts that wait. */
  deliver(): "ok" | "triple" {
    const cpu = this.#cpu;
    const words = this.#mailbox;
    const at = S.mailbox >>> 2;
    Atomics.and(words, at, ~Mailbox.interrupt);
    const events = this.#chip.takeEvents(cpu.id);
    if (events & EVENT_INIT) {
      this.#reset();
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
  halt(io: VcpuIo): boolean {
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
    const id = this.#cpu.id;
    const enabled = (this.#cpu.get32(S.flagOther) & Flag.IF) !== 0;
    const taken = this.#events.taken;
    for (;;) {
      const before = Atomics.and(words, at, ~(Mailbox.interrupt | Mailbox.code));
      if ((before & Mailbox.leave) !== 0 || io.stopRequested) {
        // HLT is not over: it runs again from its own address.
        Atomics.or(words, at, before & Mailbox.interrupt);
        this.#cpu.set64(S.rip, this.#cpu.get64(S.rip) - 1n);
        Atomics.and(words, at, ~Mailbox.leave);
        return true;
      }
      this.runTimers();
      if (chip.hasEvents(id) || (enabled && chip.pendingVector(id) >= 0)) {
        Atomics.or(words, at, Mailbox.interrupt);
        this.#kickWatch.woken(chip.clock.nowNs(), this.#events.taken !== taken);
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
      if (this.#kickWatch.polls(now)) continue;
      if (wait >= IDLE_MS && this.#tidy()) continue;
      this.#awaitMail(Math.min(wait, 0x7fffffff));
    }
  }

  /** Sleeps until there is something in the mailbox, or an irqfd was signalled. */
  #awaitMail(timeoutMs: number): void {
    const words = this.#mailbox;
    const index = S.mailbox >>> 2;
    if (this.#events.hasIrqfds) {
      const options = { id: this.#cpu.id, timeoutMs, words, index };
      if (this.#events.sleep(this.#chip, options)) return;
    }
    Atomics.wait(words, index, 0, timeoutMs);
  }

  /** The end of an NMI's handler: IRET. */
  endOfNmi(): void {
    this.#cpu.set32(S.nmiBlocked, 0);
    if (!this.#nmiPending) return;
    Atomics.or(this.#mailbox, S.mailbox >>> 2, Mailbox.interrupt);
    this.#cpu.set32(S.fuel, 0);
  }
}
