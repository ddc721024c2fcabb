/**
 * Who tells that memory is low.
 *
 * @module
 */

import { join } from "node:path";
import { describeError, Logger } from "../../base/mod.ts";
import {
  type Fd,
  isHostError,
  openFile,
  OpenFlag,
  PollEvent,
  type Reactor,
  type Watch,
  writeAll,
} from "../../host/mod.ts";
import { MachineError } from "../errors.ts";
import { cgroupMeter, chromeosMeter, hostMeter, type MemoryMeter, spare } from "./meters.ts";

const log = new Logger("balloon");

/** How often a margin is looked at, in ms. A control group is small, and soon full. */
const HOST_LOOK_MS = 1000;
const CGROUP_LOOK_MS = 200;
/**
 * Stalls that count as low memory: so many of so many us (Documentation/accounting/psi.rst). Without
 * privilege, windows are whole multiples of 2 s.
 */
const TRIGGERS = ["some 100000 1000000", "some 200000 2000000"] as const;

/** What is asked for: `auto` takes the first that is there. */
export type LowMemorySourceChoice = "auto" | "device" | "pressure" | "available";

/** Where things are on a host; for tests they are elsewhere. */
export interface LowMemoryPlaces {
  readonly device: string;
  /** Folder of `margin` and `available`. */
  readonly deviceFacts: string;
  readonly pressure: string;
  readonly memoryInfo: string;
}

const PLACES: LowMemoryPlaces = {
  device: "/dev/chromeos-low-mem",
  deviceFacts: "/sys/kernel/mm/chromeos-low_mem",
  pressure: "/proc/pressure/memory",
  memoryInfo: "/proc/meminfo",
};

/** Tells that memory is low, while somebody listens. */
export interface LowMemorySource extends Disposable {
  /** For the log. */
  readonly description: string;
  /** What there is now. */
  readonly meter: MemoryMeter;
  /** Calls `onLow` once memory is low, as often as that is noticed, until {@link pause}. */
  listen(onLow: () => void): void;
  /** Is silent from now on. */
  pause(): void;
}

/** Settings of {@link openLowMemorySource}. */
export interface LowMemoryOptions {
  readonly reactor: Reactor;
  readonly choice: LowMemorySourceChoice;
  /** Folder of the control group that counts beside the host. */
  readonly cgroup?: string | undefined;
  readonly places?: LowMemoryPlaces;
}

/**
 * Opens what the host has.
 *
 * @throws {MachineError} where what was asked for is not there.
 */
export function openLowMemorySource(options: LowMemoryOptions): LowMemorySource {
  const { reactor, choice, cgroup, places = PLACES } = options;
  const auto = choice === "auto";
  // The device knows of the whole host only.
  if (choice === "device" || auto && cgroup === undefined) {
    const fd = tryOpen(places.device, OpenFlag.ReadOnly | OpenFlag.NonBlock, auto);
    if (fd !== undefined) {
      return new DescriptorSource(fd, {
        reactor,
        events: PollEvent.In,
        description: places.device,
        meter: chromeosMeter(places.deviceFacts),
      });
    }
  }
  const host = hostMeter(places.memoryInfo);
  const meter = cgroup === undefined ? host : cgroupMeter(cgroup, host);
  const margin = new MarginSource(meter, {
    lookMs: cgroup === undefined ? HOST_LOOK_MS : CGROUP_LOOK_MS,
    description: `${cgroup ?? "the host"}'s available memory`,
  });
  if (choice === "available") return margin;
  const path = cgroup === undefined ? places.pressure : join(cgroup, "memory.pressure");
  const trigger = openTrigger(path, auto);
  if (trigger === undefined) return margin;
  const pressure = new DescriptorSource(trigger, {
    reactor,
    events: PollEvent.Priority,
    description: path,
    meter,
  });
  // Where nothing can be swapped out, nobody stalls until it is too late.
  return cgroup === undefined ? pressure : new EitherSource(pressure, margin);
}

/** A descriptor with an event for low memory. */
class DescriptorSource implements LowMemorySource {
  readonly description: string;
  readonly meter: MemoryMeter;
  readonly #fd: Fd;
  readonly #reactor: Reactor;
  readonly #events: number;
  #watch: Watch | undefined;

  constructor(
    fd: Fd,
    options: {
      readonly reactor: Reactor;
      readonly events: number;
      readonly description: string;
      readonly meter: MemoryMeter;
    },
  ) {
    this.#fd = fd;
    this.#reactor = options.reactor;
    this.#events = options.events;
    this.description = options.description;
    this.meter = options.meter;
  }

  listen(onLow: () => void): void {
    this.#watch ??= this.#reactor.watch(this.#fd, this.#events, (events) => {
      if ((events & this.#events) !== 0) return onLow();
      // It is gone, as a control group that was removed; it would be told over and over.
      log.warn(`${this.description} tells nothing any more`);
      this.pause();
    });
  }

  pause(): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
  }

  [Symbol.dispose](): void {
    this.pause();
    this.#fd.close();
  }
}

/** Looks now and then whether less than the margin is there. */
class MarginSource implements LowMemorySource {
  readonly description: string;
  readonly meter: MemoryMeter;
  readonly #lookMs: number;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(
    meter: MemoryMeter,
    options: { readonly lookMs: number; readonly description: string },
  ) {
    this.meter = meter;
    this.#lookMs = options.lookMs;
    this.description = options.description;
  }

  listen(onLow: () => void): void {
    this.#timer ??= setInterval(() => {
      try {
        if (spare(this.meter()) < 0) onLow();
      } catch (error) {
        log.warn(`${this.description} is not known any more: ${describeError(error)}`);
        this.pause();
      }
    }, this.#lookMs);
  }

  pause(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  [Symbol.dispose](): void {
    this.pause();
  }
}

/** Whichever tells first. */
class EitherSource implements LowMemorySource {
  readonly description: string;
  readonly meter: MemoryMeter;
  readonly #sources: readonly LowMemorySource[];

  constructor(...sources: readonly [LowMemorySource, LowMemorySource]) {
    this.description = sources.map(({ description }) => description).join(" and ");
    this.meter = sources[0].meter;
    this.#sources = sources;
  }

  listen(onLow: () => void): void {
    for (const source of this.#sources) source.listen(onLow);
  }

  pause(): void {
    for (const source of this.#sources) source.pause();
  }

  [Symbol.dispose](): void {
    for (const source of this.#sources) source[Symbol.dispose]();
  }
}

/** The descriptor; undefined where it is not there and need not be. */
function tryOpen(path: string, flags: number, optional: boolean): Fd | undefined {
  try {
    return openFile(path, flags);
  } catch (cause) {
    if (optional && isHostError(cause)) return undefined;
    throw new MachineError("low-memory events", { cause });
  }
}

/** Opens a pressure file and asks it for events. */
function openTrigger(path: string, optional: boolean): Fd | undefined {
  let refusal: unknown;
  for (const trigger of TRIGGERS) {
    const fd = tryOpen(path, OpenFlag.ReadWrite | OpenFlag.NonBlock, optional);
    if (fd === undefined) return undefined;
    try {
      writeAll(fd, new TextEncoder().encode(`${trigger}\0`));
      return fd;
    } catch (error) {
      fd.close();
      if (!isHostError(error)) throw error;
      refusal = error;
    }
  }
  if (!optional) throw new MachineError(`${path}: no low-memory events`, { cause: refusal });
  log.debug(`${path}: no low-memory events: ${describeError(refusal)}`);
  return undefined;
}
