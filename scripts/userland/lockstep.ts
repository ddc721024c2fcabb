/**
 * Guests whose translated code is compared with the interpreter: what was compared, and a difference
 * as a person can read it.
 *
 * @module
 */

import { Decoder, DecoderOptions, Formatter, FormatterSyntax } from "iced-x86";

/** What `vmctl run` is to be started with, so that it compares. */
export const COMPARING = { VMCTL_SOFT_TIER: "spot-checks" } as const;

/** Options with which it writes what it compared into `file` and keeps to what this run translates. */
export function comparingOptions(file: string): string[] {
  return ["--soft", "cache=false", "--engine-stats", file];
}

/** What was compared in a run. */
export interface Comparison {
  /** Regions that were translated, and those of them that were compared. */
  readonly regions: number;
  readonly regionsCompared: number;
  readonly comparisons: number;
  /** Instructions and faults compared. */
  readonly instructions: number;
  readonly faults: number;
}

/** What the counters that `vmctl run --engine-stats` wrote say of vCPU 0. */
export async function readComparison(file: string): Promise<Comparison | undefined> {
  const counters = JSON.parse(await Deno.readTextFile(file)) as {
    readonly vcpus: readonly { readonly comparison?: Comparison }[];
  };
  return counters.vcpus[0]?.comparison;
}

/** A difference that was found. */
export interface Difference {
  /** What it says, with the guest's code disassembled. */
  readonly text: string;
  /** The region's module. */
  readonly module: Uint8Array;
}

const LISTING = /^instructions, .*:$/;
const MODULE = "module in base64:";
const EXECUTED = /^0x([0-9a-f]+) (\d+) ([0-9a-f]{2,30})$/;

/** Reads the difference in what vmctl printed, where there is one. */
export function readDifference(stderr: string): Difference | undefined {
  const lines = stderr.split("\n");
  const code = lines.findIndex((line) => LISTING.test(line));
  const module = lines.indexOf(MODULE, code);
  if (code < 0 || module < 0) return undefined;
  const rest = lines.slice(module + 1);
  const end = rest.findIndex((line) => !/^[A-Za-z0-9+/]+=*$/.test(line));
  return {
    text: [...lines.slice(0, code + 1), ...lines.slice(code + 1, module).map(disassembled)]
      .join("\n"),
    module: Uint8Array.fromBase64(rest.slice(0, end < 0 ? rest.length : end).join("")),
  };
}

function disassembled(line: string): string {
  const [, address, count, bytes] = EXECUTED.exec(line) ?? [];
  if (address === undefined || bytes === undefined) return line;
  const decoder = new Decoder(64, Uint8Array.fromHex(bytes), DecoderOptions.None);
  const formatter = new Formatter(FormatterSyntax.Nasm);
  decoder.ip = BigInt(`0x${address}`);
  const instruction = decoder.decode();
  const text = formatter.format(instruction);
  const own = bytes.slice(0, 2 * instruction.length);
  instruction.free();
  formatter.free();
  decoder.free();
  return `0x${address}  ${own.padEnd(30)}  ${text}  (${count} times)`;
}
