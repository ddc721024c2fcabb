/**
 * What a runtime is told of a module's functions before it has run them: which will be called, and which
 * of them are worth to be optimized at once (Compilation Hints proposal, `metadata.code.compilation_priority`;
 * V8 reads them behind a flag that the executable sets, others skip the section).
 *
 * @module
 */

import { ByteWriter } from "../../wasm/mod.ts";

/** Regions of a unit that bits speak of. */
export const HINTED_REGIONS = 32;

/** What is known of the regions of a unit, a bit each; those behind the last bit are as if never seen. */
export interface UnitHeat {
  /** Regions that were seen running. */
  readonly warm: number;
  /** Regions that much time went to. */
  readonly hot: number;
}

const SECTION = "metadata.code.compilation_priority";
const HEAD_BYTES = 8;
/** Numbers of sections. */
const [CUSTOM, EXPORT, CODE] = [0, 7, 10];

/** Compiled when the module is. */
const EAGER = 0;
/** Optimized as soon as it is compiled. */
const OPTIMIZE = 1;

/** Reads a module's numbers; throws a RangeError behind its end. */
class ModuleReader {
  constructor(readonly bytes: Uint8Array<ArrayBuffer>, public at: number) {}

  u8(): number {
    const value = this.bytes[this.at++];
    if (value === undefined) throw new RangeError("the end of the module");
    return value;
  }

  u32(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.u8();
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value >>> 0;
    }
    throw new RangeError("a number that is too long");
  }
}

/** Where the code section begins, and the indices of the functions that are exported as regions. */
function findRegions(
  bytes: Uint8Array<ArrayBuffer>,
): { code: number; funcs: Map<number, number> } | undefined {
  const reader = new ModuleReader(bytes, HEAD_BYTES);
  const funcs = new Map<number, number>();
  try {
    while (reader.at < bytes.length) {
      const start = reader.at;
      const id = reader.u8();
      const end = reader.u32() + reader.at;
      if (id === CODE) return { code: start, funcs };
      if (id === EXPORT) {
        for (let left = reader.u32(); left > 0; left--) {
          const name = reader.u32();
          const text = new TextDecoder().decode(bytes.subarray(reader.at, reader.at + name));
          reader.at += name;
          reader.u8();
          const region = /^r(\d+)$/.exec(text)?.[1];
          const index = reader.u32();
          if (region !== undefined) funcs.set(Number(region), index);
        }
      }
      reader.at = end;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return undefined;
}

/** The module of `bytes` with hints of what `heat` says; the same where it says nothing. */
export function withHints(
  bytes: Uint8Array<ArrayBuffer>,
  heat: UnitHeat,
): Uint8Array<ArrayBuffer> {
  if (heat.warm === 0) return bytes;
  const found = findRegions(bytes);
  if (found === undefined) return bytes;
  const hinted = [...found.funcs].filter(([region]) =>
    region < HINTED_REGIONS && (heat.warm >>> region & 1) !== 0
  ).sort(([, a], [, b]) => a - b);
  const body = new ByteWriter(256);
  body.name(SECTION);
  body.u32(hinted.length);
  for (const [region, func] of hinted) {
    body.u32(func);
    body.u32(0);
    const optimize = (heat.hot >>> region & 1) !== 0;
    body.u32(optimize ? 2 : 1);
    body.u8(EAGER);
    if (optimize) body.u8(OPTIMIZE);
  }
  const section = new ByteWriter(256);
  section.u8(CUSTOM);
  section.u32(body.length);
  section.append(body);
  const hints = section.finish();
  const result = new Uint8Array(bytes.length + hints.length);
  result.set(bytes.subarray(0, found.code));
  result.set(hints, found.code);
  result.set(bytes.subarray(found.code), found.code + hints.length);
  return result;
}
