/**
 * The virtio block device.
 *
 * @module
 */

export { BlockDevice, type BlockDeviceOptions } from "./block_device.ts";
export { BLOCK_DEVICE, type ServedDisk } from "./kind.ts";
