/**
 * The opcode table: all rows, and the generated functions that their handlers call.
 *
 * @module
 */

import type { ModuleBuilder } from "../wasm/mod.ts";
import type { Runtime } from "./cx.ts";
import { aluRows } from "./integer/alu.ts";
import { controlRows } from "./integer/control.ts";
import { fastCallRows } from "./integer/fast_calls.ts";
import { moveRows } from "./integer/moves.ts";
import { shiftRows } from "./integer/shifts.ts";
import { stringRows } from "./integer/strings.ts";
import { systemRows } from "./integer/system.ts";
import type { Insn } from "./opcode.ts";
import { registerFloatHelpers, simdRows } from "./simd/mod.ts";
import { x87Rows } from "./x87/mod.ts";

/** Every encoding that the processor knows. */
export const allRows: readonly Insn[] = [
  ...aluRows,
  ...shiftRows,
  ...moveRows,
  ...stringRows,
  ...controlRows,
  ...systemRows,
  ...fastCallRows,
  ...simdRows,
  ...x87Rows,
];

/** Adds the functions that handlers call, before the handlers are made. */
export function registerHelpers(module: ModuleBuilder, runtime: Runtime): void {
  registerFloatHelpers(module, runtime);
}
