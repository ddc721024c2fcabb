/**
 * Serves a device from the calling thread: one front end, or one after another.
 *
 * @module
 */

import { describeError, log } from "../../base/mod.ts";
import {
  collectYoungGarbage,
  type Fd,
  type FdLike,
  microsBetween,
  monotonicMicros32,
  monotonicNs,
  poll,
  PollEvent,
  releaseFreeMemory,
  setNonblocking,
  type UnixListener,
  UnixSocket,
} from "../../host/mod.ts";
import { VhostUserBackend, VhostUserError } from "../../virtio/mod.ts";
import { DeviceControlServer } from "../control/device_end.ts";
import type { ServableDevice } from "./device_kind.ts";

/** Where front ends come from. */
export type FrontEnds =
  /** Those that connect here, one after another. */
  | { readonly listener: UnixListener }
  /** One that is connected: a stream socket, taken over. */
  | { readonly socket: Fd };

/** Settings of {@link serveDevice}. */
export interface ServeOptions {
  readonly frontEnds: FrontEnds;
  /** The device's end of its control channel, taken over: SOCK_SEQPACKET. Its end is the device's. */
  readonly control?: Fd | undefined;
  /** Ends the device once it is readable. */
  readonly stop?: FdLike | undefined;
}

/** How long there is nothing to do before memory is given back. */
const IDLE_MS = 500;
/** Turns without a rest after which it is looked whether that is due all the same. */
const BUSY_TURNS = 256;
/** How often it is done without a rest: what optimizing took, and young garbage, lie there until then. */
const BUSY_NS = 2e8;
/** Turns that are too few to be worth it. */
const TURNS_AT_REST = 16;

/** What a device listens to besides its front end. */
interface SideChannel {
  readonly fd: FdLike;
  /** Handles what is there; false ends the device. */
  receive(): boolean;
}

/**
 * Serves `device`, which stays the caller's, until the only front end has gone, the VMM has closed the
 * control channel, or `stop` is readable.
 *
 * @throws {VhostUserError} where the only front end breaks the rules; of several, the next may come.
 * @throws {DeviceControlError} where the VMM breaks the rules of the control channel.
 */
export function serveDevice(device: ServableDevice, options: ServeOptions): void {
  const { frontEnds, control, stop } = options;
  if (control !== undefined) setNonblocking(control, true);
  using server = control === undefined
    ? undefined
    : new DeviceControlServer(new UnixSocket(control), device);
  const sides: SideChannel[] = [];
  if (server !== undefined) sides.push(server);
  if (stop !== undefined) sides.push({ fd: stop, receive: () => false });
  const serveOne = (socket: UnixSocket) => serveFrontEnd(device, socket, sides);
  if ("socket" in frontEnds) {
    serveOne(new UnixSocket(frontEnds.socket));
    return;
  }
  for (;;) {
    const socket = nextFrontEnd(frontEnds.listener, sides);
    if (socket === undefined) return;
    try {
      if (!serveOne(socket)) return;
    } catch (error) {
      if (!(error instanceof VhostUserError)) throw error;
      log.error(`${device.name}: ${describeError(error)}`);
    }
  }
}

/** Waits for a front end; undefined where the device is ended instead. */
function nextFrontEnd(
  listener: UnixListener,
  sides: readonly SideChannel[],
): UnixSocket | undefined {
  for (;;) {
    const ready = poll([listener, ...sides].map(({ fd }) => ({ fd, events: PollEvent.In })));
    for (const [index, side] of sides.entries()) {
      if (ready[index + 1] !== 0 && !side.receive()) return undefined;
    }
    if (ready[0] === 0) continue;
    const socket = listener.accept();
    if (socket !== undefined) return socket;
  }
}

/** @returns false where a {@link SideChannel} ended it */
function serveFrontEnd(
  device: ServableDevice,
  socket: UnixSocket,
  sides: readonly SideChannel[],
): boolean {
  using backend = new VhostUserBackend(socket, device, { spinUs: device.spinUs ?? 0 });
  let goesOn = true;
  for (const side of sides) {
    backend.watch(side.fd, PollEvent.In, () => {
      if (!side.receive()) goesOn = false;
    });
  }
  // What starting and optimizing took is given back when there is time, or after much work.
  let released = monotonicNs();
  for (let turns = 0; goesOn;) {
    const wakes = turns > TURNS_AT_REST ? IDLE_MS : -1;
    const begin = wakes < 0 ? 0 : monotonicMicros32();
    if (!backend.turn(wakes)) break;
    if (++turns % BUSY_TURNS === 0) {
      const now = monotonicNs();
      if (now - released < BUSY_NS) continue;
      released = now;
      collectYoungGarbage();
      releaseFreeMemory();
    } else if (wakes >= 0 && microsBetween(begin, monotonicMicros32()) >= wakes * 1000) {
      releaseFreeMemory();
      turns = 0;
    }
  }
  return goesOn;
}
