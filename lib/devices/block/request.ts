/**
 * A request under way. Made once, and filled anew for each that comes.
 *
 * @module
 */

import { IoVector } from "../../host/mod.ts";
import { DescriptorChain } from "../../virtio/mod.ts";
import { SEG_MAX } from "./config_space.ts";

/** A request, or room for one. */
export class BlockRequest {
  /** Its number among the device's. */
  readonly token: number;
  /** Where the driver put it. */
  readonly chain: DescriptorChain = new DescriptorChain();
  /** The pieces of its data. */
  readonly vector: IoVector;
  /** Queue that it came from. */
  queue = 0;
  /** Type (of `RequestType`). */
  type = 0;
  /** Where its data is on the disk, in bytes. */
  offset = 0;

  constructor(token: number) {
    this.token = token;
    // Linux counts no piece twice that lies in two areas of memory.
    this.vector = new IoVector(2 * SEG_MAX);
  }

  /** Bytes of the data that the device is to write. */
  get writableBytes(): number {
    return this.chain.writable.lengthBytes - 1;
  }
}
