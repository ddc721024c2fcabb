/**
 * What a front end has for each queue, and what outlives the death of a back end.
 *
 * @module
 */

import { eventfd, type Fd } from "../../host/mod.ts";
import { clearRecord } from "./inflight_area.ts";
import type { InflightMessage } from "./message.ts";

/** The descriptors of one queue. They stay the same when the device is reset or its back end restarted. */
export class QueueEvents implements Disposable {
  /** Signalled by the driver's kicks: an ioeventfd. */
  readonly kick: Fd;
  /** Signalled by the device's interrupts: an irqfd. */
  readonly call: Fd;
  /** Signalled when the driver has broken the queue. */
  readonly error: Fd;

  constructor() {
    using stack = new DisposableStack();
    this.kick = stack.use(eventfd(0, { nonblock: true }));
    this.call = stack.use(eventfd(0, { nonblock: true }));
    this.error = stack.use(eventfd(0, { nonblock: true }));
    stack.move();
  }

  [Symbol.dispose](): void {
    this.kick.close();
    this.call.close();
    this.error.close();
  }
}

/** The record of what a back end holds, kept for its successor. */
export interface InflightRecord {
  readonly fd: Fd;
  readonly message: InflightMessage;
}

/** What is handed from the front end of a dead back end to that of its successor. */
export class FrontendState implements Disposable {
  readonly #events: QueueEvents[] = [];
  #inflight: InflightRecord | undefined;
  #disposed = false;

  /** Whether its descriptors are closed. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /** The descriptors of queue `index`, made at the first use. */
  events(index: number): QueueEvents {
    while (this.#events.length <= index) this.#events.push(new QueueEvents());
    return this.#events[index]!;
  }

  /** The record, if the back end keeps one. */
  get inflight(): InflightRecord | undefined {
    return this.#inflight;
  }

  /** Takes over a record, or forgets it. */
  setInflight(record: InflightRecord | undefined): void {
    if (this.#inflight?.fd !== record?.fd) this.#inflight?.fd.close();
    this.#inflight = record;
  }

  /**
   * Forgets what is recorded of queue `index`, which is stopped: its driver has taken all of it back.
   *
   * @throws {HostError} where the record cannot be written to.
   */
  clearRecord(index: number, layout: { readonly packed: boolean }): void {
    if (this.#inflight === undefined) return;
    clearRecord(this.#inflight.fd, this.#inflight.message, { index, ...layout });
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    for (const events of this.#events) events[Symbol.dispose]();
    this.setInflight(undefined);
  }
}
