/**
 * Walks through the words of a statement and notes what is wrong with them.
 *
 * @module
 */

import type { Place, PolicyProblem } from "../errors.ts";
import type { Statement, Token } from "./scan.ts";

/** The rest of the statement makes no sense; the problem is noted already. */
export class StatementError extends Error {
  override readonly name = "StatementError";
}

/** Words of a statement that are not yet read. */
export class Cursor {
  readonly #tokens: Statement;
  readonly #problems: PolicyProblem[];
  #at = 0;

  constructor(tokens: Statement, problems: PolicyProblem[]) {
    this.#tokens = tokens;
    this.#problems = problems;
  }

  /** The next word, or undefined at the end. */
  get next(): Token | undefined {
    return this.#tokens[this.#at];
  }

  /** Where the next word stands, or the end of the statement. */
  get place(): Place {
    if (this.next !== undefined) return this.next.place;
    const last = this.#tokens.at(-1)!;
    return { ...last.place, column: last.place.column + last.text.length };
  }

  /** How many words are read, for {@link textSince}. */
  get position(): number {
    return this.#at;
  }

  /** The words that were read since `position`, without the spaces between them. */
  textSince(position: number): string {
    return this.#tokens.slice(position, this.#at).map(({ text }) => text).join("");
  }

  /** Takes the next word, whatever it is. */
  take(expected: string): Token {
    const token = this.next;
    if (token === undefined) this.fail(`expected ${expected}, got the end of the line`);
    this.#at++;
    return token;
  }

  /** Takes the next word if it is `text`. */
  accept(text: string): boolean {
    if (this.next?.text !== text || this.next.kind === "path") return false;
    this.#at++;
    return true;
  }

  /** Takes the next word, which must be `text`. */
  expect(text: string, purpose: string): void {
    if (!this.accept(text)) this.fail(`expected "${text}" ${purpose}, got ${this.#describeNext()}`);
  }

  /** Nothing may follow. */
  end(): void {
    if (this.next !== undefined) {
      this.fail(`expected the end of the line, got ${this.#describeNext()}`);
    }
  }

  /** Gives the statement up: the next word is not `expected`. */
  failExpecting(expected: string): never {
    this.fail(`expected ${expected}, got ${this.#describeNext()}`);
  }

  /** Gives the statement up, because of `token` or of what comes next. */
  fail(message: string, token: Token | undefined = this.next): never {
    this.note(message, token === undefined ? {} : { token });
    throw new StatementError(message);
  }

  /** Notes a problem and goes on. */
  note(message: string, options: { token?: Token; suggestion?: string | undefined } = {}): void {
    const { token, suggestion } = options;
    const last = this.#tokens.at(-1)!;
    this.#problems.push({
      place: token?.place ?? this.place,
      message,
      suggestion,
      excerpt: token === undefined
        ? { text: last.lineText, length: 1 }
        : { text: token.lineText, length: token.text.length },
    });
  }

  #describeNext(): string {
    return this.next === undefined ? "the end of the line" : `"${this.next.text}"`;
  }
}
