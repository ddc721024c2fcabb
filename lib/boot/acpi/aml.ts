/**
 * Builds AML, the byte code in which ACPI describes devices (ACPI 6.5, 20.2). Every function gives
 * the bytes of one term; terms nest by passing bytes on.
 *
 * @module
 */

import { concatBytes } from "../../base/mod.ts";

/** Bytes of a term. */
export type Aml = Uint8Array;

const ZERO_OP = 0x00;
const ONE_OP = 0x01;
const NAME_OP = 0x08;
const BYTE_PREFIX = 0x0a;
const WORD_PREFIX = 0x0b;
const DWORD_PREFIX = 0x0c;
const STRING_PREFIX = 0x0d;
const QWORD_PREFIX = 0x0e;
const SCOPE_OP = 0x10;
const BUFFER_OP = 0x11;
const PACKAGE_OP = 0x12;
const METHOD_OP = 0x14;
const DUAL_NAME_PREFIX = 0x2e;
const MULTI_NAME_PREFIX = 0x2f;
const EXTENDED_PREFIX = 0x5b;
const DEVICE_OP = 0x82;
const RETURN_OP = 0xa4;
const ROOT_CHAR = 0x5c;
const MAX_PACKAGE_ELEMENTS = 255;

/** An integer constant in its shortest form; up to 2^53. */
export function integer(value: number): Aml {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new TypeError(`AML integer: expected 0 to 2^53, got ${value}`);
  }
  if (value === 0) return Uint8Array.of(ZERO_OP);
  if (value === 1) return Uint8Array.of(ONE_OP);
  if (value <= 0xff) return Uint8Array.of(BYTE_PREFIX, value);
  if (value <= 0xffff) return Uint8Array.of(WORD_PREFIX, value & 0xff, value >> 8);
  if (value <= 0xffff_ffff) {
    const high = value >>> 16;
    const low = value & 0xffff;
    return Uint8Array.of(DWORD_PREFIX, low & 0xff, low >> 8, high & 0xff, high >> 8);
  }
  return concatBytes([Uint8Array.of(QWORD_PREFIX), littleEndian(value, 8)]);
}

/** A string constant. */
export function string(value: string): Aml {
  return concatBytes([
    Uint8Array.of(STRING_PREFIX),
    new TextEncoder().encode(value),
    Uint8Array.of(0),
  ]);
}

/** The number for an EISA identifier such as `PNP0A03`, as _HID and _CID hold it. */
export function eisaId(id: string): Aml {
  const match = /^([A-Z@[\\\]^_]{3})([0-9A-F]{4})$/.exec(id);
  if (!match) throw new TypeError(`EISA identifier: expected the form PNP0A03, got ${id}`);
  const letters = [...match[1]!].reduce((sum, c) => (sum << 5) | (c.charCodeAt(0) - 0x40), 0);
  const number = parseInt(match[2]!, 16);
  const bytes = Uint8Array.of(letters >> 8, letters & 0xff, number >> 8, number & 0xff);
  return concatBytes([Uint8Array.of(DWORD_PREFIX), bytes]);
}

/** `Name (path, value)`. */
export function name(path: string, value: Aml): Aml {
  return concatBytes([Uint8Array.of(NAME_OP), nameString(path), value]);
}

/** `Scope (path) { … }`. */
export function scope(path: string, terms: readonly Aml[]): Aml {
  return withLength([SCOPE_OP], [nameString(path), ...terms]);
}

/** `Device (path) { … }`. */
export function device(path: string, terms: readonly Aml[]): Aml {
  return withLength([EXTENDED_PREFIX, DEVICE_OP], [nameString(path), ...terms]);
}

/** `Method (path, argCount) { … }`, not serialized. */
export function method(path: string, argCount: number, terms: readonly Aml[]): Aml {
  const head = [nameString(path), Uint8Array.of(argCount & 7)];
  return withLength([METHOD_OP], [...head, ...terms]);
}

/** `Return (value)`. */
export function returnValue(value: Aml): Aml {
  return concatBytes([Uint8Array.of(RETURN_OP), value]);
}

/** `Package { … }` of at most 255 elements. */
export function packageOf(elements: readonly Aml[]): Aml {
  if (elements.length > MAX_PACKAGE_ELEMENTS) {
    throw new TypeError(`AML package: expected at most 255 elements, got ${elements.length}`);
  }
  return withLength([PACKAGE_OP], [Uint8Array.of(elements.length), ...elements]);
}

/** `Buffer { … }`. */
export function buffer(bytes: Uint8Array): Aml {
  return withLength([BUFFER_OP], [integer(bytes.length), bytes]);
}

/** A reference to a named object or local, by its path. */
export function nameString(path: string): Aml {
  const rooted = path.startsWith("\\");
  const segments = (rooted ? path.slice(1) : path).split(".").filter((part) => part !== "");
  const bytes: number[] = rooted ? [ROOT_CHAR] : [];
  if (segments.length === 0) bytes.push(0);
  if (segments.length === 2) bytes.push(DUAL_NAME_PREFIX);
  if (segments.length > 2) bytes.push(MULTI_NAME_PREFIX, segments.length);
  for (const segment of segments) {
    if (!/^[A-Z_][A-Z0-9_]{0,3}$/.test(segment)) {
      throw new TypeError(`AML name: expected up to four of A-Z, 0-9 and _, got ${path}`);
    }
    for (const c of segment.padEnd(4, "_")) bytes.push(c.charCodeAt(0));
  }
  return Uint8Array.from(bytes);
}

/** `opcode` and `terms` with their package length between them, which counts itself (ACPI 6.5, 20.2.4). */
function withLength(opcode: readonly number[], terms: readonly Aml[]): Aml {
  let length = 0;
  for (const term of terms) length += term.length;
  let count = 1;
  while (length + count >= (count === 1 ? 0x40 : 2 ** (4 + 8 * (count - 1)))) {
    if (++count > 4) {
      throw new TypeError(`AML package: expected less than 256 MiB, got ${length} bytes`);
    }
  }
  const total = length + count;
  const result = new Uint8Array(opcode.length + total);
  result.set(opcode);
  let at = opcode.length;
  result[at++] = count === 1 ? total : ((count - 1) << 6) | (total & 0xf);
  for (let index = 1; index < count; index++) result[at++] = total >>> (4 + 8 * (index - 1));
  for (const term of terms) {
    result.set(term, at);
    at += term.length;
  }
  return result;
}

// Resource templates (ACPI 6.5, 6.4).

const RESOURCE_MEMORY = 0;
const RESOURCE_IO = 1;
const RESOURCE_BUS = 2;
/** Minimum and maximum are fixed; decoded positively; handed on to children. */
const WINDOW_FLAGS = 0x0c;

/** `ResourceTemplate () { … }`: a buffer of descriptors with its end tag. */
export function resourceTemplate(descriptors: readonly Aml[]): Aml {
  return buffer(concatBytes([...descriptors, Uint8Array.of(0x79, 0)]));
}

/** Fixed ports, decoded with 16 bits. */
export function ioPorts(first: number, count: number): Aml {
  return concatBytes([
    Uint8Array.of(0x47, 1),
    littleEndian(first, 2),
    littleEndian(first, 2),
    Uint8Array.of(1, count),
  ]);
}

/** An edge-triggered, active-high ISA interrupt. */
export function isaIrq(irq: number): Aml {
  return concatBytes([Uint8Array.of(0x22), littleEndian(1 << irq, 2)]);
}

/** A window of bus numbers that a bridge hands on. */
export function busWindow(first: number, count: number): Aml {
  return addressWindow({ tag: 0x88, width: 2, type: RESOURCE_BUS, flags: 0, first, count });
}

/** A window of ports that a bridge hands on. */
export function ioWindow(first: number, count: number): Aml {
  return addressWindow({ tag: 0x88, width: 2, type: RESOURCE_IO, flags: 3, first, count });
}

/** A window of uncached, writable 32-bit memory addresses that a bridge hands on. */
export function memoryWindow(first: number, count: number): Aml {
  return addressWindow({ tag: 0x87, width: 4, type: RESOURCE_MEMORY, flags: 1, first, count });
}

/** A window of uncached, writable 64-bit memory addresses that a bridge hands on. */
export function memoryWindow64(first: number, count: number): Aml {
  return addressWindow({ tag: 0x8a, width: 8, type: RESOURCE_MEMORY, flags: 1, first, count });
}

function addressWindow({ tag, width, type, flags, first, count }: {
  readonly tag: number;
  readonly width: number;
  readonly type: number;
  readonly flags: number;
  readonly first: number;
  readonly count: number;
}): Aml {
  return concatBytes([
    Uint8Array.of(tag),
    littleEndian(3 + 5 * width, 2),
    Uint8Array.of(type, WINDOW_FLAGS, flags),
    littleEndian(0, width), // granularity
    littleEndian(first, width),
    littleEndian(first + count - 1, width),
    littleEndian(0, width), // translation
    littleEndian(count, width),
  ]);
}

/** `value` in `width` bytes, least significant first. */
function littleEndian(value: number, width: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(width);
  let rest = value;
  for (let index = 0; index < width; index++) {
    bytes[index] = rest % 256;
    rest = Math.floor(rest / 256);
  }
  return bytes;
}
