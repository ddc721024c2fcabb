/**
 * Reads modules in the WebAssembly binary format (core specification 3.0, 5.5): their sections and the numbers
 * in them.
 *
 * @module
 */

const HEAD_BYTES = 8;

/** Section ids. */
export const SectionId = {
  custom: 0,
  types: 1,
  imports: 2,
  functions: 3,
  exports: 7,
  code: 10,
} as const;

/** Kind of an import or export that is a function. */
export const FUNCTION_KIND = 0;

/** Reads a module's parts; throws a RangeError behind the end. */
export class ModuleReader {
  readonly #bytes: Uint8Array;
  /** Index behind the last byte. */
  readonly end: number;
  /** Index of the next byte. */
  at: number;

  constructor(bytes: Uint8Array, at: number, end: number) {
    if (end > bytes.length) throw new RangeError("behind the end");
    this.#bytes = bytes;
    this.at = at;
    this.end = end;
  }

  /** True behind the last byte. */
  get isDone(): boolean {
    return this.at >= this.end;
  }

  /** The next byte. */
  u8(): number {
    if (this.at >= this.end) throw new RangeError("behind the end");
    return this.#bytes[this.at++] as number;
  }

  /** An unsigned LEB128 of up to 32 bits. */
  u32(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.u8();
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw new RangeError("a number of more than 32 bits");
  }

  /** The next `length` bytes. */
  bytes(length: number): Uint8Array {
    if (length > this.end - this.at) throw new RangeError("behind the end");
    this.at += length;
    return this.#bytes.subarray(this.at - length, this.at);
  }

  /** A name. */
  name(): string {
    return new TextDecoder().decode(this.bytes(this.u32()));
  }
}

/** A section of a module. */
export interface Section {
  readonly id: number;
  /** Where it begins, with its head, and where what is in it does. */
  readonly start: number;
  readonly body: number;
  readonly end: number;
}

/** Sections of `module`, in their order; throws a RangeError where it is none. */
export function sectionsOf(module: Uint8Array): Section[] {
  const sections: Section[] = [];
  const reader = new ModuleReader(module, HEAD_BYTES, module.length);
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

/** For the bytes of `section`. */
export function inside(module: Uint8Array, { body, end }: Section): ModuleReader {
  return new ModuleReader(module, body, end);
}
