/**
 * A small WebAssembly assembler: expressions, functions, modules.
 *
 * @module
 */
export * from "./expr.ts";
export * from "./func.ts";
export * from "./memory_access.ts";
export * from "./module.ts";
export { ByteWriter } from "./bytes.ts";
export { joinModules } from "./join.ts";
export { Priority, readPriorities, withPriorities } from "./priorities.ts";
export { type FuncType, Op, OpFc, OpFd, OpFe, ValType } from "./types.ts";
export * from "./exception.ts";
