/**
 * A queue as a device has it, whatever its rings look like.
 *
 * @module
 */

import type { DescriptorChain } from "./chain.ts";
import type { DeviceMemory } from "./device_memory.ts";
import type { QueueFault } from "./queue_fault.ts";

/** A queue from start to stop: split (virtio 1.2, 2.7) or packed (2.8). */
export interface DeviceQueue {
  /** Descriptors. */
  readonly size: number;
  /** What the driver did wrong, if it did: nothing comes out any more, and nothing goes in. */
  readonly fault: QueueFault | undefined;
  /** Where another queue over the same rings goes on, as vhost-user encodes it. */
  readonly base: number;
  /** Chains that the device holds. */
  readonly heldCount: number;
  /** Whether {@link pop} ended because the turn's share was used up. */
  readonly turnExhausted: boolean;
  /** Stops or lets on what comes out; chains that are held are pushed all the same. */
  setEnabled(on: boolean): void;
  /** For a device that looks for chains by itself: the driver need not kick. */
  setPolled(on: boolean): void;
  /** Lets {@link pop} give at most `chains` until {@link endTurn}, so that no queue starves another. */
  beginTurn(chains: number): void;
  /** Ends what {@link beginTurn} began. */
  endTurn(): void;
  /**
   * Goes on with other mappings of guest memory. Pieces of chains that are held are void: the device
   * has none in work.
   */
  setMemory(memory: DeviceMemory): void;
  /**
   * Takes the next chain. When there is none, the driver kicks for the next one.
   *
   * @param chain what to fill; the queue's own where absent, which the next call fills anew
   * @returns `chain`, or undefined where there is none (or the queue is broken or disabled)
   */
  pop(chain?: DescriptorChain): DescriptorChain | undefined;
  /**
   * Puts the chain that {@link pop} gave last back, as if it had not been taken.
   *
   * @throws {VirtioError} where it is not held.
   */
  unpop(head: number): void;
  /**
   * Gives a chain back to the driver.
   *
   * @param head the chain's
   * @param writtenBytes how much of its writable pieces was written, from their begin on
   * @throws {VirtioError} where it is not held.
   */
  push(head: number, writtenBytes: number): void;
  /**
   * Whether the driver wants to be notified of what was pushed since the last time that this was asked;
   * if so, the caller notifies it.
   */
  needsNotification(): boolean;
}
