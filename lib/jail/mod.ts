/**
 * Jails: policies of system calls, and what confines a device's process.
 *
 * @module
 */

export {
  formatPlace,
  formatPolicyProblem,
  JailError,
  type Place,
  PolicyError,
  type PolicyProblem,
} from "./errors.ts";
export type {
  Action,
  Atom,
  Clause,
  Condition,
  Operator,
  Policy,
  Rule,
  SyscallRules,
} from "./policy/ast.ts";
export { AUDIT_ARCH_X86_64, judge, type Judgement, type SyscallData } from "./policy/evaluate.ts";
export { type LoadOptions, loadPolicy } from "./policy/load.ts";
export { hostFiles, memoryFiles, type PolicySource } from "./policy/source.ts";
export { evaluateExpression } from "./policy/values.ts";
export { describeAction, describeCondition } from "./policy/describe.ts";
export { syscallName, syscallNames, syscallNumber } from "./policy/syscalls.ts";
export { type CompileOptions, compilePolicy, returnValue, type Violation } from "./bpf/compile.ts";
export { describeReturn, disassemble } from "./bpf/disassemble.ts";
export {
  decodeProgram,
  encodeProgram,
  type Instruction,
  SeccompReturn,
  withReturn,
} from "./bpf/instruction.ts";
export { type Run, simulate, verifyProgram } from "./bpf/simulate.ts";
export { type ConfineOptions, confineProcess, confineProcessWith } from "./confine.ts";
export { embeddedPolicies, embeddedPolicyNames, loadDevicePolicy } from "./device_policies.ts";
export type { IdMapping, JailMount, JailSpec } from "./jail.ts";
export { JailedProcess, spawnJailed, StartingJail, startJailed } from "./spawn.ts";
export { closedSwitches } from "./refusal.ts";
export { runtimeMounts } from "./runtime_mounts.ts";
