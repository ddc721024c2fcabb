/**
 * Devices as the instructions of a processor reach them: the interrupt chip, ioeventfds, and the machine behind
 * them.
 *
 * @module
 */

import { MsrStatus, type SoftIrqChip } from "../irqchip/mod.ts";
import type { SoftEvents } from "../events.ts";
import type { HostContext, Platform } from "./host_context.ts";
import type { Incoming } from "./incoming.ts";
import type { KickWatch } from "./kick_watch.ts";
import { Flag, Mailbox, S } from "./state.ts";
import type { Lockstep } from "./translator/lockstep.ts";

/** The devices as one processor reaches them. */
export class DeviceAccess {
  readonly #cpu: HostContext;
  readonly #chip: SoftIrqChip;
  readonly #events: SoftEvents;
  readonly #incoming: Incoming;
  /** Where a store that an ioeventfd took is followed up. */
  readonly #kickWatch: KickWatch | undefined;
  readonly #lockstep: Lockstep | undefined;
  readonly #stats: { deviceAccesses: number };
  readonly #mmioData: DataView;
  readonly #ioWrite: { size: number; data: DataView };

  constructor(parts: {
    readonly cpu: HostContext;
    readonly chip: SoftIrqChip;
    readonly events: SoftEvents;
    readonly incoming: Incoming;
    readonly kickWatch: KickWatch | undefined;
    readonly lockstep: Lockstep | undefined;
    readonly stats: { deviceAccesses: number };
  }) {
    this.#cpu = parts.cpu;
    this.#chip = parts.chip;
    this.#events = parts.events;
    this.#incoming = parts.incoming;
    this.#kickWatch = parts.kickWatch;
    this.#lockstep = parts.lockstep;
    this.#stats = parts.stats;
    this.#mmioData = new DataView(parts.cpu.i32.buffer, S.mmioData, 8);
    this.#ioWrite = { size: 0, data: this.#mmioData };
  }

  /** Ports and the local APIC, for instructions that name them. */
  platform(): Platform {
    const chip = this.#chip;
    const { id } = this.#cpu;
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
        this.lookAround();
        if (status === MsrStatus.NotMine) return undefined;
        return status !== MsrStatus.Fault;
      },
      setTscOffset: (ticks) => chip.setTscOffset(id, ticks),
      getTpr: () => chip.getTpr(id) >>> 4,
      setTpr: (value) => {
        chip.setTpr(id, value << 4);
        this.lookAround();
      },
      portIn: (port, size, data) => {
        if (chip.handlesPort(port)) chip.portIn(port, size, data);
        else this.#cpu.io.portIn(port, size, data);
        this.lookAround();
      },
      portOut: (port, size, data) => {
        if (chip.handlesPort(port)) chip.portOut(port, size, data);
        else if (
          // The table is empty for guests without such devices, so nothing is made for them.
          !this.#events.hasIoEvents || !this.#events.signalIoEvent(false, port, { size, data })
        ) this.#cpu.io.portOut(port, size, data);
        this.lookAround();
      },
    };
  }

  /** After device work: come back at the next branch where there is something to do. */
  lookAround(): void {
    // Who raised a level-triggered interrupt learns of its end when the guest says so, not at the next exit.
    this.#incoming.signalEnds();
    const io = this.#cpu.io;
    const mail = this.#cpu.get32(S.mailbox);
    // What enables interrupts looks for those that wait.
    const held = mail === Mailbox.interrupt && (this.#cpu.get32(S.flagOther) & Flag.IF) === 0 &&
      !this.#chip.hasEvents(this.#cpu.id);
    if ((mail !== 0 && !held) || (io !== undefined && io.stopRequested)) {
      this.#cpu.set32(S.fuel, 0);
    }
  }

  /** A load of `size` bytes at `physical`, to `S.mmioData`. */
  load(physical: number, size: number): void {
    if (this.#lockstep?.device(physical, { size, store: false }) === true) return;
    this.#load(physical, size);
    this.#lockstep?.deviceDone(physical, { size, store: false });
  }

  #load(physical: number, size: number): void {
    this.#stats.deviceAccesses++;
    if (this.#chip.handlesMmio(physical, this.#cpu.id)) {
      this.#chip.mmioRead(this.#cpu.id, physical, size, this.#mmioData);
    } else this.#cpu.io.mmioRead(physical, size, this.#mmioData);
    this.lookAround();
  }

  /** A store of the `size` bytes in `S.mmioData` at `physical`. */
  store(physical: number, size: number): void {
    if (this.#lockstep?.device(physical, { size, store: true }) === true) return;
    this.#lockstep?.deviceDone(physical, { size, store: true });
    this.#store(physical, size);
  }

  #store(physical: number, size: number): void {
    this.#stats.deviceAccesses++;
    if (this.#chip.handlesMmio(physical, this.#cpu.id)) {
      this.#chip.mmioWrite(this.#cpu.id, physical, size, this.#mmioData);
    } else if (!this.#events.hasIoEvents || !this.#signalMmio(physical, size)) {
      this.#cpu.io.mmioWrite(physical, size, this.#mmioData);
    }
    this.lookAround();
  }

  #signalMmio(physical: number, size: number): boolean {
    this.#ioWrite.size = size;
    if (!this.#events.signalIoEvent(true, physical, this.#ioWrite)) return false;
    const watch = this.#kickWatch;
    if (watch !== undefined) this.#cpu.set32(S.fuel, watch.begin(this.#cpu.get32(S.fuel)));
    return true;
  }
}
