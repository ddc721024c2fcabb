/**
 * What is wrong with a configuration, and where.
 *
 * @module
 */

import { VmctlError } from "../base/mod.ts";

/** A part of a text: UTF-16 offsets, `end` exclusive. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/** One thing that is wrong. */
export interface ConfigProblem {
  /** File that is wrong; undefined for the command line. */
  readonly file?: string | undefined;
  /** Where in it, such as `serial[0].type`, or the option, such as `--serial`; empty for the whole. */
  readonly key: string;
  /** What was expected and what came. */
  readonly message: string;
  /** What was probably meant. */
  readonly suggestion?: string | undefined;
  /** The text that the user wrote, and the wrong part of it. */
  readonly excerpt?: { readonly text: string; readonly span: Span } | undefined;
}

/** The options on the command line or in config files are wrong; the message names every problem. */
export class ConfigError extends VmctlError {
  override readonly name = "ConfigError";
  /** All that was found wrong, at least one. */
  readonly problems: readonly ConfigProblem[];
  /** Whether the options that could be read ask for extended exit statuses. */
  readonly extendedStatus: boolean;

  constructor(problems: readonly ConfigProblem[], options: { extendedStatus?: boolean } = {}) {
    super(problems.map(formatProblem).join("\n"));
    this.problems = problems;
    this.extendedStatus = options.extendedStatus ?? false;
  }
}

/** `file: key: message; did you mean "x"?`, and below it the excerpt with a caret. */
export function formatProblem(problem: ConfigProblem): string {
  const place = [problem.file, problem.key].filter((part) => part !== undefined && part !== "");
  const hint = problem.suggestion === undefined ? "" : `; did you mean "${problem.suggestion}"?`;
  const line = [...place, problem.message].join(": ") + hint;
  if (problem.excerpt === undefined) return line;
  return `${line}\n${formatExcerpt(problem.excerpt.text, problem.excerpt.span)}`;
}

/** Characters shown on either side of what is wrong. */
const EXCERPT_CONTEXT = 60;

function formatExcerpt(text: string, span: Span): string {
  const from = Math.max(0, span.start - EXCERPT_CONTEXT);
  const to = Math.min(text.length, Math.max(span.end, span.start) + EXCERPT_CONTEXT);
  const lead = from > 0 ? "…" : "";
  const tail = to < text.length ? "…" : "";
  const shown = lead + printable(text.slice(from, to)) + tail;
  const width = Math.max(1, Math.min(span.end, to) - span.start);
  return `  ${shown}\n  ${" ".repeat(lead.length + span.start - from)}${"^".repeat(width)}`;
}

/** Replaces control characters by one visible character each, so that columns stay. */
export function printable(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, "\ufffd");
}

/** Describes a value that came instead of what was expected: its type and, where short, itself. */
export function describeValue(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return `a list of ${value.length}`;
  switch (typeof value) {
    case "string":
      return quote(value);
    case "number":
    case "bigint":
      return `the number ${value}`;
    case "boolean":
      return `the boolean ${value}`;
    case "object":
      return value instanceof Date ? "a date" : "a table of keys";
    default:
      return `a ${typeof value}`;
  }
}

/** `text` in quotes, cut where it is long. */
export function quote(text: string): string {
  const cut = text.length > 80 ? `${text.slice(0, 77)}…` : text;
  return `"${printable(cut)}"`;
}

/** `a, b or c`. */
export function alternatives(names: readonly string[]): string {
  if (names.length <= 1) return names.join("");
  return `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
}
