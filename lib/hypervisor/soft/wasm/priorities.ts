/**
 * Says in a module which of its functions are worth to be compiled before they are called: V8 does so in
 * the background, for all workers that compile the same bytes (compilation hints proposal, section
 * `metadata.code.compilation_priority`; V8 wants flag `--experimental-wasm-compilation-hints`, and goes
 * without where it is not given). What is no module stays as it is.
 *
 * @module
 */

import { ByteWriter } from "./bytes.ts";
import { FUNCTION_KIND, inside, type Section, SectionId, sectionsOf } from "./module_reader.ts";

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
const NAME = "metadata.code.compilation_priority";

const isOurs = (module: Uint8Array, section: Section) =>
  section.id === SectionId.custom && inside(module, section).name() === NAME;

/** Indexes of functions by the names that they are exported by. */
function exportsOf(module: Uint8Array, sections: readonly Section[]): Map<string, number> {
  const found = new Map<string, number>();
  for (const section of sections) {
    if (section.id !== SectionId.exports) continue;
    const reader = inside(module, section);
    for (let left = reader.u32(); left > 0; left--) {
      const name = reader.name();
      const kind = reader.u8();
      const index = reader.u32();
      if (kind === FUNCTION_KIND) found.set(name, index);
    }
  }
  return found;
}

/** Priorities by function, as its index in the module whose sections these are. */
export function prioritiesIn(
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
      if (section.id === SectionId.code) writePriorities(out, chosen);
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
  out.u8(SectionId.custom);
  out.u32(section.length);
  out.append(section);
}
