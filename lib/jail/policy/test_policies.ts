/**
 * Random policies and calls for tests.
 *
 * @module
 */

import * as fc from "fast-check";
import type { Action, Atom, Operator, Policy, Rule, SyscallRules } from "./ast.ts";
import { AUDIT_ARCH_X86_64, type SyscallData } from "./evaluate.ts";
import { syscallName } from "./syscalls.ts";

const OPERATORS: readonly Operator[] = ["==", "!=", "<", "<=", ">", ">=", "&", "in"];
const KINDS = [
  "allow",
  "kill",
  "kill-process",
  "kill-thread",
  "trap",
  "trace",
  "log",
  "user-notify",
] as const;

/** Values that lie close to the borders of halves and words. */
export const value64: fc.Arbitrary<bigint> = fc.oneof(
  fc.constantFrom(
    ...[0n, 1n, 2n, 0x7fff_ffffn, 0x8000_0000n, 0xffff_ffffn, 0x1_0000_0000n, 0x1_0000_0001n],
    ...[0x7fff_ffff_ffff_ffffn, 0x8000_0000_0000_0000n, 0xffff_ffff_0000_0000n],
    ...[0xffff_ffff_ffff_fffen, 0xffff_ffff_ffff_ffffn],
  ),
  fc.bigInt(0n, 0xffff_ffff_ffff_ffffn),
  fc.bigInt(0n, 15n),
);

const action: fc.Arbitrary<Action> = fc.oneof(
  fc.constantFrom(...KINDS).map((kind) => ({ kind })),
  fc.integer({ min: 0, max: 4095 }).map((errno) => ({ kind: "errno" as const, errno })),
);

const atom: fc.Arbitrary<Atom> = fc.record({
  argument: fc.integer({ min: 0, max: 5 }),
  operator: fc.constantFrom(...OPERATORS),
  value: value64,
}).map((parts) => ({ ...parts, text: `arg${parts.argument} ${parts.operator} ${parts.value}` }));

const conditional: fc.Arbitrary<Rule> = fc.record({
  condition: fc.array(fc.array(atom, { minLength: 1, maxLength: 3 }), {
    minLength: 1,
    maxLength: 4,
  }),
  action,
  place: fc.constant({ file: "random", line: 1, column: 1 }),
});

const rules: fc.Arbitrary<readonly Rule[]> = fc.tuple(
  fc.array(conditional, { maxLength: 3 }),
  fc.option(action, { nil: undefined }),
).map(([list, last]) => {
  if (last === undefined && list.length > 0) return list;
  const final = last ?? { kind: "allow" as const };
  return [...list, {
    condition: undefined,
    action: final,
    place: { file: "random", line: 1, column: 1 },
  }];
});

/** Policies of up to `maxSyscalls` system calls. */
export function policies(maxSyscalls: number): fc.Arbitrary<Policy> {
  const syscall: fc.Arbitrary<SyscallRules> = fc.record({
    number: fc.oneof(fc.integer({ min: 0, max: 469 }), fc.integer({ min: 0, max: 20 })),
    frequency: fc.oneof(fc.constant(1), fc.integer({ min: 0, max: 1_000_000 })),
    rules,
  }).map((parts) => ({ ...parts, name: syscallName(parts.number) ?? `call${parts.number}` }));
  return fc.record({
    file: fc.constant("random"),
    defaultAction: action,
    defaultPlace: fc.constant(undefined),
    syscalls: fc.uniqueArray(syscall, {
      selector: ({ number }) => number,
      maxLength: maxSyscalls,
      size: "max",
    }),
  });
}

/** Calls that a policy is likely to have an opinion on. */
export function calls(policy: Policy): fc.Arbitrary<SyscallData> {
  const near = policy.syscalls.flatMap(({ number }) => [number - 1, number, number, number + 1])
    .filter((number) => number >= 0);
  const named = policy.syscalls.flatMap(({ rules }) =>
    rules.flatMap(({ condition }) => (condition ?? []).flat().map(({ value }) => value))
  );
  const args = named.length === 0
    ? value64
    : fc.oneof(value64, fc.constantFrom(...named), fc.constantFrom(...named.map((v) => v ^ 1n)));
  return fc.record({
    number: fc.oneof(
      { weight: 8, arbitrary: fc.constantFrom(0, ...near) },
      { weight: 1, arbitrary: fc.integer({ min: 0, max: 0xffff_ffff }) },
      { weight: 1, arbitrary: fc.constantFrom(0x3fff_ffff, 0x4000_0000, 0xffff_ffff) },
    ),
    arch: fc.oneof(
      { weight: 20, arbitrary: fc.constant(AUDIT_ARCH_X86_64) },
      { weight: 1, arbitrary: fc.constantFrom(0x4000_0003, 0xc000_00b7) },
    ),
    args: fc.array(args, { minLength: 6, maxLength: 6 }),
  });
}
