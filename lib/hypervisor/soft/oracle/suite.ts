/**
 * What the instruction tests share: which processors can be the oracle, and checks of many rows.
 *
 * @module
 */

import assert from "node:assert/strict";
import type { Insn } from "../cpu/opcode.ts";
import { allRows } from "../cpu/table.ts";
import { type CaseTriple, type RowOptions, testRow } from "./differential.ts";
import type { Encoding } from "./encodings.ts";
import { Case, NativeRunner } from "./native.ts";
import { Random, testSeed } from "./random.ts";
import { InterpreterStep } from "./single_step.ts";
import { undefinedFlags, undefinedResult } from "./undefined.ts";

/** States that every form of a row is run from. */
export const STATES = 1000;

const FEATURES = ["cx16", "ssse3", "sse4_1", "sse4_2", "popcnt", "lahf_lm"];

function cpuinfo(): string {
  try {
    return Deno.readTextFileSync("/proc/cpuinfo");
  } catch {
    return "";
  }
}

/** Why this machine's processor cannot be the oracle; undefined where it can. */
export function whyNoOracle(options: { intel: boolean }): string | undefined {
  if (Deno.build.arch !== "x86_64") return `the processor is ${Deno.build.arch}`;
  const info = cpuinfo();
  const flags = new Set(/^flags\s*:(.*)$/m.exec(info)?.[1]?.split(/\s+/));
  const missing = FEATURES.filter((feature) => !flags.has(feature));
  if (missing.length > 0) return `the processor lacks ${missing.join(", ")}`;
  // Approximations, pointers of the x87 and the like differ between makers.
  if (options.intel && !info.includes("GenuineIntel")) return "the processor is not of Intel";
  return undefined;
}

// Not comparable in user mode: ports; segment registers, whose values are the kernel's; POPF could set
// the trap flag for the runner; absolute addresses, XLAT and ENTER name memory that the tests do not own.
const left = new Set(["ins", "outs", "popf", "xlat", "enter"]);

/** Whether an integer row can be compared with the processor in user mode. */
export function isComparable(row: Insn): boolean {
  return !left.has(row.mnemonic) &&
    !row.operands.some((o) => o.kind === "S" || o.kind === "O") &&
    ![...row.words].some((word) => word === "i64" || /^seg/.test(word));
}

/**
 * Whether makers have a row each in their own way: F3 90 with REX.B is XCHG on AMD's processors and PAUSE on
 * Intel's, 0F 0D needs memory there, FXSAVE leaves out x87's pointers, and MASKMOVDQU looks at other bytes first.
 */
export function differsByMaker({ mnemonic, encoding }: Insn): boolean {
  return /^(pause|fxsave|maskmovdqu)$/.test(mnemonic) || encoding === "0f 0d /r";
}

/**
 * True where MOVSXD to a register of 16 bits faults on the processor alone: AMD's read 32 bits of memory for it
 * (AMD64 APM vol. 3), Intel's 16 (SDM vol. 2), and the other two may not be there.
 */
function readsMore({ row, bytes, memory }: Encoding, { native, ours }: CaseTriple): boolean {
  const faults = (view: DataView) => view.getBigUint64(Case.signal, true) !== 0n;
  return row.mnemonic === "movsxd" && bytes[0] === 0x66 && memory !== undefined &&
    faults(native) && !faults(ours);
}

/** Runs `rows` on the processor and on the interpreter; throws where they differ. */
export function checkRows(rows: readonly Insn[], options: RowOptions = {}): void {
  const seed = testSeed();
  using native = new NativeRunner(1024);
  using step = new InterpreterStep(allRows, native.pages);
  const random = new Random(seed);
  const failures: string[] = [];
  for (const row of rows) {
    const report = testRow(row, { native, step, random }, {
      states: STATES,
      undefinedFlags,
      allow: (encoding, state) =>
        undefinedResult(encoding, state.input) || readsMore(encoding, state),
      ...options,
    });
    if (report.different === 0) continue;
    failures.push(
      `${row.mnemonic} (${row.encoding}): ${report.different} of ${report.states} states differ`,
      ...report.differences.map((difference) => difference.text),
    );
  }
  assert.equal(failures.length, 0, `with VMCTL_SEED=${seed}:\n${failures.join("\n")}`);
}

/** Registers a test of `rows`. */
export function testRows(
  name: string,
  rows: readonly Insn[],
  options: RowOptions & { intel?: boolean } = {},
): void {
  const { intel = false, ...rest } = options;
  const reason = whyNoOracle({ intel });
  Deno.test({
    name: reason === undefined ? name : `${name} (skipped: ${reason})`,
    ignore: reason !== undefined,
    fn() {
      console.error(`comparing ${rows.length} rows, VMCTL_SEED=${testSeed()}`);
      checkRows(rows, rest);
    },
  });
}
