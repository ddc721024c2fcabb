/**
 * Errors of jails and their policies.
 *
 * @module
 */

import { VmctlError } from "../base/mod.ts";
import { printable } from "../config/mod.ts";

/** A jail cannot be made, or a filter cannot be used. */
export class JailError extends VmctlError {
  override readonly name: string = "JailError";
}

/** A place in a policy file. */
export interface Place {
  /** As it was given, or as the file that includes it names it. */
  readonly file: string;
  /** From 1 on; 0 for the file as a whole. */
  readonly line: number;
  /** From 1 on, in UTF-16 units; 0 for the file as a whole. */
  readonly column: number;
}

/** One thing that is wrong with a policy. */
export interface PolicyProblem {
  readonly place: Place;
  /** What was expected and what came. */
  readonly message: string;
  /** What was probably meant. */
  readonly suggestion?: string | undefined;
  /** The line, and how many characters of it from the place's column on are wrong. */
  readonly excerpt?: { readonly text: string; readonly length: number } | undefined;
}

/** A policy is wrong; the message names every problem with its file and line. */
export class PolicyError extends JailError {
  override readonly name = "PolicyError";
  /** All that was found wrong, at least one. */
  readonly problems: readonly PolicyProblem[];

  constructor(problems: readonly PolicyProblem[]) {
    super(problems.map(formatPolicyProblem).join("\n"));
    this.problems = problems;
  }
}

/** `file:line`. */
export function formatPlace({ file, line }: Place): string {
  return `${file}:${line}`;
}

/** Characters shown on either side of what is wrong. */
const EXCERPT_CONTEXT = 60;

/** `file:line:column: message; did you mean "x"?`, and below it the line with a caret. */
export function formatPolicyProblem(
  { place, message, suggestion, excerpt }: PolicyProblem,
): string {
  const hint = suggestion === undefined ? "" : `; did you mean "${suggestion}"?`;
  const at = place.line === 0 ? place.file : `${place.file}:${place.line}:${place.column}`;
  const head = `${at}: ${message}${hint}`;
  if (excerpt === undefined) return head;
  const start = place.column - 1;
  const from = Math.max(0, start - EXCERPT_CONTEXT);
  const to = Math.min(excerpt.text.length, start + excerpt.length + EXCERPT_CONTEXT);
  const lead = from > 0 ? "…" : "";
  const tail = to < excerpt.text.length ? "…" : "";
  const shown = lead + printable(excerpt.text.slice(from, to)) + tail;
  const width = Math.max(1, Math.min(start + excerpt.length, to) - start);
  return `${head}\n  ${shown}\n  ${" ".repeat(lead.length + start - from)}${"^".repeat(width)}`;
}
