/**
 * Words of a policy file, a statement at a time.
 *
 * @module
 */

import type { Place, PolicyProblem } from "../errors.ts";

/** One word. */
export interface Token {
  readonly kind: "word" | "number" | "sign" | "directive" | "path";
  readonly text: string;
  readonly place: Place;
  /** The line that it stands in. */
  readonly lineText: string;
}

/** The words of a statement, at least one. */
export type Statement = readonly Token[];

// Signs of two characters come before those of one that they begin with.
const TOKEN =
  /([A-Za-z_][\w@-]*)|(-?[0-9]\w*)|(\|\||&&|==|!=|<=|>=|[<>&|~(){}[\],;:=!])|(@[\w-]*)/y;
const PATH = /\S+/y;

/**
 * Splits a file into statements. Comments go from `#` to the end of the line; a backslash at a line's
 * end goes on in the next line, also behind a comment.
 */
export function scanPolicy(
  text: string,
  options: { file: string; problems: PolicyProblem[] },
): Statement[] {
  const { file, problems } = options;
  const statements: Statement[] = [];
  const lines = text.split("\n");
  let tokens: Token[] = [];
  let isBad = false;
  for (const [index, rawLine] of lines.entries()) {
    const lineText = rawLine.replace(/\r$/, "");
    const goesOn = lineText.endsWith("\\") && index + 1 < lines.length;
    const body = lineText.endsWith("\\") ? lineText.slice(0, -1) : lineText;
    const placeAt = (offset: number) => ({ file, line: index + 1, column: offset + 1 });
    let at = 0;
    while (at < body.length) {
      if (/\s/.test(body[at]!)) {
        at++;
        continue;
      }
      if (body[at] === "#") break;
      const wantsPath = tokens.length === 1 && tokens[0]!.kind === "directive" &&
        tokens[0]!.text !== "@default";
      const pattern = wantsPath ? PATH : TOKEN;
      pattern.lastIndex = at;
      const match = pattern.exec(body);
      if (match === null) {
        const character = String.fromCodePoint(body.codePointAt(at)!);
        problems.push({
          place: placeAt(at),
          message: `unexpected character "${character}"`,
          excerpt: { text: lineText, length: 1 },
        });
        isBad = true;
        break;
      }
      const kind = wantsPath
        ? "path"
        : match[1] !== undefined
        ? "word"
        : match[2] !== undefined
        ? "number"
        : match[3] !== undefined
        ? "sign"
        : "directive";
      tokens.push({ kind, text: match[0], place: placeAt(at), lineText });
      at = pattern.lastIndex;
    }
    if (goesOn) continue;
    if (tokens.length > 0 && !isBad) statements.push(tokens);
    tokens = [];
    isBad = false;
  }
  return statements;
}
