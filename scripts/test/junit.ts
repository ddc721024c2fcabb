/**
 * Reads the JUnit reports that `deno test` writes.
 *
 * @module
 */

/** How one test ended. */
export interface TestOutcome {
  readonly name: string;
  readonly result: "passed" | "failed" | "skipped";
  /** What a failed one and its steps threw. */
  readonly errors?: readonly string[];
}

const ENTITIES: Readonly<Record<string, string>> = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
};

function unescapeXml(text: string): string {
  return text.replace(
    /&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi,
    (whole, hex?: string, decimal?: string, name?: string) => {
      if (hex !== undefined) return String.fromCodePoint(parseInt(hex, 16));
      if (decimal !== undefined) return String.fromCodePoint(parseInt(decimal, 10));
      return ENTITIES[name ?? ""] ?? whole;
    },
  );
}

/**
 * The tests of a report in its order. Steps count with the test that they belong to, which fails
 * when one of them does.
 *
 * @param xml The report. Text in it is escaped, so tags are only ever tags.
 */
export function parseJunit(xml: string): TestOutcome[] {
  const all: TestOutcome[] = [];
  for (const found of xml.matchAll(/<testcase name="([^"]*)"[^>]*?(?:\/>|>(.*?)<\/testcase>)/gs)) {
    const name = unescapeXml(found[1] ?? "");
    const body = found[2] ?? "";
    if (body.includes("<failure") || body.includes("<error")) {
      all.push({ name, result: "failed", errors: errorsIn(body) });
    } else {
      all.push({ name, result: body.includes("<skipped") ? "skipped" : "passed" });
    }
  }
  const names = all.map(({ name }) => name);
  const tests = all.filter(({ name }) => !names.some((other) => name.startsWith(`${other} > `)));
  return tests.map((test) => {
    if (test.result !== "failed") return test;
    const steps = all.filter(({ name }) => name.startsWith(`${test.name} > `));
    return { ...test, errors: [test, ...steps].flatMap(({ errors }) => errors ?? []) };
  });
}

function errorsIn(body: string): string[] {
  const elements = body.matchAll(/<(failure|error)\b[^>]*>(.*?)<\/\1>/gs);
  return Array.from(elements, (found) => unescapeXml(found[2] ?? "").trim());
}

/** Why a test was skipped, as its name says: `… (skipped: REASON)`. */
export function skipReason(name: string): string | undefined {
  return /\(skipped: (.+)\)$/.exec(name)?.[1];
}
