/**
 * The statements of one policy file, in minijail's syntax.
 *
 * ```text
 * statement = "@include" PATH | "@frequency" PATH | "@default" ACTION | calls ":" filter
 * calls     = call | "{" call { "," call } "}"
 * call      = NAME [ "[" "arch" "=" NAME { "," NAME } "]" ]
 * filter    = rule | "{" braced { "," braced } "}"
 * rule      = action | condition [ ";" "return" errno ]
 * braced    = action | condition [ ";" action ]
 * condition = clause { "||" clause }      clause = atom { "&&" atom }
 * atom      = "argN" ( "==" | "!=" | "<" | "<=" | ">" | ">=" | "&" | "in" ) expression
 * action    = "allow" | "1" | "kill" | "kill-process" | "kill-thread" | "trap" | "trace" | "log"
 *           | "user-notify" | "return" errno
 * ```
 *
 * minijail has two readers, which differ in one thing, so both meanings are here where they cannot be
 * mixed up. Its library takes `condition; return ERRNO` as "allowed where the condition holds, otherwise
 * this error"; its compiler, which alone knows braces, takes `{condition; action, …}` as "this action
 * where the condition holds, otherwise the next rule".
 *
 * @module
 */

import { suggest } from "../../config/mod.ts";
import type { Place, PolicyProblem } from "../errors.ts";
import {
  type Action,
  ARGUMENT_COUNT,
  type Atom,
  type Condition,
  MAX_ERRNO,
  type Operator,
  type Rule,
} from "./ast.ts";
import { Cursor, StatementError } from "./cursor.ts";
import { scanPolicy, type Token } from "./scan.ts";
import { syscallNames, syscallNumber } from "./syscalls.ts";
import { parseConstant, parseExpression } from "./values.ts";

/** A statement of a policy file. */
export type PolicyStatement =
  | { readonly kind: "include" | "frequency"; readonly path: string; readonly token: Token }
  | { readonly kind: "default"; readonly action: Action; readonly place: Place }
  | {
    readonly kind: "filter";
    readonly syscalls: readonly SyscallReference[];
    readonly rules: readonly Rule[];
  };

/** A system call, where a policy names it. */
export interface SyscallReference {
  readonly name: string;
  readonly number: number;
  readonly token: Token;
}

/** Our name among minijail's architectures. */
const ARCH = "x86_64";

const OPERATORS: readonly Operator[] = ["==", "!=", "<", "<=", ">", ">=", "&", "in"];
const ACTIONS = [
  "allow",
  "kill",
  "kill-process",
  "kill-thread",
  "trap",
  "trace",
  "log",
  "user-notify",
] as const;

const DEFAULT_ACTIONS: readonly Action["kind"][] = [
  "kill",
  "kill-process",
  "kill-thread",
  "trap",
  "user-notify",
];

/** Reads the statements of a file; notes what is wrong and leaves it out. */
export function parsePolicy(
  text: string,
  options: { file: string; problems: PolicyProblem[] },
): PolicyStatement[] {
  const statements: PolicyStatement[] = [];
  for (const tokens of scanPolicy(text, options)) {
    const cursor: Cursor = new Cursor(tokens, options.problems);
    const statement = attempt(() => parseStatement(cursor));
    if (statement !== undefined) statements.push(statement);
  }
  return statements;
}

/** Reads a file of frequencies, `NAME: COUNT` a line. */
export function parseFrequencies(
  text: string,
  options: { file: string; problems: PolicyProblem[] },
): Map<number, number> {
  const frequencies = new Map<number, number>();
  for (const tokens of scanPolicy(text, options)) {
    const cursor: Cursor = new Cursor(tokens, options.problems);
    attempt(() => {
      const call = parseSyscall(cursor);
      cursor.expect(":", "after the system call");
      const token = cursor.next;
      if (token?.kind !== "number") cursor.failExpecting("a count");
      const count = parseConstant(cursor);
      if (count > BigInt(Number.MAX_SAFE_INTEGER)) {
        cursor.note(`expected a count from 0 to 2^53 - 1, got ${token.text}`, { token });
      }
      cursor.end();
      if (call !== undefined) {
        frequencies.set(call.number, (frequencies.get(call.number) ?? 0) + Number(count));
      }
    });
  }
  return frequencies;
}

function attempt<T>(parse: () => T): T | undefined {
  try {
    return parse();
  } catch (error) {
    if (error instanceof StatementError) return undefined;
    throw error;
  }
}

function parseStatement(cursor: Cursor): PolicyStatement | undefined {
  if (cursor.next?.kind !== "directive") return parseFilterStatement(cursor);
  const token = cursor.take("a statement");
  switch (token.text) {
    case "@include":
    case "@frequency": {
      const path = cursor.take("a path");
      if (!/^\.{0,2}\//.test(path.text)) {
        cursor.fail(
          `expected a path that begins with "/", "./" or "../", got "${path.text}"`,
          path,
        );
      }
      cursor.end();
      const kind = token.text === "@include" ? "include" : "frequency";
      return { kind, path: path.text, token: path };
    }
    case "@default": {
      const actionToken = cursor.next;
      const action = parseAction(cursor);
      if (!DEFAULT_ACTIONS.includes(action.kind)) {
        cursor.fail(
          `expected ${DEFAULT_ACTIONS.slice(0, -1).join(", ")} or ${
            DEFAULT_ACTIONS.at(-1)
          } as the ` +
            `default, got "${actionToken?.text}"`,
          actionToken,
        );
      }
      cursor.end();
      return { kind: "default", action, place: token.place };
    }
    case "@denylist":
      return cursor.fail(
        "a policy names what is allowed; lists of what is denied are not supported",
        token,
      );
    default:
      cursor.note(
        `unknown statement "${token.text}"`,
        { token, suggestion: suggest(token.text, ["@include", "@frequency", "@default"]) },
      );
      return undefined;
  }
}

function parseFilterStatement(cursor: Cursor): PolicyStatement | undefined {
  const syscalls: SyscallReference[] = [];
  const add = () => {
    const call = parseSyscall(cursor);
    if (call !== undefined) syscalls.push(call);
  };
  if (cursor.accept("{")) {
    do add(); while (cursor.accept(","));
    cursor.expect("}", "after the system calls");
  } else {
    add();
  }
  cursor.expect(":", "after the system call");
  const rules = parseFilter(cursor);
  cursor.end();
  // Where all calls are of other architectures, or unknown, nothing is left to say.
  return syscalls.length === 0 ? undefined : { kind: "filter", syscalls, rules };
}

/** Undefined for a call of another architecture, or one that is unknown, which is noted. */
function parseSyscall(cursor: Cursor): SyscallReference | undefined {
  if (cursor.next?.kind !== "word") cursor.failExpecting("the name of a system call");
  const token = cursor.take("a system call");
  if (cursor.accept("[") && !parseMetadata(cursor)) return undefined;
  const number = syscallNumber(token.text);
  if (number !== undefined) return { name: token.text, number, token };
  if (token.text.includes("@")) {
    cursor.note(`unknown group of system calls "${token.text}": no groups are defined`, { token });
  } else {
    cursor.note(`unknown system call "${token.text}"`, {
      token,
      suggestion: suggest(token.text, syscallNames()),
    });
  }
  return undefined;
}

/** `arch=NAME,NAME]`: whether it names ours. */
function parseMetadata(cursor: Cursor): boolean {
  let isOurs = true;
  do {
    const key = cursor.take('"arch"');
    if (key.text !== "arch") cursor.fail(`expected "arch", got "${key.text}"`, key);
    cursor.expect("=", 'after "arch"');
    const archs: string[] = [];
    do {
      if (cursor.next?.kind !== "word") cursor.failExpecting("the name of an architecture");
      archs.push(cursor.take("an architecture").text);
    } while (cursor.accept(","));
    isOurs &&= archs.includes(ARCH);
  } while (cursor.accept(";"));
  cursor.expect("]", "after the architectures");
  return isOurs;
}

function parseFilter(cursor: Cursor): Rule[] {
  if (!cursor.accept("{")) return parseRule(cursor);
  const rules: Rule[] = [];
  do rules.push(parseBracedRule(cursor)); while (cursor.accept(","));
  cursor.expect("}", "after the filters");
  return rules;
}

function parseRule(cursor: Cursor): Rule[] {
  const { place } = cursor;
  if (!startsCondition(cursor)) {
    return [{ condition: undefined, action: parseAction(cursor), place }];
  }
  const condition = parseCondition(cursor);
  const rules: Rule[] = [{ condition, action: { kind: "allow" }, place }];
  if (cursor.accept(";")) {
    if (cursor.next?.text !== "return") {
      cursor.failExpecting('"return" (other actions behind a condition stand in braces)');
    }
    rules.push({ condition: undefined, action: parseAction(cursor), place });
  }
  return rules;
}

function parseBracedRule(cursor: Cursor): Rule {
  const { place } = cursor;
  const condition = startsCondition(cursor) ? parseCondition(cursor) : undefined;
  const action: Action = condition === undefined || cursor.accept(";")
    ? parseAction(cursor)
    : { kind: "allow" };
  return { condition, action, place };
}

function startsCondition(cursor: Cursor): boolean {
  return cursor.next !== undefined && /^arg[0-9]*$/.test(cursor.next.text);
}

function parseCondition(cursor: Cursor): Condition {
  const clauses: Atom[][] = [];
  do {
    const clause: Atom[] = [];
    do clause.push(parseAtom(cursor)); while (cursor.accept("&&"));
    clauses.push(clause);
  } while (cursor.accept("||"));
  return clauses;
}

function parseAtom(cursor: Cursor): Atom {
  const token = cursor.take("an argument");
  const argument = /^arg([0-9]+)$/.exec(token.text);
  if (argument === null || Number(argument[1]) >= ARGUMENT_COUNT) {
    cursor.fail(`expected arg0 to arg${ARGUMENT_COUNT - 1}, got "${token.text}"`, token);
  }
  const operator = OPERATORS.find((candidate) => cursor.accept(candidate));
  if (operator === undefined) cursor.failExpecting("==, !=, <, <=, >, >=, & or in");
  const start = cursor.position;
  const value = parseExpression(cursor);
  const text = `${token.text} ${operator} ${cursor.textSince(start)}`;
  return { argument: Number(argument[1]), operator, value, text };
}

function parseAction(cursor: Cursor): Action {
  const token = cursor.take("an action");
  if (token.text === "return") {
    const errnoToken = cursor.next;
    const errno = parseConstant(cursor);
    if (errno > BigInt(MAX_ERRNO)) {
      cursor.fail(
        `expected an error number from 0 to ${MAX_ERRNO}, got ${errnoToken?.text}`,
        errnoToken,
      );
    }
    return { kind: "errno", errno: Number(errno) };
  }
  if (token.text === "1") return { kind: "allow" };
  const kind = ACTIONS.find((action) => action === token.text);
  if (kind !== undefined) return { kind };
  cursor.note(`unknown action "${token.text}"`, {
    token,
    suggestion: suggest(token.text, [...ACTIONS, "return"]),
  });
  throw new StatementError("unknown action");
}
