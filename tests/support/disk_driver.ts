/**
 * A driver of a disk that a device process serves.
 *
 * @module
 */

import { MIB } from "../../lib/base/mod.ts";
import { Reactor } from "../../lib/host/mod.ts";
import { GuestMemory } from "../../lib/memory/mod.ts";
import { Feature, VhostUserFrontend } from "../../lib/virtio/mod.ts";
import { type BlockAnswer, BlockClient } from "../../lib/virtio/testing/block_client.ts";

/** A driver of a disk's first queue; at most 16 requests of at most 64 KiB at a time. */
export class DiskDriver implements Disposable {
  /** Resolves when the device is gone. */
  readonly closed: Promise<undefined>;
  /** The features of the disk. */
  readonly features: bigint;
  readonly #client: BlockClient;
  readonly #frontend: VhostUserFrontend;
  readonly #stack: DisposableStack;

  private constructor(parts: {
    closed: Promise<undefined>;
    client: BlockClient;
    frontend: VhostUserFrontend;
    stack: DisposableStack;
  }) {
    this.closed = parts.closed;
    this.features = parts.frontend.features;
    this.#client = parts.client;
    this.#frontend = parts.frontend;
    this.#stack = parts.stack;
  }

  /** Connects to the device at `socket` and starts it. */
  static async connect(socket: string): Promise<DiskDriver> {
    using stack = new DisposableStack();
    const reactor = stack.use(new Reactor());
    const memory = stack.use(GuestMemory.create({ sizeBytes: 8 * MIB, backing: "mmap" }));
    const { promise: closed, resolve } = Promise.withResolvers<undefined>();
    const frontend = stack.use(
      await VhostUserFrontend.connect({
        name: "disk",
        socket,
        reactor,
        onClose: () => resolve(undefined),
      }),
    );
    const features = frontend.features & ~Feature.RingEventIdx;
    const client = new BlockClient({ memory, reactor, features });
    await frontend.activate({ features, memory, queues: [client.queue] });
    stack.use(client.listen(frontend.queueEvents(0)));
    return new DiskDriver({ closed, client, frontend, stack: stack.move() });
  }

  /** Sends a request; undefined where the device has died. */
  async request(
    request: { type: number; sector: number; data?: Uint8Array; length?: number },
  ): Promise<BlockAnswer | undefined> {
    const answer = this.#client.submit(this.#frontend.queueEvents(0), request);
    return await Promise.race([answer, this.closed]);
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
  }
}
