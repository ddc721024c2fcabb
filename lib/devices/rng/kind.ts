import type { DeviceKind } from "../frame/device_kind.ts";
import { RngDevice } from "./rng_device.ts";

/** Sources of random bytes. They need nothing. */
export const RNG_DEVICE: DeviceKind<null> = {
  name: "rng",
  open: () => ({ settings: {}, fds: [], [Symbol.dispose]() {} }),
  make: () => new RngDevice(),
};
