/**
 * The vCPU workers as main sees them: started together, paused, resumed and stopped together.
 *
 * @module
 */

import { describeError, ExitStatus, Logger, Ticker } from "../base/mod.ts";
import type { BootEntry } from "../boot/mod.ts";
import { eventfd, type Fd, getpid, signalEvent, takeEvent, tgkill } from "../host/mod.ts";
import type { Vm } from "../hypervisor/mod.ts";
import type { VirtioPciHandle } from "../virtio/mod.ts";
import { MachineError } from "./errors.ts";
import type { Outcome } from "./outcome.ts";
import { VCPU_PHASE_NAMES, VcpuBoard, VcpuCommand, VcpuPhase } from "./vcpu_board.ts";
import type { VcpuBoot, VcpuMessage, VcpuStart } from "./vcpu_messages.ts";
import { takeEarlyWorker, workerModuleUrl } from "./worker_url.ts";

/** How long all vCPUs may take to leave the guest, in ms. */
const LEAVE_TIMEOUT_MS = 20_000;
/** How long all workers may take to attach, in ms; compiling an engine on a busy host takes a while. */
const START_TIMEOUT_MS = 60_000;
/** How long to wait before a vCPU that has not left is kicked again, in ms. */
const KICK_AGAIN_MS = 100;
/** How often to look whether the workers' threads are there, in ms. */
const WATCH_MS = 2000;

const log = new Logger("machine");

/** What a {@link VcpuTeam} reports. */
export interface VcpuTeamEvents {
  /** A vCPU ended, and not because it was told to. */
  onOutcome(outcome: Outcome): void;
  /** Serial port number `port` (0 is COM1) cannot be written to any more. */
  onOutputFailed(port: number, errno: number): void;
}

/** How a {@link VcpuTeam} is made. */
export interface VcpuTeamOptions {
  readonly vcpuCount: number;
  readonly events: VcpuTeamEvents;
  /** Module that the workers are; this program where absent. */
  readonly moduleUrl?: string;
  /** How long all vCPUs may take to leave the guest, in ms. */
  readonly leaveTimeoutMs?: number;
  /** How often to look whether the workers' threads are there, in ms. */
  readonly watchMs?: number;
}

/** What the workers attach to, but for what the team itself knows. */
export type VcpuParts = Omit<VcpuStart, "role" | "id" | "board">;

/** What a vCPU does, for the state request. */
export interface VcpuStatus {
  readonly id: number;
  readonly tid: number;
  readonly phase: typeof VCPU_PHASE_NAMES[number];
}

/** A worker and how far it is. */
interface Member {
  readonly worker: Worker;
  started: boolean;
  gone: boolean;
  /** Its thread was not there when it was last looked for. */
  missing: boolean;
}

/** All vCPUs of a VM. */
export class VcpuTeam {
  readonly #board: VcpuBoard;
  readonly #members: readonly Member[];
  readonly #events: VcpuTeamEvents;
  readonly #wake: Fd;
  readonly #leaveTimeoutMs: number;
  readonly #allGone = Promise.withResolvers<void>();
  readonly #watchMs: number;
  #threadWatch: Ticker | undefined;
  #vm: Vm | undefined;
  #booted = false;
  /** They are told to end, which nothing undoes. */
  #ending = false;

  /** Starts one worker for each vCPU, so that they load while the machine is put together. */
  constructor(options: VcpuTeamOptions) {
    const { vcpuCount } = options;
    this.#board = VcpuBoard.create(vcpuCount);
    this.#events = options.events;
    this.#leaveTimeoutMs = options.leaveTimeoutMs ?? LEAVE_TIMEOUT_MS;
    this.#wake = eventfd(0, { nonblock: true });
    const early = options.moduleUrl === undefined ? takeEarlyWorker() : undefined;
    const url = options.moduleUrl ?? workerModuleUrl();
    this.#members = Array.from({ length: vcpuCount }, (_, id) => {
      const worker = id === 0 ? early : undefined;
      return this.#watch(worker ?? new Worker(url, { type: "module", name: `vcpu${id}` }), id);
    });
    this.#watchMs = options.watchMs ?? WATCH_MS;
  }

  /** Readable while the vCPUs shall not wait for anything but the guest. */
  get wakeFd(): number {
    return this.#wake.raw;
  }

  /** Lets the workers attach to the machine. */
  attach(vm: Vm, parts: VcpuParts): void {
    this.#vm = vm;
    this.#members.forEach((member, id) => {
      member.started = true;
      const start: VcpuStart = { role: "vcpu", id, board: this.#board.handle(), ...parts };
      member.worker.postMessage(start);
    });
  }

  /**
   * Says how the boot processor begins and what is on the PCI bus, and waits until all vCPUs are at the start barrier.
   *
   * @throws {MachineError} when one is not there in time.
   */
  async boot(entry: BootEntry, virtio: readonly VirtioPciHandle[] = []): Promise<void> {
    this.#sendBoot(entry, virtio);
    if (await this.#reach(() => this.#allParked(), START_TIMEOUT_MS)) return;
    throw new MachineError(`vCPUs did not start within ${START_TIMEOUT_MS} ms`);
  }

  /** Opens the start barrier, or ends a pause; nothing to do once they are to end. */
  run(): void {
    if (this.#ending) return;
    takeEvent(this.#wake);
    this.#board.command = VcpuCommand.Run;
    this.#threadWatch ??= new Ticker(this.#watchMs, () => this.#lookForThreads());
  }

  /**
   * Makes all vCPUs leave the guest and wait.
   *
   * @throws {MachineError} when one does not leave in time; all go on then. Also once they are to end.
   */
  async pause(): Promise<void> {
    if (this.#ending) throw new MachineError("the vCPUs end");
    this.#leave(VcpuCommand.Pause);
    if (await this.#reach(() => this.#allParked(), this.#leaveTimeoutMs)) return;
    this.run();
    throw new MachineError(`vCPUs did not stop within ${this.#leaveTimeoutMs} ms`);
  }

  /**
   * Makes all vCPUs end, whatever they do.
   *
   * @returns whether all have ended, so that what they used can be released.
   */
  async stop(): Promise<boolean> {
    this.#threadWatch?.[Symbol.dispose]();
    this.#ending = true;
    this.#leave(VcpuCommand.Stop);
    // One that only waits for messages hears of the end as of a boot.
    if (!this.#booted) this.#sendBoot(undefined, []);
    for (const member of this.#members) if (!member.started) this.#lose(member);
    const allGone = await this.#reach(
      () => this.#members.every((member) => member.gone),
      this.#leaveTimeoutMs,
    );
    this.#members.forEach((member, id) => {
      if (!member.gone) log.error(`vCPU ${id} did not stop within ${this.#leaveTimeoutMs} ms`);
      member.worker.terminate();
    });
    if (allGone) this.#wake.close();
    return allGone;
  }

  /** What each vCPU does. */
  status(): VcpuStatus[] {
    return this.#members.map((member, id) => ({
      id,
      tid: this.#board.thread(id),
      phase: VCPU_PHASE_NAMES[member.gone ? VcpuPhase.Ended : this.#board.phase(id)],
    }));
  }

  #watch(worker: Worker, id: number): Member {
    const member: Member = { worker, started: false, gone: false, missing: false };
    worker.onmessage = (event: MessageEvent<VcpuMessage>) => {
      const message = event.data;
      if (message.type === "output-failed") {
        this.#events.onOutputFailed(message.port, message.errno);
        return;
      }
      this.#lose(member);
      if (message.outcome !== undefined) this.#events.onOutcome(message.outcome);
    };
    worker.onerror = (event) => {
      // Otherwise the error would end this process, and the terminal would stay as it is.
      event.preventDefault();
      this.#lose(member);
      const why = `the worker of vCPU ${id} failed: ${event.message}`;
      this.#events.onOutcome({ status: ExitStatus.Crash, why });
    };
    return member;
  }

  #sendBoot(entry: BootEntry | undefined, virtio: readonly VirtioPciHandle[]): void {
    this.#booted = true;
    this.#board.call();
    this.#members.forEach((member, id) => {
      const boot: VcpuBoot = { entry: id === 0 ? entry : undefined, virtio };
      if (member.started) member.worker.postMessage(boot);
    });
  }

  /** The runtime says nothing of a worker that ends without an error. */
  #lookForThreads(): void {
    this.#members.forEach((member, id) => {
      const tid = this.#board.thread(id);
      if (member.gone || tid === 0 || this.#board.phase(id) === VcpuPhase.Ended) return;
      const missing = !tgkill(getpid(), tid, 0);
      const lost = missing && member.missing;
      // Once is not enough: what it said last may still be on its way.
      member.missing = missing;
      if (!lost) return;
      this.#lose(member);
      const why = `the worker of vCPU ${id} ended without saying why`;
      this.#events.onOutcome({ status: ExitStatus.Crash, why });
    });
  }

  #lose(member: Member): void {
    member.gone = true;
    if (this.#members.every(({ gone }) => gone)) this.#allGone.resolve();
  }

  #leave(command: VcpuCommand): void {
    this.#board.command = command;
    signalEvent(this.#wake);
    this.#kick();
  }

  #kick(): void {
    this.#members.forEach((member, id) => {
      if (!member.started || member.gone) return;
      try {
        this.#vm?.kick(id);
      } catch (error) {
        // The way to the end must not end here; whether the vCPU leaves is waited for anyway.
        log.warn(`vCPU ${id} cannot be kicked: ${describeError(error)}`);
      }
    });
  }

  /** Whether all that have not ended wait because of what they were told last. */
  #allParked(): boolean {
    const board = this.#board;
    return this.#members.every((member, id) => {
      const phase = board.phase(id);
      if (member.gone || phase === VcpuPhase.Ended) return true;
      return phase === VcpuPhase.Parked && board.answers(id);
    });
  }

  /** Waits until `reached`, kicking again now and then; false after `timeoutMs`. */
  async #reach(reached: () => boolean, timeoutMs: number): Promise<boolean> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const seen = this.#board.changes;
      if (reached()) return true;
      if (performance.now() >= deadline) return false;
      await Promise.race([
        this.#board.changed(seen, KICK_AGAIN_MS),
        this.#allGone.promise,
      ]);
      if (this.#board.command !== VcpuCommand.Hold && !reached()) this.#kick();
    }
  }
}
