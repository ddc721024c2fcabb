/**
 * Writes a BPF program from its end to its beginning.
 *
 * Jumps go forward only, so written in this order every target is known when a jump to it is written,
 * and one that lies beyond the 255 instructions that a comparison can skip gets a plain jump of its own.
 *
 * @module
 */

import { type Instruction, Op } from "./instruction.ts";

/** A place in the program: instructions from it to the end. */
export type Label = number;

const MAX_SKIP = 255;

/** A comparison of the accumulator. */
export type Comparison = "JumpEqual" | "JumpGreater" | "JumpGreaterOrEqual" | "JumpAnyBit";

/** Collects instructions, the last one first. */
export class ReverseAssembler {
  readonly #reversed: Instruction[] = [];
  readonly #returns = new Map<number, Label>();

  /** Instructions so far. */
  get length(): number {
    return this.#reversed.length;
  }

  /** The program, the first instruction first. */
  finish(): Instruction[] {
    return this.#reversed.toReversed();
  }

  /** A place that returns `value`; one that exists already is used again. */
  return(value: number): Label {
    const known = this.#returns.get(value);
    // Beyond that, a return is as short as the jump to it would be.
    if (known !== undefined && this.length - known < MAX_SKIP - 2) return known;
    const label = this.#push(Op.Return, value);
    this.#returns.set(value, label);
    return label;
  }

  /** Loads a word of struct seccomp_data, then goes on at `next`. */
  load(offset: number, next: Label): Label {
    this.#fallInto(next);
    return this.#push(Op.LoadWord, offset);
  }

  /** Compares the accumulator with `value` and goes on at one of two places. */
  branch(comparison: Comparison, value: number, targets: { yes: Label; no: Label }): Label {
    let { yes, no } = targets;
    if (yes === no) return yes;
    // Each plain jump that is added moves the other target one further away.
    if (this.length + 1 - no > MAX_SKIP) no = this.#jump(no);
    if (this.length - yes > MAX_SKIP) yes = this.#jump(yes);
    return this.#push(Op[comparison], value, this.length - yes, this.length - no);
  }

  #fallInto(next: Label): void {
    if (next !== this.length) this.#jump(next);
  }

  #jump(target: Label): Label {
    return this.#push(Op.Jump, this.length - target);
  }

  #push(code: number, k: number, jt = 0, jf = 0): Label {
    this.#reversed.push({ code, jt, jf, k: k >>> 0 });
    return this.#reversed.length;
  }
}
