/**
 * What a policy says, apart from how it is written or carried out.
 *
 * @module
 */

import type { Place } from "../errors.ts";

/** How an argument is compared; all comparisons are of 64 bits without a sign. */
export type Operator = "==" | "!=" | "<" | "<=" | ">" | ">=" | "&" | "in";

/** What is done with a system call. */
export type Action =
  | {
    /**
     * `kill` is what the policy's user chose for violations; the others are themselves.
     */
    readonly kind:
      | "allow"
      | "kill"
      | "kill-process"
      | "kill-thread"
      | "trap"
      | "trace"
      | "log"
      | "user-notify";
  }
  | {
    /** The call is not made; it fails with this error, or gives 0 where that is 0. */
    readonly kind: "errno";
    readonly errno: number;
  };

/** `argN OPERATOR VALUE`. */
export interface Atom {
  /** 0 to 5. */
  readonly argument: number;
  readonly operator: Operator;
  /** 64 bits without a sign. */
  readonly value: bigint;
  /** As the policy says it. */
  readonly text: string;
}

/** Atoms that must all hold. */
export type Clause = readonly Atom[];

/** Clauses of which one must hold. */
export type Condition = readonly Clause[];

/** One filter of a system call. */
export interface Rule {
  /** Undefined where the action holds for any arguments. */
  readonly condition: Condition | undefined;
  readonly action: Action;
  readonly place: Place;
}

/** What a policy says about one system call: the first rule that fits counts. */
export interface SyscallRules {
  readonly name: string;
  readonly number: number;
  /** How often it is called, relative to the others. */
  readonly frequency: number;
  /** At least one; where none fits, the policy's default counts. */
  readonly rules: readonly Rule[];
}

/** A policy with everything that it includes. */
export interface Policy {
  /** The file that was asked for. */
  readonly file: string;
  /** What happens to system calls that it does not name. */
  readonly defaultAction: Action;
  /** Where the default stands, unless it is the usual one. */
  readonly defaultPlace: Place | undefined;
  /** In the order in which the policy names them first; each number once. */
  readonly syscalls: readonly SyscallRules[];
}

/** Highest error number that a system call can return (MAX_ERRNO of the kernel). */
export const MAX_ERRNO = 4095;

/** Arguments of a system call. */
export const ARGUMENT_COUNT = 6;
