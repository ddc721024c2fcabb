/**
 * How much memory the host, or a control group of it, has to spare.
 *
 * @module
 */

import { join } from "node:path";
import { MIB } from "../../base/mod.ts";
import { MachineError } from "../errors.ts";
import type { MemoryOnHand } from "./policy.ts";

/** What is left alone: this part of all, at least so much, and never more than half of all. */
const MARGIN_PART = 0.05;
const LEAST_MARGIN_BYTES = 128 * MIB;
const MOST_MARGIN_PART = 0.5;

/** Tells what there is. */
export type MemoryMeter = () => MemoryOnHand;

/** Of the whole host, by `MemAvailable`. @throws {MachineError} where /proc/meminfo does not tell. */
export function hostMeter(path = "/proc/meminfo"): MemoryMeter {
  const meter = () => {
    const text = Deno.readTextFileSync(path);
    return onHand({
      availableBytes: 1024 * numberAfter(text, "MemAvailable:", path),
      totalBytes: 1024 * numberAfter(text, "MemTotal:", path),
    });
  };
  meter();
  return meter;
}

/**
 * Of the control group in `folder`, version 1 or 2. Where it has no limit, `host` counts; where it has
 * one, whatever is shorter.
 *
 * @throws {MachineError} where that is no control group with memory.
 */
export function cgroupMeter(folder: string, host: MemoryMeter): MemoryMeter {
  const read = memoryOfCgroup(folder);
  read();
  return () => {
    const own = read();
    const whole = host();
    if (own === undefined) return whole;
    const group = onHand(own);
    return spare(group) < spare(whole) ? group : whole;
  };
}

/** Of ChromeOS's low-memory device: both files are in MiB. */
export function chromeosMeter(folder: string): MemoryMeter {
  const read = (name: string) => {
    const path = join(folder, name);
    // Later kernels have several margins; the first is the critical one.
    return numberAfter(Deno.readTextFileSync(path), "", path);
  };
  return () => ({ availableMib: read("available"), marginMib: read("margin") });
}

/** MiB beyond the margin, negative below it. */
export function spare({ availableMib, marginMib }: MemoryOnHand): number {
  return availableMib - marginMib;
}

interface Amounts {
  readonly availableBytes: number;
  readonly totalBytes: number;
}

function onHand({ availableBytes, totalBytes }: Amounts): MemoryOnHand {
  const margin = Math.min(
    Math.max(totalBytes * MARGIN_PART, LEAST_MARGIN_BYTES),
    totalBytes * MOST_MARGIN_PART,
  );
  return {
    availableMib: Math.max(Math.floor(availableBytes / MIB), 0),
    marginMib: Math.floor(margin / MIB),
  };
}

/** Reads a group's amounts; undefined is without a limit. */
function memoryOfCgroup(folder: string): () => Amounts | undefined {
  const text = (name: string) => Deno.readTextFileSync(join(folder, name));
  const stat = (key: string) => numberAfter(text("memory.stat"), key, join(folder, "memory.stat"));
  const amounts = (limit: number, used: number, reclaimable: number) =>
    // Version 1 says a number beyond all memory where there is no limit.
    limit >= Number.MAX_SAFE_INTEGER
      ? undefined
      : { totalBytes: limit, availableBytes: limit - used + reclaimable };
  if (exists(join(folder, "memory.current"))) {
    return () => {
      const limit = text("memory.max").trim();
      return amounts(
        limit === "max" ? Infinity : Number(limit),
        Number(text("memory.current")),
        stat("inactive_file "),
      );
    };
  }
  if (exists(join(folder, "memory.usage_in_bytes"))) {
    return () =>
      amounts(
        stat("hierarchical_memory_limit "),
        Number(text("memory.usage_in_bytes")),
        stat("total_inactive_file "),
      );
  }
  throw new MachineError(
    `${folder}: expected a control group with memory, found ` +
      (exists(folder) ? "neither memory.current nor memory.usage_in_bytes in it" : "nothing there"),
  );
}

/** The number that follows `key` at the begin of a line. */
function numberAfter(text: string, key: string, path: string): number {
  const at = text.startsWith(key) ? 0 : text.indexOf(`\n${key}`) + 1;
  const found = at > 0 || text.startsWith(key)
    ? /^\s*(\d+)/.exec(text.slice(at + key.length))?.[1]
    : undefined;
  if (found === undefined) {
    throw new MachineError(`${path}: expected a number${key === "" ? "" : ` for ${key.trim()}`}`);
  }
  return Number(found);
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}
