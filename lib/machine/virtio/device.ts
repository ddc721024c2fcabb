/**
 * What the machine needs to know of a virtio device. Every one is a vhost-user back end, and the machine
 * does not care where it runs: it takes a connected socket, however that came about.
 *
 * @module
 */

import type { UnixSocket } from "../../host/mod.ts";

/** A back end that has been reached. Disposing it waits until what was started for it has ended. */
export interface BackendLink extends AsyncDisposable {
  /** A connected stream, which the machine takes over; closing it ends the back end. */
  readonly socket: UnixSocket;
  /**
   * Resolves when the back end has ended, with the reason for the log, such as `killed by SIGSYS`. Absent
   * where only the socket tells.
   */
  readonly ended?: Promise<string>;
  /**
   * Whether it ended because it did what its jail forbids. Somebody may have taken it over then, and would
   * take its successor over, too.
   */
  readonly violated?: boolean;
}

/** A virtio device of a VM. */
export interface VirtioDevice {
  /** Who it is, for messages and the state, such as `block device vda`. */
  readonly name: string;
  /** Its type (of `DeviceType`). */
  readonly deviceType: number;
  /**
   * How many queues the guest may see; where absent, what the back end says, or what devices of the type
   * usually have.
   */
  readonly queueCount?: number | undefined;
  /**
   * Whether the guest may begin before the back end is there: it has exactly {@link queueCount} queues
   * and the configuration space of its type.
   */
  readonly isForeseen?: boolean;
  /**
   * Present where a guest boots without it, so that its back end is launched late: when the guest accesses
   * it, or this resolves, as somebody else wants it.
   */
  readonly wanted?: Promise<void> | undefined;
  /** Most descriptors of a queue, a power of two; 256 where absent. */
  readonly queueSize?: number;
  /**
   * Whether its queues may be packed ones, where its back end offers that: that is its own affair, or
   * `wanted` by the user, who is told where it does not. Never where absent.
   */
  readonly packedQueues?: "where-offered" | "wanted";
  /** Its number on the PCI bus; the first that is free where undefined. */
  readonly pciDevice?: number | undefined;
  /**
   * Starts the back end, or connects to one that is there. Several devices of a VM are launched before
   * any is waited for. Called again after the back end's death where devices are restarted.
   *
   * @param signal ends the attempt: the VM ends
   * @throws {VmctlError} where it cannot be reached.
   */
  launch(signal: AbortSignal): Promise<BackendLink>;
}
