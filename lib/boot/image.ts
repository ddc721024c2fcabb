import { describeError, formatSize } from "../base/mod.ts";
import { openFile, preadAside } from "../host/mod.ts";
import { BootError } from "./errors.ts";
import { UnpackRoom } from "./unpack_room.ts";

/** A file to boot from: its path, or its bytes with a name for messages. */
export type BootImage = string | { readonly name: string; readonly data: Uint8Array };

const CHUNK_BYTES = 1024 * 1024;

/**
 * An open image, read from its start. What {@link ImageReader.readAll} gives is valid until the reader
 * is disposed: a kernel's file is of no use once it is loaded, and is given back at once, not when the
 * garbage collector comes.
 */
export class ImageReader implements Disposable {
  /** For messages. */
  readonly name: string;
  readonly #data: Uint8Array | undefined;
  readonly #file: Deno.FsFile | undefined;
  readonly #stats: Deno.FileInfo | undefined;
  #position = 0;
  #room: UnpackRoom | undefined;

  /**
   * Opens `image`.
   * @throws {BootError} when there is no such file, or it is a folder or device.
   */
  constructor(image: BootImage) {
    if (typeof image !== "string") {
      this.name = image.name;
      this.#data = image.data;
      return;
    }
    this.name = image;
    try {
      this.#file = Deno.openSync(image);
      this.#stats = this.#file.statSync();
    } catch (cause) {
      throw new BootError(`${image}: cannot open: ${describeError(cause)}`, { cause });
    }
    if (!this.#stats.isFile && this.#stats.isFifo !== true) {
      this[Symbol.dispose]();
      throw new BootError(`${image}: expected a regular file, found ${kindOf(this.#stats)}`);
    }
  }

  /** Where {@link readAll} read a large file to. */
  get room(): UnpackRoom | undefined {
    return this.#room;
  }

  /** Size in bytes, undefined where only reading tells (a pipe). */
  get size(): number | undefined {
    if (this.#data) return this.#data.length;
    return this.#stats?.isFile ? this.#stats.size : undefined;
  }

  /**
   * Reads everything.
   * @throws {BootError} when there is more than `maxBytes` of it.
   */
  readAll(maxBytes: number): Uint8Array {
    if (this.#data && this.#data.length <= maxBytes) return this.#data;
    this.#check(this.size ?? 0, maxBytes);
    const size = this.size;
    let all = this.#allocate(size ?? CHUNK_BYTES);
    let length = 0;
    for (;;) {
      if (length === all.length) {
        if (size !== undefined) return all;
        this.#check(length * 2, maxBytes);
        const larger = new Uint8Array(length * 2);
        larger.set(all);
        all = larger;
      }
      const count = this.read(all.subarray(length));
      if (count === 0) return all.subarray(0, length);
      length += count;
    }
  }

  /**
   * As {@link readAll}, before anything else was read; where it takes a while, this thread does other things
   * meanwhile.
   */
  async readAllAside(maxBytes: number): Promise<Uint8Array> {
    const { size } = this;
    if (this.#data || size === undefined || size < CHUNK_BYTES || size > maxBytes) {
      return this.readAll(maxBytes);
    }
    const room = this.#room = new UnpackRoom(size);
    try {
      using fd = openFile(this.name);
      let done = 0;
      while (done < size) {
        const rest = { address: room.addressOf(done), length: size - done };
        const count = await preadAside(fd, rest, done);
        if (count < 0) break;
        if (count === 0) return room.packed.subarray(0, done);
        done += count;
      }
      if (done === size) return room.packed;
    } catch {
      // Said below.
    }
    // What does not work is told by who reads as others do.
    return this.readAll(maxBytes);
  }

  /** Reads the next bytes into `target`; 0 at the end. */
  read(target: Uint8Array): number {
    if (this.#data) {
      const chunk = this.#data.subarray(this.#position, this.#position + target.length);
      target.set(chunk);
      this.#position += chunk.length;
      return chunk.length;
    }
    try {
      return this.#file?.readSync(target) ?? 0;
    } catch (cause) {
      throw new BootError(`${this.name}: cannot read: ${describeError(cause)}`, { cause });
    }
  }

  #allocate(size: number): Uint8Array<ArrayBuffer> {
    if (size < CHUNK_BYTES || this.size === undefined) return new Uint8Array(size);
    this.#room ??= new UnpackRoom(size);
    return this.#room.packed;
  }

  #check(size: number, maxBytes: number): void {
    if (size > maxBytes) {
      throw new BootError(
        `${this.name}: expected at most ${formatSize(maxBytes)}, found ${formatSize(size)} or more`,
      );
    }
  }

  [Symbol.dispose](): void {
    this.#room?.[Symbol.dispose]();
    this.#file?.close();
  }
}

function kindOf(stats: Deno.FileInfo): string {
  if (stats.isDirectory) return "a folder";
  if (stats.isSocket) return "a socket";
  return "a device";
}
