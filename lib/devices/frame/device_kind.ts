/**
 * What a kind of virtio device is to whoever starts one: two steps, so that the process that serves the
 * device opens nothing.
 *
 * @module
 */

import type { Fd } from "../../host/mod.ts";
import type { VirtioDeviceBackend } from "../../virtio/mod.ts";
import type { ControllableDevice } from "../control/device_end.ts";

/** What JSON can hold. */
export type Json = null | boolean | number | string | readonly Json[] | {
  readonly [key: string]: Json | undefined;
};

/**
 * A device with everything open that it needs: what goes to the process that serves it. Disposing closes
 * the descriptors.
 */
export interface OpenedDevice extends Disposable {
  /** How the device is to be. */
  readonly settings: Json;
  /** Its descriptors, in an order that the kind knows. */
  readonly fds: readonly Fd[];
  /** How many queues it has. */
  readonly queueCount: number;
}

/** A device that can be served, and may be told things while it is. */
export interface ServableDevice extends VirtioDeviceBackend, ControllableDevice, Disposable {
  /** How long it is worth it to look for more work before the thread sleeps, in us; not at all where absent. */
  readonly spinUs?: number;
}

/** What {@link DeviceKind.prepare} made, for {@link DeviceKind.make}. */
export type PreparedDevice = Disposable;

/** A kind of device. */
export interface DeviceKind<Options = never> {
  /** Such as `block`. */
  readonly name: string;
  /**
   * Opens files and makes what else the device needs, where that is allowed: in the VMM, or in a device
   * program that stands alone. Relative paths are relative to the working directory.
   */
  open(options: Options): OpenedDevice;
  /**
   * Makes what needs system calls that a serving device may not make any more, before it is confined.
   * It must not look at anything that a guest can have written.
   *
   * @param fds numbers of the descriptors that {@link make} gets, whose they stay
   */
  prepare?(settings: unknown, fds: readonly number[]): PreparedDevice;
  /**
   * Makes the device of what {@link open} gave, here or in another process. It takes the descriptors
   * and what was prepared over, also when it throws, and opens nothing itself. What was not prepared is
   * prepared here.
   */
  make(settings: unknown, fds: readonly Fd[], prepared?: PreparedDevice): ServableDevice;
}
