/**
 * Puts a policy together from its file and those that it includes.
 *
 * @module
 */

import { describeFileError } from "../../base/mod.ts";
import { formatPlace, PolicyError, type PolicyProblem } from "../errors.ts";
import type { Action, Policy, Rule, SyscallRules } from "./ast.ts";
import { parseFrequencies, parsePolicy, type PolicyStatement } from "./parse.ts";
import type { Token } from "./scan.ts";
import { hostFiles, type PolicySource, resolveInclude } from "./source.ts";

/** Files that include one another, at most: minijail's limit. */
const MAX_INCLUDE_DEPTH = 10;
/** Files in all, so that includes of includes come to an end. */
const MAX_FILES = 256;

/** How to load a policy. */
export interface LoadOptions {
  /** Where files are read from; the host's files where absent. */
  readonly source?: PolicySource;
}

/**
 * Reads the policy at `path` with everything that it includes. A system call that several statements
 * name has the rules of them all, in their order; a rule behind one without a condition is refused.
 *
 * @throws {PolicyError} with all that is wrong.
 */
export function loadPolicy(path: string, options: LoadOptions = {}): Policy {
  const loader = new Loader(options.source ?? hostFiles);
  loader.loadRoot(path);
  return loader.finish(path);
}

class Loader {
  readonly #source: PolicySource;
  readonly #problems: PolicyProblem[] = [];
  readonly #rules = new Map<number, { name: string; rules: Rule[] }>();
  readonly #frequencies = new Map<number, number>();
  readonly #files = new Set<string>();
  #default: Extract<PolicyStatement, { kind: "default" }> | undefined;
  #reads = 0;

  constructor(source: PolicySource) {
    this.#source = source;
  }

  loadRoot(path: string): void {
    this.#files.add(path);
    try {
      this.#load(path, [path], this.#source.read(path));
    } catch (error) {
      if (error instanceof PolicyError) throw error;
      const message = `cannot read the policy: ${describeFileError(error)}`;
      throw new PolicyError([{ place: { file: path, line: 0, column: 0 }, message }]);
    }
  }

  finish(file: string): Policy {
    if (this.#problems.length > 0) throw new PolicyError(this.#sortedProblems());
    const syscalls: SyscallRules[] = [];
    for (const [number, { name, rules }] of this.#rules) {
      syscalls.push({ name, number, frequency: this.#frequencies.get(number) ?? 1, rules });
    }
    const defaultAction: Action = this.#default?.action ?? { kind: "kill" };
    return { file, defaultAction, defaultPlace: this.#default?.place, syscalls };
  }

  /** File by file, in the order in which they were read first. */
  #sortedProblems(): PolicyProblem[] {
    const files = [...this.#files];
    const rank = ({ place }: PolicyProblem) => files.indexOf(place.file);
    return this.#problems.toSorted((a, b) =>
      rank(a) - rank(b) || a.place.line - b.place.line || a.place.column - b.place.column
    );
  }

  #load(path: string, stack: readonly string[], text: string): void {
    const statements = parsePolicy(text, { file: path, problems: this.#problems });
    for (const statement of statements) {
      switch (statement.kind) {
        case "include": {
          const included = this.#read(statement, path, stack);
          if (included !== undefined) {
            this.#load(included.path, [...stack, included.path], included.text);
          }
          break;
        }
        case "frequency": {
          const file = this.#read(statement, path, stack);
          if (file !== undefined) this.#addFrequencies(file);
          break;
        }
        case "default":
          this.#default = statement;
          break;
        case "filter":
          for (const call of statement.syscalls) this.#add(call, statement.rules);
          break;
      }
    }
  }

  #read(
    statement: { readonly path: string; readonly token: Token },
    from: string,
    stack: readonly string[],
  ): { path: string; text: string } | undefined {
    const { token } = statement;
    const path = resolveInclude(from, statement.path);
    if (stack.includes(path)) {
      this.#note(token, `${path} includes itself: ${[...stack, path].join(" -> ")}`);
    } else if (stack.length >= MAX_INCLUDE_DEPTH) {
      this.#note(token, `expected at most ${MAX_INCLUDE_DEPTH} files that include one another`);
    } else if (this.#reads >= MAX_FILES) {
      this.#note(token, `expected at most ${MAX_FILES} files in all`);
    } else {
      this.#reads++;
      this.#files.add(path);
      try {
        return { path, text: this.#source.read(path) };
      } catch (error) {
        this.#note(token, `cannot read ${path}: ${describeFileError(error)}`);
      }
    }
    return undefined;
  }

  #addFrequencies(file: { path: string; text: string }): void {
    const options = { file: file.path, problems: this.#problems };
    for (const [number, count] of parseFrequencies(file.text, options)) {
      this.#frequencies.set(number, (this.#frequencies.get(number) ?? 0) + count);
    }
  }

  #add(call: { name: string; number: number; token: Token }, rules: readonly Rule[]): void {
    const known = this.#rules.get(call.number) ?? { name: call.name, rules: [] };
    this.#rules.set(call.number, known);
    for (const rule of rules) {
      const last = known.rules.at(-1);
      if (last !== undefined && last.condition === undefined) {
        const where = formatPlace(last.place);
        this.#note(
          call.token,
          `${call.name} has a filter without a condition already, at ${where}`,
        );
        return;
      }
      known.rules.push(rule);
    }
  }

  #note(token: Token, message: string): void {
    this.#problems.push({
      place: token.place,
      message,
      excerpt: { text: token.lineText, length: token.text.length },
    });
  }
}
