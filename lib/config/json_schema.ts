/**
 * The table of options as a JSON Schema (draft 2020-12), for editors.
 *
 * @module
 */

import { MIB_PATTERN } from "./decode.ts";
import type { Field, Option, OptionTable, RecordType, ValueType } from "./option_types.ts";

/** A JSON Schema, or a part of one. */
export type JsonSchema = { readonly [key: string]: unknown };

/** The schema of a config file. */
export function jsonSchema(table: OptionTable): JsonSchema {
  const properties: Record<string, JsonSchema> = {
    "$schema": { description: "where an editor finds this schema" },
  };
  for (const [name, option] of Object.entries(table)) {
    if (option.commandLineOnly === true) continue;
    for (const key of [name, ...option.aliases ?? []]) properties[key] = optionSchema(option);
  }
  return {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    title: "vmctl config",
    type: "object",
    additionalProperties: false,
    properties,
  };
}

function optionSchema(option: Option | Field): JsonSchema {
  return { description: option.help, ...typeSchema(option.type) };
}

function typeSchema(type: ValueType): JsonSchema {
  switch (type.kind) {
    case "boolean":
      return { type: "boolean" };
    case "integer":
      return { type: "integer", minimum: type.min, maximum: type.max };
    case "mib":
      return {
        anyOf: [
          { type: "integer", minimum: type.min, maximum: type.max },
          { type: "string", pattern: MIB_PATTERN.source },
        ],
      };
    case "string":
      return type.pattern === undefined
        ? { type: "string" }
        : { type: "string", pattern: type.pattern.source };
    case "path":
      return { type: "string", minLength: 1 };
    case "choice":
      return { enum: Object.keys(type.choices) };
    case "record":
      return { anyOf: [recordSchema(type), typeSchema(type.fields[type.first]!.type)] };
    case "list":
      return { type: "array", items: typeSchema(type.item) };
  }
}

function recordSchema(type: RecordType): JsonSchema {
  const properties: Record<string, JsonSchema> = {};
  for (const [name, field] of Object.entries(type.fields)) {
    for (const key of [name, ...field.aliases ?? []]) properties[key] = optionSchema(field);
  }
  return { type: "object", additionalProperties: false, properties };
}
