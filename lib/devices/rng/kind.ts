import type { DeviceKind } from "../frame/device_kind.ts";
import { QUEUE_COUNT, RngDevice } from "./rng_device.ts";

/** Sources of random bytes. They need nothing. */
export const RNG_DEVICE: DeviceKind<null> = {
  name: "rng",
  open: () => ({ settings: {}, fds: [], queueCount: QUEUE_COUNT, [Symbol.dispose]() {} }),
  make: () => new RngDevice(),
};
