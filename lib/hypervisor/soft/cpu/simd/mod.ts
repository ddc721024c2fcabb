/**
 * MMX and SSE to SSE4.2: rows of the opcode table, and the functions that their handlers call.
 *
 * @module
 */

import type { ModuleBuilder } from "../../wasm/mod.ts";
import type { Runtime } from "../cx.ts";
import type { Insn } from "../opcode.ts";
import { registerX87Helpers } from "../x87/mod.ts";
import { controlRows } from "./control.ts";
import { registerSimdHelpers } from "./helpers.ts";
import { integerRows } from "./integer.ts";
import { moveRows } from "./moves.ts";
import { stringRows } from "./strings.ts";

/** Rows of the instructions on MMX and XMM registers. */
export const simdRows: readonly Insn[] = [
  ...moveRows,
  ...integerRows,
  ...stringRows,
  ...controlRows,
];

/**
 * Adds the functions that SIMD and x87 handlers call to `module` and to `runtime.helpers`; before the
 * first handler is emitted.
 */
export function registerFloatHelpers(module: ModuleBuilder, runtime: Runtime): void {
  registerX87Helpers(module, runtime);
  registerSimdHelpers(module, runtime);
}
