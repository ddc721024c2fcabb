/**
 * MMX and SSE to SSE4.2: rows of the opcode table, and the functions that their handlers call.
 *
 * @module
 */

import type { ModuleBuilder } from "../../wasm/mod.ts";
import type { Runtime } from "../cx.ts";
import type { Insn } from "../opcode.ts";
import { registerEnvironment, registerX87Helpers } from "../x87/mod.ts";
import { buildSoftFloat } from "../x87/softfloat.ts";
import { controlRows } from "./control.ts";
import { conversionRows } from "./convert.ts";
import { floatRows } from "./float.ts";
import { registerApproximations, registerLanes } from "./float_lanes.ts";
import { registerSimdHelpers } from "./helpers.ts";
import { integerRows } from "./integer.ts";
import { moveRows } from "./moves.ts";
import { stringRows } from "./strings.ts";

/** Rows of the instructions on MMX and XMM registers. */
export const simdRows: readonly Insn[] = [
  ...moveRows,
  ...integerRows,
  ...stringRows,
  ...floatRows,
  ...conversionRows,
  ...controlRows,
];

/**
 * Adds the functions that SIMD and x87 handlers call to `module` and to `runtime.helpers`; before the
 * first handler is emitted.
 */
export function registerFloatHelpers(module: ModuleBuilder, runtime: Runtime): void {
  const mulHigh = runtime.helpers.get("mulHighU");
  const divide = runtime.helpers.get("div128U");
  if (mulHigh === undefined || divide === undefined) {
    throw new TypeError("the integer helpers are registered first");
  }
  const soft = buildSoftFloat(module, { mulHigh, divide });
  registerX87Helpers(module, runtime, soft);
  registerEnvironment(module, runtime);
  registerSimdHelpers(module, runtime);
  registerLanes(module, runtime, soft);
  registerApproximations(module, runtime);
}
