/**
 * Says in a module which of its functions are worth to be compiled before they are called: V8 does so in
 * the background, for all workers that compile the same bytes (compilation hints proposal, section
 * `metadata.code.compilation_priority`; V8 wants flag `--experimental-wasm-compilation-hints`, and goes
 * without where it is not given). What is no module stays as it is.
 *
 * @module
 */

import { ByteWriter } from "./bytes.ts";

/** What is to be done with a function when its module is compiled. */
export enum Priority {
  /** Nothing: it is compiled when it is called. */
  None,
  /** Compiled at once, but not optimized. */
  Compile,
  /** Optimized in the background. */
  Optimize,
}

const HEAD_BYTES = 8;
const CUSTOM = 0;
const EXPORTS = 7;
const CODE = 10;
const FUNCTION = 0;
const NAME = "metadata.code.compilation_priority";

/** Reads a module's parts; throws a RangeError behind the end. */
class Reader {
  readonly #bytes: Uint8Array;
  readonly end: number;
  at: number;

  constructor(bytes: Uint8Array, at: number, end: number) {
    if (end > bytes.length) throw new RangeError("behind the end");
    this.#bytes = bytes;
    this.at = at;
    this.end = end;
  }

  u8(): number {
    if (this.at >= this.end) throw new RangeError("behind the end");
    return this.#bytes[this.at++] as number;
  }

  u32(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.u8();
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw new RangeError("a number of more than 32 bits");
  }

  name(): string {
    const length = this.u32();
    if (length > this.end - this.at) throw new RangeError("behind the end");
    this.at += length;
    return new TextDecoder().decode(this.#bytes.subarray(this.at - length, this.at));
  }
}

interface Section {
  readonly id: number;
  /** Where it begins, with its head, and where what is in it does. */
  readonly start: number;
  readonly body: number;
  readonly end: number;
}

function sectionsOf(module: Uint8Array): Section[] {
  const sections: Section[] = [];
  const reader = new Reader(module, HEAD_BYTES, module.length);
  while (reader.at < module.length) {
    const start = reader.at;
    const id = reader.u8();
    const length = reader.u32();
    const body = reader.at;
    if (length > module.length - body) throw new RangeError("behind the end");
    sections.push({ id, start, body, end: body + length });
    reader.at = body + length;
  }
  return sections;
}

const inside = (module: Uint8Array, { body, end }: Section) => new Reader(module, body, end);

const isOurs = (module: Uint8Array, section: Section) =>
  section.id === CUSTOM && inside(module, section).name() === NAME;

/** Indexes of functions by the names that they are exported by. */
function exportsOf(module: Uint8Array, sections: readonly Section[]): Map<string, number> {
  const found = new Map<string, number>();
  for (const section of sections) {
    if (section.id !== EXPORTS) continue;
    const reader = inside(module, section);
    for (let left = reader.u32(); left > 0; left--) {
      const name = reader.name();
      const kind = reader.u8();
      const index = reader.u32();
      if (kind === FUNCTION) found.set(name, index);
    }
  }
  return found;
}

function prioritiesIn(
  module: Uint8Array,
  sections: readonly Section[],
): Map<number, Priority> {
  const found = new Map<number, Priority>();
  for (const section of sections) {
    if (!isOurs(module, section)) continue;
    const reader = inside(module, section);
    reader.name();
    for (let left = reader.u32(); left > 0; left--) {
      const index = reader.u32();
      reader.u32();
      const length = reader.u32();
      found.set(index, length > 1 ? Priority.Optimize : Priority.Compile);
      reader.at += length;
    }
  }
  return found;
}

/** The priorities that `module` names, by the names of exported functions; those without are left out. */
export function readPriorities(module: Uint8Array): Map<string, Priority> {
  try {
    const sections = sectionsOf(module);
    const known = prioritiesIn(module, sections);
    const found = new Map<string, Priority>();
    for (const [name, index] of exportsOf(module, sections)) {
      const priority = known.get(index);
      if (priority !== undefined) found.set(name, priority);
    }
    return found;
  } catch (error) {
    if (error instanceof RangeError) return new Map();
    throw error;
  }
}

/** `module` with these priorities of exported functions, instead of any that it names. */
export function withPriorities(
  module: Uint8Array<ArrayBuffer>,
  priorities: ReadonlyMap<string, Priority>,
): Uint8Array<ArrayBuffer> {
  try {
    const sections = sectionsOf(module);
    const indexes = exportsOf(module, sections);
    const chosen: [number, Priority][] = [];
    for (const [name, priority] of priorities) {
      const index = indexes.get(name);
      if (index !== undefined && priority !== Priority.None) chosen.push([index, priority]);
    }
    const out = new ByteWriter(module.length + 64 + 5 * chosen.length);
    out.raw(module.subarray(0, HEAD_BYTES));
    for (const section of sections) {
      if (isOurs(module, section)) continue;
      if (section.id === CODE) writePriorities(out, chosen);
      out.raw(module.subarray(section.start, section.end));
    }
    return out.finish().slice();
  } catch (error) {
    if (error instanceof RangeError) return module;
    throw error;
  }
}

/** Appends the section for functions by their indexes; nothing where there are none. */
export function writePriorities(out: ByteWriter, chosen: [number, Priority][]): void {
  if (chosen.length === 0) return;
  const section = new ByteWriter(64 + 5 * chosen.length);
  section.name(NAME);
  section.u32(chosen.length);
  for (const [index, priority] of chosen.sort(([a], [b]) => a - b)) {
    section.u32(index);
    // Of all of the function, not of a place in it.
    section.u32(0);
    const optimize = priority === Priority.Optimize;
    section.u32(optimize ? 2 : 1);
    section.u32(0);
    if (optimize) section.u32(0);
  }
  out.u8(CUSTOM);
  out.u32(section.length);
  out.append(section);
}
