/**
 * Small guests that every engine has to run alike, and the assembler that they are written with.
 *
 * @module
 */

export { Assembler, at, type Bits, type Mem, ref, type Reg } from "./asm/mod.ts";
export { runGeneratedLoops } from "./generated_loops.ts";
export type { GuestTest } from "./guest_case.ts";
export { defineConformance, GUEST_TESTS } from "./suite.ts";
