/**
 * What an option's value can be. The table of options is written in these terms; command line, config
 * files, help, JSON Schema, completions and TypeScript types all follow from it.
 *
 * @module
 */

/** True or false; on the command line the bare name means true. */
export interface BooleanType {
  readonly kind: "boolean";
}

/** A whole number within bounds, both inclusive. */
export interface IntegerType {
  readonly kind: "integer";
  readonly min: number;
  readonly max: number;
}

/** A size: a whole number of MiB, or text with a unit such as `512M` or `2G`; held in MiB. */
export interface MibType {
  readonly kind: "mib";
  readonly min: number;
  readonly max: number;
}

/** Text. */
export interface StringType {
  readonly kind: "string";
  /** What the whole text must match; must read the same in a JSON Schema. */
  readonly pattern?: RegExp;
  /** The same in words, after "expected". */
  readonly expected?: string;
}

/** A path; relative ones start from the folder of the file that names them. */
export interface PathType {
  readonly kind: "path";
}

/** One of a few words. */
export interface ChoiceType<Name extends string = string> {
  readonly kind: "choice";
  /** The words, each with what it means. */
  readonly choices: Readonly<Record<Name, string>>;
}

/** A key of a record. */
export interface Field {
  readonly type: ScalarType;
  /** What it sets, for help and JSON Schema. */
  readonly help: string;
  /** Other spellings. */
  readonly aliases?: readonly string[];
}

/** Keys with values of their own. */
export interface RecordType<Fields extends Readonly<Record<string, Field>> = FieldTable> {
  readonly kind: "record";
  readonly fields: Fields;
  /** The key that a value without a key belongs to. */
  readonly first: keyof Fields & string;
}

/** Several values, each by an option of its own or together in a file's list. */
export interface ListType<Item extends ItemType = ItemType> {
  readonly kind: "list";
  readonly item: Item;
}

/** Keys of a record by their names. */
export type FieldTable = Readonly<Record<string, Field>>;

/** A single value. */
export type ScalarType =
  | BooleanType
  | IntegerType
  | MibType
  | StringType
  | PathType
  | ChoiceType;

/** What a list can hold. */
export type ItemType = ScalarType | RecordType;

/** Any value. */
export type ValueType = ItemType | ListType;

/** An option: of the command line, and of config files unless `commandLineOnly`. */
export interface Option {
  readonly type: ValueType;
  /** What it does, in a line. */
  readonly help: string;
  /** The short form's letter. */
  readonly short?: string;
  /** Other long names. */
  readonly aliases?: readonly string[];
  /** What help calls the value. */
  readonly valueName?: string;
  /** Heading under which help lists it. */
  readonly group?: string;
  /** Whether a config file cannot hold it. */
  readonly commandLineOnly?: boolean;
}

/** Options by their long names. */
export type OptionTable = Readonly<Record<string, Option>>;

/** The TypeScript type of a decoded value. */
export type Decoded<Type> = Type extends BooleanType ? boolean
  : Type extends IntegerType | MibType ? number
  : Type extends StringType | PathType ? string
  : Type extends ChoiceType<infer Name> ? Name
  : Type extends RecordType<infer Fields> ? DecodedRecord<Fields>
  : Type extends ListType<infer Item> ? readonly Decoded<Item>[]
  : never;

/** The same for the keys of a record. */
export type DecodedRecord<Fields extends FieldTable> = {
  readonly [Key in keyof Fields]?: Decoded<Fields[Key]["type"]>;
};

/** The decoded values of a table's options; those that were not given are missing. */
export type DecodedOptions<Table extends OptionTable> = {
  readonly [Key in keyof Table]?: Decoded<Table[Key]["type"]>;
};
