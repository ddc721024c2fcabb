/**
 * Sizes in bytes, as users write them and as they are shown.
 *
 * @module
 */

import { VmctlError } from "./errors.ts";

/** One KiB in bytes. */
export const KIB = 1024;
/** One MiB in bytes. */
export const MIB = 1024 * KIB;
/** One GiB in bytes. */
export const GIB = 1024 * MIB;
/** One TiB in bytes. */
export const TIB = 1024 * GIB;

/** A size is not one. */
export class SizeError extends VmctlError {
  override readonly name = "SizeError";
}

/** How {@link parseSize} reads a number. */
export interface ParseSizeOptions {
  /** Bytes that a number without a suffix counts in (1, or {@link MIB} for `--mem`). */
  readonly defaultUnit?: number;
  /** What the size is of, for the message. */
  readonly what?: string;
}

const SIZE = /^([0-9]+)([.][0-9]+)?\s*([kmgt]?)(i?b)?$/i;
const FACTOR: Readonly<Record<string, number>> = { "": 1, k: KIB, m: MIB, g: GIB, t: TIB };

/**
 * Reads a size: digits, perhaps a fraction, and perhaps a suffix `K`, `M`, `G` or `T`, each also as
 * `KiB` or `KB` and in either case, all of them powers of 1024.
 *
 * @returns the size in bytes
 * @throws {SizeError} when `text` is not a size, is not a whole number of bytes or exceeds 2^53 - 1.
 */
export function parseSize(text: string, options: ParseSizeOptions = {}): number {
  const what = options.what ?? "size";
  const match = SIZE.exec(text.trim());
  if (match === null || (match[4]?.length === 2 && match[3] === "")) {
    throw new SizeError(
      `${what}: expected a number with an optional suffix K, M, G or T (512M, 2GiB), got ` +
        JSON.stringify(text),
    );
  }
  const suffixed = match[3] !== "" || match[4] !== undefined;
  const factor = suffixed ? FACTOR[(match[3] ?? "").toLowerCase()] ?? 1 : options.defaultUnit ?? 1;
  const whole = BigInt(match[1] ?? "0") * BigInt(factor);
  if (whole > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new SizeError(`${what}: ${text.trim()} is more than this program can count`);
  }
  const bytes = Number(whole) + Number(`0${match[2] ?? ""}`) * factor;
  if (!Number.isSafeInteger(bytes)) {
    throw new SizeError(`${what}: ${text.trim()} is not a whole number of bytes`);
  }
  return bytes;
}

/** Shows a size in the largest unit that leaves it exact, or with one digit: `512 MiB`, `1.5 GiB`. */
export function formatSize(bytes: number): string {
  const units: readonly (readonly [string, number])[] = [
    ["TiB", TIB],
    ["GiB", GIB],
    ["MiB", MIB],
    ["KiB", KIB],
  ];
  for (const [name, factor] of units) {
    if (Math.abs(bytes) >= factor) {
      const count = bytes / factor;
      return `${Number.isInteger(count) ? count : count.toFixed(1)} ${name}`;
    }
  }
  return `${bytes} B`;
}
