/**
 * The virtio memory balloon.
 *
 * @module
 */

export { BalloonDevice, BalloonError, type BalloonSettings } from "./balloon_device.ts";
export { BALLOON_DEVICE, type BalloonOptions } from "./kind.ts";
