/**
 * Compiles a policy to a BPF program for seccomp.
 *
 * The program refuses other architectures and the x32 interface, then finds the call's number in a tree
 * of comparisons that is balanced by how often the calls come, then checks arguments.
 *
 * @module
 */

import { JailError } from "../errors.ts";
import type { Action, Atom, Condition, Policy, Rule } from "../policy/ast.ts";
import { AUDIT_ARCH_X86_64, X32_SYSCALL_BIT } from "../policy/evaluate.ts";
import { type Label, ReverseAssembler } from "./assembler.ts";
import { DataOffset, type Instruction, MAX_INSTRUCTIONS, SeccompReturn } from "./instruction.ts";

/** What happens to a call that a policy does not allow. */
export type Violation =
  /** The process gets SIGSYS and, unless it handles that, dies. */
  | "trap"
  | "kill-process"
  | "kill-thread"
  /** The call is made, and written to the kernel's log. */
  | "log"
  /** The call is held, and whoever listens to the filter learns of it. */
  | "user-notify";

/** How to compile. */
export interface CompileOptions {
  /** What `kill` means, and the default; `trap` where absent. */
  readonly violation?: Violation;
}

/**
 * Compiles `policy`.
 * @throws {JailError} where the program has more than 4096 instructions.
 */
export function compilePolicy(policy: Policy, options: CompileOptions = {}): Instruction[] {
  return new Compiler(policy, options.violation ?? "trap").compile();
}

/** What a filter returns for `action`. */
export function returnValue(action: Action, violation: Violation): number {
  switch (action.kind) {
    case "allow":
      return SeccompReturn.Allow;
    case "kill":
      // In a log of failures, nothing is stopped that the policy does not stop by its own words.
      return returnValue({ kind: violation }, violation);
    case "kill-process":
      return SeccompReturn.KillProcess;
    case "kill-thread":
      return SeccompReturn.KillThread;
    case "trap":
      return SeccompReturn.Trap;
    case "trace":
      return SeccompReturn.Trace;
    case "log":
      return SeccompReturn.Log;
    case "user-notify":
      return SeccompReturn.UserNotify;
    case "errno":
      return SeccompReturn.Errno + action.errno;
  }
}

/** Where the tree leads: to a returned value, or to code that checks arguments. */
type Leaf = { readonly value: number } | { readonly label: Label };

/** Numbers from `first` to the next interval's, which all lead to the same place. */
interface Interval {
  readonly first: number;
  readonly leaf: Leaf;
  readonly weight: number;
}

class Compiler {
  readonly #policy: Policy;
  readonly #violation: Violation;
  readonly #out = new ReverseAssembler();
  /** Code that checks arguments, by what it checks. */
  readonly #blocks = new Map<string, Label>();

  constructor(policy: Policy, violation: Violation) {
    this.#policy = policy;
    this.#violation = violation;
  }

  compile(): Instruction[] {
    const out = this.#out;
    const intervals = this.#intervals();
    let entry = this.#tree(intervals, 0, intervals.length);
    const kill = out.return(SeccompReturn.KillProcess);
    entry = out.branch("JumpGreaterOrEqual", X32_SYSCALL_BIT, { yes: kill, no: entry });
    entry = out.load(DataOffset.Number, entry);
    entry = out.branch("JumpEqual", AUDIT_ARCH_X86_64, { yes: entry, no: kill });
    out.load(DataOffset.Arch, entry);
    if (out.length > MAX_INSTRUCTIONS) {
      throw new JailError(
        `${this.#policy.file}: the filter has ${out.length} instructions; the kernel takes at most ` +
          `${MAX_INSTRUCTIONS}`,
      );
    }
    return out.finish();
  }

  #intervals(): Interval[] {
    const other: Leaf = { value: this.#value(this.#policy.defaultAction) };
    const intervals: Interval[] = [];
    const add = (interval: Interval) => {
      const last = intervals.at(-1);
      if (last === undefined || !sameLeaf(last.leaf, interval.leaf)) intervals.push(interval);
      else intervals.splice(-1, 1, { ...last, weight: last.weight + interval.weight });
    };
    let next = 0;
    for (const call of this.#policy.syscalls.toSorted((a, b) => a.number - b.number)) {
      if (call.number > next) add({ first: next, leaf: other, weight: 0 });
      add({ first: call.number, leaf: this.#leaf(call.rules), weight: call.frequency });
      next = call.number + 1;
    }
    add({ first: next, leaf: other, weight: 0 });
    return intervals;
  }

  #leaf(rules: readonly Rule[]): Leaf {
    const first = rules[0];
    if (first === undefined) return { value: this.#value(this.#policy.defaultAction) };
    if (first.condition === undefined) return { value: this.#value(first.action) };
    const key = JSON.stringify(rules.map(({ condition, action }) => [
      condition?.map((clause) =>
        clause.map(({ argument, operator, value }) => `${argument} ${operator} ${value}`)
      ),
      action,
    ]));
    const known = this.#blocks.get(key);
    if (known !== undefined) return { label: known };
    const label = this.#rules(rules);
    this.#blocks.set(key, label);
    return { label };
  }

  #rules(rules: readonly Rule[]): Label {
    let next: Label | undefined;
    for (const { condition, action } of rules.toReversed()) {
      if (condition === undefined) {
        next = this.#out.return(this.#value(action));
      } else {
        const no = next ?? this.#out.return(this.#value(this.#policy.defaultAction));
        const yes = this.#out.return(this.#value(action));
        next = this.#condition(condition, { yes, no });
      }
    }
    return next!;
  }

  #condition(condition: Condition, { yes, no }: Targets): Label {
    let otherwise = no;
    for (const clause of condition.toReversed()) {
      let next = yes;
      for (const atom of clause.toReversed()) {
        next = this.#atom(atom, { yes: next, no: otherwise });
      }
      otherwise = next;
    }
    return otherwise;
  }

  /** Arguments are compared in two halves, the upper one first. */
  #atom({ argument, operator, value }: Atom, targets: Targets): Label {
    const out = this.#out;
    const { yes, no } = targets;
    const low = Number(value & 0xffff_ffffn);
    const high = Number(value >> 32n);
    const at = DataOffset.Arguments + argument * 8;
    switch (operator) {
      case "==":
      case "!=": {
        const [equal, unequal] = operator === "==" ? [yes, no] : [no, yes];
        if (equal === unequal) return equal;
        const lower = out.load(at, out.branch("JumpEqual", low, { yes: equal, no: unequal }));
        return out.load(at + 4, out.branch("JumpEqual", high, { yes: lower, no: unequal }));
      }
      case ">":
      case "<=":
        return this.#order("JumpGreater", { at, low, high }, orient(targets, operator === ">"));
      case ">=":
      case "<":
        return this.#order(
          "JumpGreaterOrEqual",
          { at, low, high },
          orient(targets, operator === ">="),
        );
      case "&":
        return this.#anyBit({ at, low, high }, targets);
      case "in":
        return this.#anyBit({ at, low: ~low >>> 0, high: ~high >>> 0 }, orient(targets, false));
    }
  }

  #order(
    comparison: "JumpGreater" | "JumpGreaterOrEqual",
    { at, low, high }: Halves,
    { yes, no }: Targets,
  ): Label {
    if (yes === no) return yes;
    const out = this.#out;
    const lower = out.load(at, out.branch(comparison, low, { yes, no }));
    const equal = out.branch("JumpEqual", high, { yes: lower, no });
    return out.load(at + 4, out.branch("JumpGreater", high, { yes, no: equal }));
  }

  #anyBit({ at, low, high }: Halves, { yes, no }: Targets): Label {
    if (yes === no) return yes;
    const out = this.#out;
    let next = no;
    if (low !== 0) next = out.load(at, out.branch("JumpAnyBit", low, { yes, no: next }));
    if (high !== 0) next = out.load(at + 4, out.branch("JumpAnyBit", high, { yes, no: next }));
    return next;
  }

  /** A tree over the intervals from `from` to before `to`, halved by weight. */
  #tree(intervals: readonly Interval[], from: number, to: number): Label {
    const only = intervals[from]!;
    if (to - from === 1) {
      return "label" in only.leaf ? only.leaf.label : this.#out.return(only.leaf.value);
    }
    const split = splitByWeight(intervals, from, to);
    const yes = this.#tree(intervals, split, to);
    const no = this.#tree(intervals, from, split);
    return this.#out.branch("JumpGreaterOrEqual", intervals[split]!.first, { yes, no });
  }

  #value(action: Action): number {
    return returnValue(action, this.#violation);
  }
}

interface Targets {
  readonly yes: Label;
  readonly no: Label;
}

interface Halves {
  /** Offset of the lower half. */
  readonly at: number;
  readonly low: number;
  readonly high: number;
}

function orient({ yes, no }: Targets, isStraight: boolean): Targets {
  return isStraight ? { yes, no } : { yes: no, no: yes };
}

function sameLeaf(a: Leaf, b: Leaf): boolean {
  return "label" in a ? "label" in b && a.label === b.label : "value" in b && a.value === b.value;
}

/** First interval of the right half, so that the heavier half is as light as it can be. */
function splitByWeight(intervals: readonly Interval[], from: number, to: number): number {
  // A little for each interval, so that the ones that never come are halved, too.
  const weight = (index: number) => intervals[index]!.weight + 1e-6;
  let total = 0;
  for (let index = from; index < to; index++) total += weight(index);
  let left = 0;
  let best = from + 1;
  let bestHeavier = Infinity;
  for (let index = from + 1; index < to; index++) {
    left += weight(index - 1);
    const heavier = Math.max(left, total - left);
    if (heavier < bestHeavier) {
      best = index;
      bestHeavier = heavier;
    }
  }
  return best;
}
