/**
 * The x87: rows of the opcode table, and the functions that their handlers call.
 *
 * @module
 */

import type { Insn } from "../opcode.ts";
import { controlRows } from "./control.ts";
import { integerLoadRows } from "./integer_loads.ts";

export { registerX87Helpers } from "./helpers.ts";

/** Rows of the x87 instructions. */
export const x87Rows: readonly Insn[] = [...controlRows, ...integerLoadRows];
