/**
 * The virtio entropy device (virtio 1.2, 5.4): fills buffers with the host's random bytes.
 *
 * @module
 */

import { getrandom } from "../../host/mod.ts";
import { type DeviceContext, DeviceType, type VirtioDeviceBackend } from "../../virtio/mod.ts";

/** Most bytes that one buffer gets; a driver takes what it gets and asks again. */
export const MAX_REQUEST_BYTES = 64 * 1024;
const REQUEST_QUEUE = 0;
/** How many queues it has. */
export const QUEUE_COUNT = 1;

/** A source of random bytes for a guest. */
export class RngDevice implements VirtioDeviceBackend {
  readonly type: number = DeviceType.Entropy;
  readonly name = "rng";
  readonly features = 0n;
  readonly queueCount: number = QUEUE_COUNT;
  readonly maxQueueSize = 256;
  readonly config: Uint8Array = new Uint8Array(0);
  readonly #bytes = new Uint8Array(MAX_REQUEST_BYTES);
  #context: DeviceContext | undefined;

  activate(context: DeviceContext): void {
    this.#context = context;
  }

  process(): void {
    const queue = this.#context?.queue(REQUEST_QUEUE);
    if (queue === undefined) return;
    for (let chain; (chain = queue.pop()) !== undefined;) {
      const wanted = Math.min(chain.writable.lengthBytes, MAX_REQUEST_BYTES);
      const bytes = this.#bytes.subarray(0, wanted);
      getrandom(bytes);
      queue.push(chain.head, chain.writable.copyFrom(bytes));
    }
  }

  reset(): void {
    this.#context = undefined;
  }

  [Symbol.dispose](): void {}
}
