/**
 * The interpreter's module as bytes with what is to be known of it, and the file that keeps it, since
 * emitting it takes most of a start. The executable brings it along.
 *
 * @module
 */

import { join } from "node:path";
import { embeddedPart } from "../../../base/mod.ts";
import { readOwnFile, removeOldFiles, replaceFile } from "../cache_files.ts";
import type { RuntimeExport, RuntimeExports, SpecialHandlers } from "./interpreter.ts";
import { sumWords } from "./translator/unit.ts";

/** The interpreter before it is compiled. */
export interface InterpreterImage {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly runtime: RuntimeExports;
  readonly special: SpecialHandlers;
}

/** Where images are kept. */
export interface ImageFiles {
  readonly folder: string;
  /** What made them. */
  readonly version: string;
}

const MAGIC = 0x49637476;
const HEAD_WORDS = 5;
const MAX_BYTES = 16 << 20;
const PREFIX = "interpreter-";
/** Files that are kept: some sizes of guests, of two versions. */
const KEEP = 8;
const TWO_32 = 0x1_0000_0000;

/** The image for `key`, from its file or made by `emit` and kept there. */
export function imageFor(
  key: string,
  emit: () => InterpreterImage,
  files: ImageFiles,
): InterpreterImage {
  const { folder, version } = files;
  const name = `${PREFIX}${version}-${key.replaceAll(" ", "-")}`;
  const file = readOwnFile(join(folder, name), MAX_BYTES);
  const known = file === undefined ? undefined : decodeImage(file);
  if (known !== undefined) return known;
  const image = emit();
  if (replaceFile(folder, name, encodeImage(image))) {
    removeOldFiles(folder, { prefix: PREFIX, keep: KEEP });
  }
  return image;
}

/** Which of the interpreters. */
export interface InterpreterKind {
  /** For a processor among several. */
  readonly smp: boolean;
  /** For state memory that holds RAM, too. */
  readonly holdsRam: boolean;
}

/** Name of the part that is the image. */
export function imagePart({ smp, holdsRam }: InterpreterKind): string {
  return `image-${smp ? "smp" : "1"}${holdsRam ? "-ram" : ""}`;
}

/** The image that the executable brings along; undefined where the program is not built. */
export function embeddedImage(kind: InterpreterKind): InterpreterImage | undefined {
  const bytes = embeddedPart(imagePart(kind));
  return bytes === undefined ? undefined : decodeImage(bytes);
}

type Sized = readonly (readonly [number, RuntimeExport])[];

/** {@link RuntimeExports} as JSON has it. */
interface PlainRuntime {
  readonly loadSlow: Sized;
  readonly storeSlow: Sized;
  readonly modifySlow: Sized;
  readonly probeWrite: RuntimeExport;
  readonly jump: RuntimeExport;
  readonly raise: RuntimeExport;
  readonly ram: number;
  readonly smp: boolean;
  readonly helpers: readonly (readonly [string, RuntimeExport])[];
}

/** The bytes of a file: magic, sum (2 words), length of the description, length of the module, both. */
export function encodeImage(image: InterpreterImage): Uint8Array<ArrayBuffer> {
  const { loadSlow, storeSlow, modifySlow, helpers, ...rest } = image.runtime;
  const runtime: PlainRuntime = {
    ...rest,
    loadSlow: [...loadSlow],
    storeSlow: [...storeSlow],
    modifySlow: [...modifySlow],
    helpers: [...helpers],
  };
  const text = new TextEncoder().encode(JSON.stringify({ runtime, special: image.special }));
  const textWords = Math.ceil(text.length / 4);
  const words = new Uint32Array(HEAD_WORDS + textWords + Math.ceil(image.bytes.length / 4));
  const bytes = new Uint8Array(words.buffer);
  bytes.set(text, 4 * HEAD_WORDS);
  bytes.set(image.bytes, 4 * (HEAD_WORDS + textWords));
  words[3] = text.length;
  words[4] = image.bytes.length;
  const sum = sumWords(words, 3, words.length - 3);
  words[0] = MAGIC;
  words[1] = sum % TWO_32;
  words[2] = Math.floor(sum / TWO_32);
  return bytes;
}

/** What {@link encodeImage} made; undefined where it is anything else. */
export function decodeImage(file: Uint8Array<ArrayBuffer>): InterpreterImage | undefined {
  if (file.length < 4 * HEAD_WORDS || file.length % 4 !== 0) return undefined;
  const words = new Uint32Array(file.buffer, file.byteOffset, file.length / 4);
  const get = (at: number) => words[at] ?? 0;
  const sum = sumWords(words, 3, words.length - 3);
  if (get(0) !== MAGIC || get(1) + get(2) * TWO_32 !== sum) return undefined;
  const text = file.subarray(4 * HEAD_WORDS, 4 * HEAD_WORDS + get(3));
  const start = 4 * (HEAD_WORDS + Math.ceil(get(3) / 4));
  if (start + get(4) > file.length) return undefined;
  // The sum says that this is what was written.
  const { runtime, special } = JSON.parse(new TextDecoder().decode(text)) as {
    runtime: PlainRuntime;
    special: SpecialHandlers;
  };
  return {
    bytes: file.subarray(start, start + get(4)),
    special,
    runtime: {
      ...runtime,
      loadSlow: new Map(runtime.loadSlow),
      storeSlow: new Map(runtime.storeSlow),
      modifySlow: new Map(runtime.modifySlow),
      helpers: new Map(runtime.helpers),
    },
  };
}
