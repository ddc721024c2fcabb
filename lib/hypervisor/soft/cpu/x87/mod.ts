/**
 * The x87: rows of the opcode table, and the functions that their handlers call.
 *
 * @module
 */

import type { Insn } from "../opcode.ts";
import { arithmeticX87Rows } from "./arithmetic.ts";
import { controlRows } from "./control.ts";
import { dataRows } from "./data.ts";
import { environmentRows } from "./environment.ts";
import { transcendentalRows } from "./transcendental.ts";

export { registerEnvironment } from "./environment.ts";
export { registerX87Helpers } from "./helpers.ts";
export { x87HostFunctions } from "./transcendental.ts";

/** Rows of the x87 instructions. */
export const x87Rows: readonly Insn[] = [
  ...arithmeticX87Rows,
  ...dataRows,
  ...transcendentalRows,
  ...environmentRows,
  ...controlRows,
];
