import type { DeviceKind } from "../frame/device_kind.ts";
import { BalloonDevice, type BalloonSettings, QUEUE_COUNT } from "./balloon_device.ts";

/** What can be said about a balloon. */
export type BalloonOptions = Partial<BalloonSettings>;

/** Balloons. They need nothing but guest memory. */
export const BALLOON_DEVICE: DeviceKind<BalloonOptions> = {
  name: "balloon",
  open: ({ deflateOnOom = true, pageReporting = false }) => ({
    settings: { deflateOnOom, pageReporting },
    fds: [],
    queueCount: QUEUE_COUNT,
    [Symbol.dispose]() {},
  }),
  make: (settings) => new BalloonDevice(settings as BalloonSettings),
};
