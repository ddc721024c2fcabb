/**
 * Helpers for tests of disk images: QEMU's tools as the peer, and a disk in memory as the model.
 *
 * @module
 */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { IoVector, MemorySpan } from "../../lib/host/mod.ts";
import type { DiskImage } from "../../lib/disk/mod.ts";

/** Whether QEMU's tools are there. */
export const HAS_QEMU_IMG = hasProgram("qemu-img") && hasProgram("qemu-io");

function hasProgram(name: string): boolean {
  try {
    return new Deno.Command(name, { args: ["--version"], stdout: "null", stderr: "null" })
      .outputSync().success;
  } catch {
    return false;
  }
}

function folderExists(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}

/** A folder that is removed when disposed. */
export class TemporaryFolder implements Disposable {
  readonly path: string;

  /** In memory where that is asked for and possible: nothing waits for a disk then. */
  constructor(options: { readonly inMemory?: boolean } = {}) {
    const memory = "/dev/shm";
    const isThere = options.inMemory === true && folderExists(memory);
    this.path = Deno.makeTempDirSync({
      prefix: "vmctl-disk-",
      ...(isThere ? { dir: memory } : {}),
    });
  }

  /** A path in it. */
  file(name: string): string {
    return `${this.path}/${name}`;
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

/** Runs a program; its output, standard error included, and its status. */
export function run(program: string, ...args: string[]): { code: number; text: string } {
  const { code, stdout, stderr } = new Deno.Command(program, { args }).outputSync();
  const decoder = new TextDecoder();
  return { code, text: decoder.decode(stdout) + decoder.decode(stderr) };
}

/** Runs `qemu-img`, which must succeed. */
export function qemuImg(...args: string[]): string {
  const { code, text } = run("qemu-img", ...args);
  assert.equal(code, 0, `qemu-img ${args.join(" ")}: ${text}`);
  return text;
}

/** Runs `qemu-io` with commands, which must succeed. */
export function qemuIo(image: string, commands: readonly string[], ...options: string[]): string {
  const args = [...options, ...commands.flatMap((command) => ["-c", command]), image];
  const { code, text } = run("qemu-io", ...args);
  assert.equal(code, 0, `qemu-io ${args.join(" ")}: ${text}`);
  return text;
}

/** What `qemu-img check` says of damage and leaks. */
export function qemuCheck(image: string): { corruptions: number; leaks: number; text: string } {
  const { code, text } = run("qemu-img", "check", "--output=json", "-f", "qcow2", image);
  if (code !== 0 && code !== 2 && code !== 3) return { corruptions: 1, leaks: 0, text };
  const json = JSON.parse(text.slice(text.indexOf("{"), text.lastIndexOf("}") + 1)) as {
    corruptions?: number;
    leaks?: number;
    "check-errors"?: number;
  };
  return {
    corruptions: (json.corruptions ?? 0) + (json["check-errors"] ?? 0),
    leaks: json.leaks ?? 0,
    text,
  };
}

/** Asserts that an image has neither damage nor leaks. */
export function assertClean(image: string, hint = ""): void {
  const { corruptions, leaks, text } = qemuCheck(image);
  assert.equal(corruptions + leaks, 0, `${hint} ${text}`);
}

/** A generator of pseudo-random numbers (xorshift), for runs that can be repeated. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = (seed * 2654435761 + 88172645) >>> 0 || 1;
  }

  /** A number from 0 to `below - 1`. */
  next(below: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return Math.floor(this.#state / 2 ** 32 * below);
  }

  /** Bytes that compress not at all, or, in one of four cases, well. */
  bytes(length: number): Uint8Array<ArrayBuffer> {
    const result = new Uint8Array(length);
    const start = this.next(256);
    if (this.next(4) === 0) return result.fill(start);
    for (let at = 0; at < length; at++) result[at] = at % 64 === 0 ? this.next(256) : at + start;
    return result;
  }
}

/** A vector of up to `most` pieces over a copy of `bytes`, cut at random. */
export function cutVector(bytes: Uint8Array, random: Random, most = 5): IoVector {
  const span = new MemorySpan(bytes);
  const vector = new IoVector(most);
  let at = 0;
  for (let left = most; left > 1 && at < bytes.length; left--) {
    const take = random.next(bytes.length - at + 1);
    vector.push(span, at, take);
    at += take;
  }
  vector.push(span, at, bytes.length - at);
  return vector;
}

/** All bytes of a disk, read by us. */
export function readAll(image: DiskImage): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(image.sizeBytes);
  const step = 3 * 2 ** 20 + 512;
  for (let at = 0; at < bytes.length; at += step) {
    image.readAt(at, IoVector.of(bytes.subarray(at, Math.min(at + step, bytes.length))));
  }
  return bytes;
}

/** Where two byte strings differ first; undefined when they are equal. */
export function firstDifference(a: Uint8Array, b: Uint8Array): number | undefined {
  if (a.length !== b.length) return Math.min(a.length, b.length);
  if (Buffer.compare(a, b) === 0) return undefined;
  return a.findIndex((byte, at) => byte !== b[at]);
}

/** What happens to a disk in {@link randomOperation}. */
export interface ModelOptions {
  /** Longest operation in bytes. */
  readonly longestBytes: number;
  /** Unit of offsets and lengths; 512 unless stated. */
  readonly unitBytes?: number;
  readonly discard?: boolean;
}

/** Does one random thing to the image and to the model, whose bytes the image must equal afterwards. */
export function randomOperation(
  image: DiskImage,
  model: Uint8Array<ArrayBuffer>,
  random: Random,
  options: ModelOptions,
): string {
  const unit = options.unitBytes ?? 512;
  const units = Math.floor(model.length / unit);
  const start = random.next(units) * unit;
  const most = Math.min(Math.ceil(options.longestBytes / unit), (model.length - start) / unit);
  const length = Math.max(unit, (1 + random.next(random.next(2) === 0 ? most : 8)) * unit);
  const end = Math.min(start + length, model.length);
  const what = random.next(16);
  if (what < 9) {
    const bytes = random.bytes(end - start);
    model.set(bytes, start);
    image.writeAt(start, cutVector(bytes, random));
    return `write ${start} ${end - start}`;
  }
  if (what < 11) {
    const unmap = random.next(2) === 0;
    model.fill(0, start, end);
    image.writeZeroes(start, end - start, { unmap });
    return `zero ${start} ${end - start} ${unmap}`;
  }
  if (what < 12 && options.discard !== false) {
    image.discard(start, end - start);
    // It may read as anything the model does not foretell: ask.
    image.readAt(start, IoVector.of(model.subarray(start, end)));
    return `discard ${start} ${end - start}`;
  }
  if (what < 13) {
    image.flush();
    return "flush";
  }
  const bytes = new Uint8Array(end - start);
  image.readAt(start, cutVector(bytes, random));
  const at = firstDifference(bytes, model.subarray(start, end));
  assert.equal(at, undefined, `read of ${end - start} bytes at ${start} differs at ${at}`);
  return `read ${start} ${end - start}`;
}
