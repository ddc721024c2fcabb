/**
 * The virtio block device.
 *
 * @module
 */

export { BlockDevice, type BlockDeviceOptions } from "./block_device.ts";
export { BLOCK_DEVICE, type BlockOptions } from "./kind.ts";
