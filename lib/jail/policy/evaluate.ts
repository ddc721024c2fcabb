/**
 * What a policy says about one call, found without compiling it.
 *
 * @module
 */

import type { Action, Atom, Condition, Policy, Rule, SyscallRules } from "./ast.ts";

/** A system call as a filter sees it. */
export interface SyscallData {
  /** Its number; 32 bits without a sign. */
  readonly number: number;
  /** AUDIT_ARCH of the caller, {@link AUDIT_ARCH_X86_64} where absent. */
  readonly arch?: number;
  /** Address of the instruction behind the call, 64 bits; 0 where absent. */
  readonly instructionPointer?: bigint;
  /** Up to 6 arguments of 64 bits without a sign; those that are missing are 0. */
  readonly args?: readonly bigint[];
}

/** AUDIT_ARCH_X86_64 of linux/audit.h: 64-bit, little-endian, EM_X86_64. */
export const AUDIT_ARCH_X86_64 = 0xc000_003e;

/** Bit that x32 calls have in their numbers (__X32_SYSCALL_BIT). */
export const X32_SYSCALL_BIT = 0x4000_0000;

/** What a policy says about a call, and why. */
export interface Judgement {
  readonly action: Action;
  readonly reason:
    | { readonly kind: "rule"; readonly rule: Rule; readonly syscall: SyscallRules }
    /** None of the call's rules fits. */
    | { readonly kind: "no-match"; readonly syscall: SyscallRules }
    /** The policy does not name the call. */
    | { readonly kind: "not-named" }
    /** A call of another architecture, or of the x32 interface. */
    | { readonly kind: "foreign" };
}

/** Judges one call. */
export function judge(policy: Policy, call: SyscallData): Judgement {
  const arch = call.arch ?? AUDIT_ARCH_X86_64;
  if (arch !== AUDIT_ARCH_X86_64 || call.number >= X32_SYSCALL_BIT) {
    return { action: { kind: "kill-process" }, reason: { kind: "foreign" } };
  }
  const syscall = policy.syscalls.find(({ number }) => number === call.number);
  if (syscall === undefined) {
    return { action: policy.defaultAction, reason: { kind: "not-named" } };
  }
  for (const rule of syscall.rules) {
    if (rule.condition === undefined || conditionHolds(rule.condition, call.args ?? [])) {
      return { action: rule.action, reason: { kind: "rule", rule, syscall } };
    }
  }
  return { action: policy.defaultAction, reason: { kind: "no-match", syscall } };
}

/** Whether `condition` holds for `args`. */
export function conditionHolds(condition: Condition, args: readonly bigint[]): boolean {
  return condition.some((clause) => clause.every((atom) => atomHolds(atom, args)));
}

function atomHolds({ argument, operator, value }: Atom, args: readonly bigint[]): boolean {
  const actual = args[argument] ?? 0n;
  switch (operator) {
    case "==":
      return actual === value;
    case "!=":
      return actual !== value;
    case "<":
      return actual < value;
    case "<=":
      return actual <= value;
    case ">":
      return actual > value;
    case ">=":
      return actual >= value;
    case "&":
      return (actual & value) !== 0n;
    case "in":
      return (actual | value) === value;
  }
}
