import { deepStrictEqual, strictEqual, throws } from "node:assert/strict";
import fc from "fast-check";
import {
  GrammarError,
  type KeyValue,
  type Node,
  parseKeyValues,
  printKeyValues,
} from "./grammar.ts";

/** The tree without places; entries without a key as `[value]`. */
function plain(node: Node): unknown {
  if (node.kind === "text") return node.text;
  if (node.kind === "value") return node.value;
  return node.entries.map(({ key, value }) =>
    key === undefined ? [plain(value)] : [key, plain(value)]
  );
}

Deno.test("key-values: first value, keys, flags, quotes, lists", () => {
  const cases: [string, unknown][] = [
    ["", []],
    ["4", [["4"]]],
    ["type=stdout,num=1,console", [["type", "stdout"], ["num", "1"], ["console"]]],
    ["/a=b", undefined],
    ["path=/a=b", [["path", "/a=b"]]],
    [`path="a,b",x`, [["path", "a,b"], ["x"]]],
    [`path='a"b'`, [["path", 'a"b']]],
    [`path="a\\"b\\\\c\\d"`, [["path", 'a"b\\c\\d']]],
    [`path=""`, [["path", ""]]],
    [`"first,quoted",b=1`, [["first,quoted"], ["b", "1"]]],
    ["set=[1,2,[3]],b", [["set", [["1"], ["2"], [[["3"]]]]], ["b"]]],
    ["pci=[start=0x10,size=1]", [["pci", [["start", "0x10"], ["size", "1"]]]]],
    ["empty=[]", [["empty", []]]],
  ];
  for (const [text, expected] of cases) {
    if (expected === undefined) throws(() => parseKeyValues(text), GrammarError, text);
    else deepStrictEqual(plain(parseKeyValues(text)), expected, text);
  }
});

Deno.test("key-values: errors name the place", () => {
  const cases: [string, RegExp, number, number][] = [
    ["a=1,", /expected a key or value, got the end/, 4, 5],
    ["a=,b", /expected a value after "=", got ","/, 2, 3],
    [",a", /expected a key or value/, 0, 1],
    ["a=1,a=2", /key "a" is given twice/, 4, 5],
    ["a=[1,2", /"\[" is never closed/, 2, 3],
    [`a="x`, /quote is never closed/, 2, 3],
    ["a=1]", /expected "," or the end, got "\]"/, 3, 4],
    [`a="x"y`, /expected "," or the end, got "y"/, 5, 6],
    ["1a=2", /expected a key before "=", got 1a/, 0, 2],
    [`"a"=2`, /expected a key before "="/, 0, 3],
    ["a=[".repeat(20), /nested deeper/, 51, 52],
  ];
  for (const [text, message, start, end] of cases) {
    throws(() => parseKeyValues(text), (error) => {
      strictEqual(error instanceof GrammarError, true, text);
      strictEqual(message.test((error as Error).message), true, (error as Error).message);
      deepStrictEqual((error as GrammarError).span, { start, end }, text);
      return true;
    });
  }
  throws(() => parseKeyValues("x".repeat(70_000)), /at most 65536 characters/);
});

Deno.test("key-values: any text parses or gives a GrammarError within it", () => {
  const hostile = fc.string({ unit: fc.constantFrom(..."ab=,[]\"'\\ 0é"), maxLength: 30 });
  fc.assert(
    fc.property(fc.oneof(hostile, fc.string()), (text) => {
      try {
        parseKeyValues(text);
      } catch (error) {
        if (!(error instanceof GrammarError)) throw error;
        strictEqual(error.span.start >= 0 && error.span.start <= text.length, true);
        strictEqual(error.span.end > error.span.start, true);
      }
    }),
    { numRuns: 2000 },
  );
});

const key = fc.stringMatching(/^[A-Za-z][A-Za-z0-9_-]{0,6}$/);
const text = fc.oneof(
  fc.string({ maxLength: 8 }),
  fc.string({ unit: fc.constantFrom(..."a=,[]\"'\\ "), maxLength: 8 }),
);
const { record } = fc.letrec<{ value: KeyValue; record: Record<string, KeyValue> }>((tie) => ({
  value: fc.oneof(
    { depthSize: "small", maxDepth: 4 },
    text,
    fc.integer(),
    fc.boolean(),
    fc.array(tie("value"), { maxLength: 4 }),
    tie("record"),
  ),
  record: fc.dictionary(key, tie("value"), { minKeys: 1, maxKeys: 4 }),
}));

/** What a value is once it went through text: scalars lose their type. */
function asParsed(value: KeyValue): unknown {
  if (typeof value !== "object") return String(value);
  if (Array.isArray(value)) return value.map((item: KeyValue) => [asParsed(item)]);
  return Object.entries(value).map(([name, item]) => [name, asParsed(item!)]);
}

Deno.test("key-values: what is printed parses to the same", () => {
  fc.assert(
    fc.property(record, (value) => {
      deepStrictEqual(plain(parseKeyValues(printKeyValues(value))), asParsed(value));
    }),
    { numRuns: 1000 },
  );
});
