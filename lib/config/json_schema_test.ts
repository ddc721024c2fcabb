import { deepStrictEqual, strictEqual } from "node:assert/strict";
import fc from "fast-check";
import { Decoder } from "./decode.ts";
import { type JsonSchema, jsonSchema } from "./json_schema.ts";
import { RUN_OPTIONS } from "./options.ts";
import { type ConfigProblem, formatProblem } from "./problem.ts";

const schema = jsonSchema(RUN_OPTIONS);

/** Whether `value` fits, by the few keywords that the schema uses; others are an error. */
function fits(rule: JsonSchema, value: unknown): boolean {
  return Object.entries(rule).every(([keyword, argument]) => {
    switch (keyword) {
      case "$schema":
      case "title":
      case "description":
      case "additionalProperties":
        return true;
      case "type":
        return hasType(argument as string, value);
      case "enum":
        return (argument as unknown[]).includes(value);
      case "anyOf":
        return (argument as JsonSchema[]).some((choice) => fits(choice, value));
      case "minimum":
        return typeof value !== "number" || value >= (argument as number);
      case "maximum":
        return typeof value !== "number" || value <= (argument as number);
      case "minLength":
        return typeof value !== "string" || value.length >= (argument as number);
      case "pattern":
        return typeof value !== "string" || new RegExp(argument as string, "u").test(value);
      case "items":
        return !Array.isArray(value) || value.every((item) => fits(argument as JsonSchema, item));
      case "properties": {
        if (typeof value !== "object" || value === null || Array.isArray(value)) return true;
        const properties = argument as Record<string, JsonSchema>;
        return Object.entries(value).every(([key, item]) =>
          Object.hasOwn(properties, key) && fits(properties[key]!, item)
        );
      }
      default:
        throw new Error(`the schema uses ${keyword}, which this test does not know`);
    }
  });
}

function hasType(type: string, value: unknown): boolean {
  switch (type) {
    case "object":
      return typeof value === "object" && value !== null && !Array.isArray(value);
    case "array":
      return Array.isArray(value);
    case "integer":
      return Number.isInteger(value);
    case "boolean":
      return typeof value === "boolean";
    case "string":
      return typeof value === "string";
    default:
      throw new Error(`the schema uses type ${type}, which this test does not know`);
  }
}

/** Values that fit a rule. */
function fitting(rule: JsonSchema): fc.Arbitrary<unknown> {
  if ("anyOf" in rule) return fc.oneof(...(rule["anyOf"] as JsonSchema[]).map(fitting));
  if ("enum" in rule) return fc.constantFrom(...rule["enum"] as unknown[]);
  switch (rule["type"]) {
    case "boolean":
      return fc.boolean();
    case "integer":
      return fc.integer({ min: rule["minimum"] as number, max: rule["maximum"] as number });
    case "string":
      return "pattern" in rule
        ? fc.stringMatching(new RegExp(rule["pattern"] as string, "u"))
        : fc.string({ minLength: rule["minLength"] as number ?? 0 });
    case "array":
      return fc.array(fitting(rule["items"] as JsonSchema), { maxLength: 3 });
    case "object": {
      const { $schema: _, ...properties } = rule["properties"] as Record<string, JsonSchema>;
      const entries = Object.entries(properties).map(([key, item]) => [key, fitting(item)]);
      return fc.record(Object.fromEntries(entries), { requiredKeys: [] });
    }
    default:
      throw new Error(`no values for ${JSON.stringify(rule)}`);
  }
}

function decode(value: unknown): string[] {
  const problems: ConfigProblem[] = [];
  new Decoder({ file: undefined, baseDir: "/" }, problems).options(RUN_OPTIONS, value);
  return problems.map(formatProblem);
}

/**
 * What a schema cannot say: sizes as text within bounds, paths without NUL, and without "=" where they
 * stand for a table, one name per option.
 */
const BEYOND_SCHEMA =
  /expected a size from|expected a whole number of MiB|expected a path|given twice|key=value text/;

Deno.test("what the schema accepts is decoded", () => {
  fc.assert(
    fc.property(fitting(schema), (value) => {
      strictEqual(fits(schema, value), true);
      deepStrictEqual(decode(value).filter((problem) => !BEYOND_SCHEMA.test(problem)), []);
    }),
    { numRuns: 500 },
  );
});

Deno.test("what the schema refuses is refused", () => {
  const key = fc.constantFrom(...Object.keys(RUN_OPTIONS), "wibble", "num-cores");
  const anything = fc.oneof(
    fc.jsonValue({ maxDepth: 3 }),
    fc.dictionary(fc.constantFrom("type", "num", "num-cores", "size", "path"), fc.jsonValue()),
    fc.constantFrom("soft", "512M", "x", "", "info", "trace,a=warn", 1, 2, 64, true),
    fc.array(fc.constantFrom("a", "stdout", 3, null, "a\nb"), { maxLength: 3 }),
  );
  fc.assert(
    fc.property(fc.dictionary(key, anything, { maxKeys: 3 }), (value) => {
      const problems = decode(value);
      if (!fits(schema, value)) strictEqual(problems.length > 0, true, JSON.stringify(value));
      else deepStrictEqual(problems.filter((problem) => !BEYOND_SCHEMA.test(problem)), []);
    }),
    { numRuns: 2000 },
  );
});
