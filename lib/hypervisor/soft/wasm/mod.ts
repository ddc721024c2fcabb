/**
 * A small WebAssembly assembler: expressions, functions, modules.
 *
 * @module
 */
export * from "./expr.ts";
export * from "./module.ts";
export { ByteWriter } from "./bytes.ts";
export { Priority, readPriorities, withPriorities } from "./priorities.ts";
export type { FuncType } from "./types.ts";
export * from "./exception.ts";
