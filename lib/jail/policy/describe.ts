/**
 * Policies in words.
 *
 * @module
 */

import type { Action, Condition } from "./ast.ts";
import { errnoConstantName } from "./constants.ts";

/**
 * An action as policies write it, such as `return ENOENT`.
 *
 * @param options `kill`: what `kill` stands for.
 */
export function describeAction(action: Action, options: { kill?: string } = {}): string {
  if (action.kind === "errno") return `return ${errnoConstantName(action.errno)}`;
  return action.kind === "kill" ? options.kill ?? "kill" : action.kind;
}

/** A condition as policies write it. */
export function describeCondition(condition: Condition): string {
  return condition.map((clause) => clause.map(({ text }) => text).join(" && ")).join(" || ");
}
