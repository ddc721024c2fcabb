/**
 * Numbers and expressions of constants in policies.
 *
 * @module
 */

import { suggest } from "../../config/mod.ts";
import { constantNames, constantValue } from "./constants.ts";
import { PolicyError, type PolicyProblem } from "../errors.ts";
import { Cursor, StatementError } from "./cursor.ts";
import { scanPolicy, type Token } from "./scan.ts";

const MAX_NESTING = 64;
const MASK = 0xffff_ffff_ffff_ffffn;
const LOWEST = -(1n << 63n);

/**
 * `VALUE { "|" VALUE }`, where a value is a constant or an expression in parentheses, either with `~` in
 * front: 64 bits without a sign.
 */
export function parseExpression(cursor: Cursor, depth = 0): bigint {
  let value = parseOperand(cursor, depth);
  while (cursor.accept("|")) value |= parseOperand(cursor, depth);
  return value;
}

function parseOperand(cursor: Cursor, depth: number): bigint {
  if (depth > MAX_NESTING) cursor.fail(`expected at most ${MAX_NESTING} nested parentheses`);
  if (cursor.accept("~")) {
    if (cursor.next?.text === "~") cursor.fail('expected one "~", got two');
    return ~parseOperand(cursor, depth) & MASK;
  }
  if (cursor.accept("(")) {
    const value = parseExpression(cursor, depth + 1);
    cursor.expect(")", "after the expression");
    return value;
  }
  return parseConstant(cursor);
}

/** A number or the name of a constant: 64 bits without a sign. */
export function parseConstant(cursor: Cursor): bigint {
  if (cursor.next?.kind !== "number" && cursor.next?.kind !== "word") {
    cursor.failExpecting("a number or the name of a constant");
  }
  const token = cursor.take("a constant");
  return token.kind === "number" ? readNumber(cursor, token) : lookUp(cursor, token);
}

function lookUp(cursor: Cursor, token: Token): bigint {
  const value = constantValue(token.text);
  if (value !== undefined) return value;
  cursor.note(`unknown constant "${token.text}"`, {
    token,
    suggestion: suggest(token.text, constantNames()),
  });
  return 0n;
}

/** As C's `strtol` with base 0 reads it: decimal, octal with a leading 0, hexadecimal with 0x. */
function readNumber(cursor: Cursor, token: Token): bigint {
  const match = /^(-?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]+)|(0|[1-9][0-9]*))$/.exec(token.text);
  if (match === null) {
    cursor.note(
      `expected a decimal number, an octal one that begins with 0, or a hexadecimal one that begins ` +
        `with 0x, got "${token.text}"`,
      { token },
    );
    return 0n;
  }
  const [, minus, hexadecimal, octal, decimal] = match;
  const magnitude = hexadecimal !== undefined
    ? BigInt(`0x${hexadecimal}`)
    : octal !== undefined
    ? BigInt(`0o${octal}`)
    : BigInt(decimal!);
  const value = minus === "-" ? -magnitude : magnitude;
  if (value > MASK || value < LOWEST) {
    cursor.note(`expected a number of at most 64 bits, got ${token.text}`, { token });
    return 0n;
  }
  return value & MASK;
}

/**
 * The value of an expression by itself: 64 bits without a sign.
 *
 * @param options `name`: what it is called in messages.
 * @throws {PolicyError} where `text` is none.
 */
export function evaluateExpression(text: string, options: { name: string }): bigint {
  const problems: PolicyProblem[] = [];
  const statements = scanPolicy(text, { file: options.name, problems });
  let value = 0n;
  if (statements.length !== 1 && problems.length === 0) {
    problems.push({
      place: { file: options.name, line: 1, column: 1 },
      message: `expected a number or an expression of constants, got "${text}"`,
    });
  }
  for (const tokens of statements) {
    const cursor: Cursor = new Cursor(tokens, problems);
    try {
      value = parseExpression(cursor);
      cursor.end();
    } catch (error) {
      if (!(error instanceof StatementError)) throw error;
    }
  }
  if (problems.length > 0) throw new PolicyError(problems);
  return value;
}
