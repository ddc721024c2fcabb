/**
 * Joins modules of this assembler into one that does what they did: an instance, and what V8 keeps of a
 * module, cost about the same whatever is in it. Types and imports become those of all; in code only the
 * numbers of functions and types change, each in its one byte, so that nothing moves. What is not known
 * here, such as another section or opcode, leaves the modules as they are.
 *
 * @module
 */

import { ByteWriter } from "./bytes.ts";
import { FUNCTION_KIND, inside, ModuleReader, SectionId, sectionsOf } from "./module_reader.ts";
import { prioritiesIn, type Priority, writePriorities } from "./priorities.ts";
import { Op } from "./types.ts";

const HEAD = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
const FUNCTION_TYPE = 0x60;
const HINTS = "metadata.code.branch_hint";
const NAMES = "name";
const FUNCTION_NAMES = 1;
/** Numbers below are one byte. */
const ONE_BYTE = 0x80;

/** An import. */
interface Import {
  /** What makes it the same as another one. */
  readonly key: string;
  /** The bytes of its names. */
  readonly names: Uint8Array;
  readonly kind: number;
  /** The bytes of what it is; its type where that is a function or a tag. */
  readonly what: Uint8Array | number;
}

/** A module taken apart. */
interface Parts {
  readonly types: readonly Uint8Array[];
  readonly imports: readonly Import[];
  /** How many of the imports are functions. */
  readonly importedCount: number;
  /** Types of its own functions. */
  readonly functions: readonly number[];
  readonly exports: readonly (readonly [string, number])[];
  /** Branch hints by function, as the section has them. */
  readonly hints: readonly (readonly [number, Uint8Array])[];
  readonly priorities: ReadonlyMap<number, Priority>;
  readonly names: readonly (readonly [number, string])[];
  readonly bodies: readonly Uint8Array[];
}

/** What numbers become. */
interface Numbers {
  readonly functions: readonly number[];
  readonly types: readonly number[];
}

/**
 * One module of `modules`; undefined where they cannot be joined.
 *
 * @param rename The new name of what module number `of` exports as `name`.
 */
export function joinModules(
  modules: readonly Uint8Array[],
  rename: (of: number, name: string) => string,
): Uint8Array<ArrayBuffer> | undefined {
  try {
    return join(modules.map(takeApart), rename);
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

function takeApart(module: Uint8Array): Parts {
  const types: Uint8Array[] = [];
  const imports: Import[] = [];
  const functions: number[] = [];
  const exports: [string, number][] = [];
  const hints: [number, Uint8Array][] = [];
  const names: [number, string][] = [];
  const bodies: Uint8Array[] = [];
  const sections = sectionsOf(module);
  for (const section of sections) {
    const r = inside(module, section);
    switch (section.id) {
      case SectionId.custom:
        readCustom(r, hints, names);
        continue;
      case SectionId.types:
        for (let left = r.u32(); left > 0; left--) types.push(readType(r));
        break;
      case SectionId.imports:
        for (let left = r.u32(); left > 0; left--) imports.push(readImport(r, types));
        break;
      case SectionId.functions:
        for (let left = r.u32(); left > 0; left--) functions.push(r.u32());
        break;
      case SectionId.exports:
        for (let left = r.u32(); left > 0; left--) {
          const name = r.name();
          if (r.u8() !== FUNCTION_KIND) throw new RangeError("an export that is no function");
          exports.push([name, r.u32()]);
        }
        break;
      case SectionId.code:
        for (let left = r.u32(); left > 0; left--) bodies.push(r.bytes(r.u32()));
        break;
      default:
        throw new RangeError(`a section ${section.id}`);
    }
    if (!r.isDone) throw new RangeError("more in a section");
  }
  if (bodies.length !== functions.length) throw new RangeError("functions without code");
  const importedCount = imports.filter(({ kind }) => kind === FUNCTION_KIND).length;
  const priorities = prioritiesIn(module, sections);
  return { types, imports, importedCount, functions, exports, hints, priorities, names, bodies };
}

function readType(r: ModuleReader): Uint8Array {
  const start = r.at;
  if (r.u8() !== FUNCTION_TYPE) throw new RangeError("a type of no function");
  r.bytes(r.u32());
  r.bytes(r.u32());
  const { at } = r;
  r.at = start;
  return r.bytes(at - start);
}

function readImport(r: ModuleReader, types: readonly Uint8Array[]): Import {
  const start = r.at;
  const name = `${r.name()} ${r.name()}`;
  let { at } = r;
  r.at = start;
  const names = r.bytes(at - start);
  const kind = r.u8();
  const key = (what: Uint8Array) => `${kind} ${name} ${what.join()}`;
  at = r.at;
  switch (kind) {
    case FUNCTION_KIND: {
      const type = r.u32();
      return { key: key(typeAt(types, type)), names, kind, what: type };
    }
    case 1:
      r.u8();
      readLimits(r);
      break;
    case 2:
      readLimits(r);
      break;
    case 4: {
      if (r.u8() !== 0) throw new RangeError("a tag of another kind");
      const type = r.u32();
      return { key: key(typeAt(types, type)), names, kind, what: type };
    }
    default:
      throw new RangeError(`an import of kind ${kind}`);
  }
  const end = r.at;
  r.at = at;
  const what = r.bytes(end - at);
  return { key: key(what), names, kind, what };
}

function typeAt(types: readonly Uint8Array[], index: number): Uint8Array {
  const type = types[index];
  if (type === undefined) throw new RangeError("no such type");
  return type;
}

function readLimits(r: ModuleReader): void {
  const flags = r.u8();
  r.u32();
  if ((flags & 1) !== 0) r.u32();
}

function readCustom(
  r: ModuleReader,
  hints: [number, Uint8Array][],
  names: [number, string][],
): void {
  const name = r.name();
  if (name === HINTS) {
    for (let left = r.u32(); left > 0; left--) {
      const func = r.u32();
      const start = r.at;
      for (let count = r.u32(); count > 0; count--) {
        r.u32();
        r.bytes(r.u32());
      }
      const { at } = r;
      r.at = start;
      hints.push([func, r.bytes(at - start)]);
    }
  } else if (name === NAMES) {
    while (!r.isDone) {
      const id = r.u8();
      const part = r.bytes(r.u32());
      if (id !== FUNCTION_NAMES) continue;
      const list = new ModuleReader(part, 0, part.length);
      for (let left = list.u32(); left > 0; left--) names.push([list.u32(), list.name()]);
    }
  }
}

function join(
  all: readonly Parts[],
  rename: (of: number, name: string) => string,
): Uint8Array<ArrayBuffer> {
  const types = new Map<string, { index: number; bytes: Uint8Array }>();
  const functions = new Map<string, { index: number; import: Import; type: number }>();
  const others = all[0]?.imports.filter(({ kind }) => kind !== FUNCTION_KIND) ?? [];
  const numbers: { functions: number[]; types: number[] }[] = [];
  for (const { types: own, imports } of all) {
    const newTypes = own.map((bytes) => {
      const key = bytes.join();
      let type = types.get(key);
      if (type === undefined) types.set(key, type = { index: types.size, bytes });
      return type.index;
    });
    const newFunctions: number[] = [];
    let other = 0;
    for (const item of imports) {
      if (item.kind !== FUNCTION_KIND) {
        if (others[other++]?.key !== item.key) throw new RangeError("other memories");
        continue;
      }
      let known = functions.get(item.key);
      if (known === undefined) {
        const type = newTypes[item.what as number] as number;
        functions.set(item.key, known = { index: functions.size, import: item, type });
      }
      newFunctions.push(known.index);
    }
    if (other !== others.length) throw new RangeError("other memories");
    numbers.push({ functions: newFunctions, types: newTypes });
  }
  // Own functions come behind all that are imported.
  let next = functions.size;
  for (const [i, { functions: own }] of all.entries()) {
    for (let n = 0; n < own.length; n++) numbers[i]?.functions.push(next++);
  }
  const each = <T>(
    of: (parts: Parts) => Iterable<T>,
    take: (item: T, now: Numbers, i: number) => void,
  ) =>
    all.forEach((parts, i) => {
      for (const item of of(parts)) take(item, numbers[i] as Numbers, i);
    });
  const count = (of: (parts: Parts) => { readonly length: number }) =>
    all.reduce((sum, parts) => sum + of(parts).length, 0);
  const now = (list: readonly number[], index: number): number => {
    const found = list[index];
    if (found === undefined) throw new RangeError("no such number");
    return found;
  };
  const out = new ByteWriter(1 << 16);
  out.raw(HEAD);
  const section = (id: number, fill: (s: ByteWriter) => void) => {
    const s = new ByteWriter(1 << 10);
    fill(s);
    out.u8(id);
    out.u32(s.length);
    out.append(s);
  };
  section(SectionId.types, (s) => {
    s.u32(types.size);
    for (const { bytes } of types.values()) s.raw(bytes);
  });
  section(SectionId.imports, (s) => {
    s.u32(others.length + functions.size);
    for (const { names, kind, what } of others) {
      s.raw(names);
      s.u8(kind);
      if (typeof what !== "number") s.raw(what);
      else {
        s.u8(0);
        s.u32(now(numbers[0]?.types ?? [], what));
      }
    }
    for (const { import: { names }, type } of functions.values()) {
      s.raw(names);
      s.u8(FUNCTION_KIND);
      s.u32(type);
    }
  });
  section(SectionId.functions, (s) => {
    s.u32(count((parts) => parts.functions));
    each((parts) => parts.functions, (type, to) => s.u32(now(to.types, type)));
  });
  section(SectionId.exports, (s) => {
    s.u32(count((parts) => parts.exports));
    each((parts) => parts.exports, ([name, index], to, i) => {
      s.name(rename(i, name));
      s.u8(FUNCTION_KIND);
      s.u32(now(to.functions, index));
    });
  });
  if (count((parts) => parts.hints) > 0) {
    section(SectionId.custom, (s) => {
      s.name(HINTS);
      s.u32(count((parts) => parts.hints));
      each((parts) => parts.hints, ([index, hints], to) => {
        s.u32(now(to.functions, index));
        s.raw(hints);
      });
    });
  }
  const priorities: [number, Priority][] = [];
  each((parts) => parts.priorities, ([index, priority], to) => {
    priorities.push([now(to.functions, index), priority]);
  });
  writePriorities(out, priorities);
  section(SectionId.code, (s) => {
    s.u32(count((parts) => parts.bodies));
    each((parts) => parts.bodies, (body, to) => {
      s.u32(body.length);
      s.raw(renumber(body, to));
    });
  });
  section(SectionId.custom, (s) => {
    s.name(NAMES);
    const names = new ByteWriter(1 << 10);
    names.u32(count((parts) => parts.names));
    each((parts) => parts.names, ([index, name], to) => {
      names.u32(now(to.functions, index));
      names.name(name);
    });
    s.u8(FUNCTION_NAMES);
    s.u32(names.length);
    s.append(names);
  });
  return out.finish().slice();
}

/** `body` with other numbers of functions and types. Throws a RangeError at what it does not know. */
function renumber(body: Uint8Array, numbers: Numbers): Uint8Array {
  const code = body.slice();
  let at = 0;
  const u8 = (): number => {
    if (at >= code.length) throw new RangeError("behind the end of a function");
    return code[at++] as number;
  };
  // A LEB128 of any length up to that of 64 bits.
  const number = (): void => {
    for (let n = 0; n < 10; n++) if (u8() < 0x80) return;
    throw new RangeError("a number of more than 64 bits");
  };
  const small = (): number => {
    let value = 0;
    for (let shift = 0; shift < 28; shift += 7) {
      const byte = u8();
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw new RangeError("a large number");
  };
  const skip = (bytes: number): void => {
    at += bytes;
    if (at > code.length) throw new RangeError("behind the end of a function");
  };
  const change = (list: readonly number[]): void => {
    const from = u8();
    const to = list[from];
    if (from >= ONE_BYTE || to === undefined || to >= ONE_BYTE) {
      throw new RangeError("a number of two bytes");
    }
    code[at - 1] = to;
  };
  const place = (): void => {
    if ((small() & 0x40) !== 0) number();
    number();
  };
  // Behind a value type, or nothing.
  const blockType = (): void => {
    const type = u8();
    if (type < 0x40 || type > 0x7f) throw new RangeError("a block with a type of its own");
  };
  for (let groups = small(); groups > 0; groups--) {
    number();
    skip(1);
  }
  let depth = 1;
  while (depth > 0) {
    const op = u8();
    switch (op) {
      case Op.block:
      case Op.loop:
      case Op.if:
        depth++;
        blockType();
        break;
      case Op.try_table:
        depth++;
        blockType();
        for (let clauses = small(); clauses > 0; clauses--) {
          if (u8() !== 0) throw new RangeError("another kind of catch");
          number();
          number();
        }
        break;
      case Op.end:
        depth--;
        break;
      case Op.unreachable:
      case Op.nop:
      case Op.else:
      case Op.return:
      case Op.drop:
      case Op.select:
        break;
      case Op.throw:
      case Op.br:
      case Op.br_if:
      case Op.local_get:
      case Op.local_set:
      case Op.local_tee:
      case Op.memory_size:
      case Op.i32_const:
      case Op.i64_const:
        number();
        break;
      case Op.br_table:
        for (let labels = small() + 1; labels > 0; labels--) number();
        break;
      case Op.call:
      case Op.return_call:
        change(numbers.functions);
        break;
      case Op.call_indirect:
      case Op.return_call_indirect:
        change(numbers.types);
        number();
        break;
      case Op.f32_const:
        skip(4);
        break;
      case Op.f64_const:
        skip(8);
        break;
      case 0xfc: {
        const sub = small();
        if (sub === 10) number();
        if (sub === 10 || sub === 11) number();
        else if (sub > 7) throw new RangeError(`opcode fc ${sub}`);
        break;
      }
      case 0xfd: {
        const sub = small();
        if (sub <= 11 || sub === 92 || sub === 93) place();
        else if (sub <= 13) skip(16);
        else if (sub >= 21 && sub <= 34) skip(1);
        else if (sub >= 84 && sub <= 91) {
          place();
          skip(1);
        } else if (sub > 275) throw new RangeError(`opcode fd ${sub}`);
        break;
      }
      case 0xfe: {
        const sub = small();
        if (sub === 3) skip(1);
        else if (sub <= 2 || (sub >= 0x10 && sub <= 0x4e)) place();
        else throw new RangeError(`opcode fe ${sub}`);
        break;
      }
      default:
        if (op >= Op.i32_load && op <= Op.i64_store32) place();
        else if (op < Op.i32_eqz || op > Op.i64_extend32_s) throw new RangeError(`opcode ${op}`);
    }
  }
  if (at !== code.length) throw new RangeError("code behind the end");
  return code;
}
