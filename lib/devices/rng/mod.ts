/**
 * The virtio entropy device.
 *
 * @module
 */

export { RNG_DEVICE } from "./kind.ts";
export { MAX_REQUEST_BYTES, RngDevice } from "./rng_device.ts";
