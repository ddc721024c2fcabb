/**
 * Strict reading of JSON that a peer sent: each function takes a value and where it stands, and gives
 * it back with its type or throws an error that names the place, what was expected and what came.
 *
 * @module
 */

import { VmctlError } from "./errors.ts";

/** A JSON text of a peer that is not what it has to be. */
export class ShapeError extends VmctlError {
  override readonly name: string = "ShapeError";
}

/** An object of a JSON text. */
export type JsonObject = { readonly [key: string]: unknown };

/** Longest piece of a peer's text that is repeated in a message. */
const EXCERPT_LENGTH = 60;

/** A value as it may stand in a message: short and on one line. */
export function excerpt(value: unknown): string {
  let text: string;
  try {
    text = JSON.stringify(value) ?? String(value);
  } catch {
    // Nested deeper than the stack.
    return "something deeply nested";
  }
  return text.length > EXCERPT_LENGTH ? `${text.slice(0, EXCERPT_LENGTH)}…` : text;
}

/** An object with exactly the keys of `keys`. */
export function exactObject(value: unknown, keys: readonly string[], at: string): JsonObject {
  if (!isObject(value)) {
    throw new ShapeError(
      `${at}: expected an object with ${keys.join(", ")}, got ${excerpt(value)}`,
    );
  }
  for (const key of keys) {
    if (!Object.hasOwn(value, key)) throw new ShapeError(`${at}: missing field ${key}`);
  }
  for (const key of Object.keys(value)) {
    if (!keys.includes(key)) {
      throw new ShapeError(
        `${at}: unknown field ${excerpt(key)}, expected ${keys.join(", ") || "none"}`,
      );
    }
  }
  return value;
}

/** A whole number from 0 to `max`. */
export function unsigned(value: unknown, at: string, max = Number.MAX_SAFE_INTEGER): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0 || value > max) {
    throw new ShapeError(
      `${at}: expected a whole number from 0 to ${max}, got ${excerpt(value)}`,
    );
  }
  return value;
}

/** A boolean. */
export function boolean(value: unknown, at: string): boolean {
  if (typeof value !== "boolean") {
    throw new ShapeError(`${at}: expected true or false, got ${excerpt(value)}`);
  }
  return value;
}

/** A string of at most `maxLength` UTF-16 units without NUL. */
export function string(value: unknown, at: string, maxLength = 4096): string {
  if (typeof value !== "string") {
    throw new ShapeError(`${at}: expected a string, got ${excerpt(value)}`);
  }
  if (value.length > maxLength || value.includes("\0")) {
    throw new ShapeError(`${at}: expected at most ${maxLength} characters without NUL`);
  }
  return value;
}

/** An array of exactly `length` values. */
export function arrayOf(value: unknown, length: number, at: string): readonly unknown[] {
  if (!Array.isArray(value) || value.length !== length) {
    throw new ShapeError(`${at}: expected an array of ${length}, got ${excerpt(value)}`);
  }
  return value;
}

/** An externally tagged variant: a string, or an object of one key. */
export interface Variant {
  /** Its name. */
  readonly name: string;
  /** What comes with it; undefined for a variant that is only a name. */
  readonly data: unknown;
}

/** Reads an externally tagged variant. A `null` beside the name counts as no data. */
export function variant(value: unknown, at: string): Variant {
  if (typeof value === "string") return { name: value, data: undefined };
  if (isObject(value)) {
    const [name, ...rest] = Object.keys(value);
    if (name !== undefined && rest.length === 0) {
      return { name, data: value[name] ?? undefined };
    }
  }
  throw new ShapeError(
    `${at}: expected a name or an object of one key, got ${excerpt(value)}`,
  );
}

/** Refuses data beside a variant that is only a name. */
export function noData(from: Variant, at: string): void {
  if (from.data !== undefined) {
    throw new ShapeError(`${at}: expected nothing, got ${excerpt(from.data)}`);
  }
}

/** Whether `value` is a JSON object. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
