/**
 * Requests that go on beside the device's thread, by io_uring: what would have to wait for the disk.
 *
 * @module
 */

import type { DiskTransfers } from "../../disk/mod.ts";
import { Errno, type IoUring, preadvNoWait } from "../../host/mod.ts";
import { RequestType } from "./protocol.ts";
import type { BlockRequest } from "./request.ts";

/** Transfers of requests to and from one file. */
export class RingTransfers implements Disposable {
  /** The ring. */
  readonly ring: IoUring;
  readonly #file: DiskTransfers;
  /** Writes under way. */
  #writes = 0;
  /** Whether the file tells what is in memory. */
  #tells = true;

  /** Takes `ring` over. */
  constructor(file: DiskTransfers, ring: IoUring) {
    this.ring = ring;
    this.#file = file;
  }

  /**
   * Takes a request over where its transfer is worth it.
   *
   * @param request prepared; its token is its number on the ring
   * @param writeThrough whether writes are to be durable before they are answered
   * @returns `done` where it was not even necessary, `pending`, or `refused`: for others to carry out
   * @throws {DiskError} where making things durable has failed before.
   */
  begin(request: BlockRequest, writeThrough: boolean): "done" | "pending" | "refused" {
    const { token, vector, offset } = request;
    const file = this.#file;
    switch (request.type) {
      case RequestType.In: {
        if (vector.count === 0 || !(this.#tells || file.direct)) return "refused";
        const at = file.locate(offset, vector, false);
        if (at < 0) return "refused";
        if (!file.direct) {
          const count = preadvNoWait(file.fd, vector, at);
          if (count === vector.lengthBytes) return "done";
          if (count === -Errno.EOPNOTSUPP) {
            // Mostly a file system in memory, where nothing has to wait.
            this.#tells = false;
            return "refused";
          }
        }
        this.ring.read(file.fd, vector, { offset: at, token });
        return "pending";
      }
      case RequestType.Out: {
        // The page cache takes writes at once. A file system that may have to wait for that lets one worker
        // of the kernel make those of a file, one by one, for up to twice the processor time.
        if (vector.count === 0 || writeThrough || !file.direct) return "refused";
        const at = file.locate(offset, vector, true);
        if (at < 0) return "refused";
        file.beginWrite();
        this.#writes++;
        this.ring.write(file.fd, vector, { offset: at, token });
        return "pending";
      }
      case RequestType.Flush:
        if (!file.syncs) return "refused";
        if (!file.beginSync()) return "done";
        this.ring.sync(file.fd, token);
        return "pending";
      default:
        return "refused";
    }
  }

  /** Whether a change that is not made here has to wait until nothing is under way. */
  get changesWait(): boolean {
    return this.#writes > 0 && this.#file.changesWait;
  }

  /**
   * What became of a request that was completed with `result`.
   *
   * @returns false where it is to be carried out anew, which shows what failed
   * @throws {DiskError} where making things durable, or a part of the disk, has failed.
   */
  finish(request: BlockRequest, result: number): boolean {
    if (request.type === RequestType.Flush) {
      this.#file.endSync(Math.max(0, -result));
      return true;
    }
    const isWhole = result === request.vector.lengthBytes;
    if (request.type === RequestType.Out) {
      this.#writes--;
      this.#file.endWrite(request.offset, isWhole);
    }
    return isWhole;
  }

  [Symbol.dispose](): void {
    this.ring[Symbol.dispose]();
  }
}
