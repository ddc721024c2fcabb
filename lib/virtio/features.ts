/**
 * Numbers of virtio 1.2 that all devices share.
 *
 * @module
 */

/** Feature bits that belong to no type of device (virtio 1.2, 6). */
export const Feature = {
  /** Chains may be in tables of their own. */
  RingIndirectDesc: 1n << 28n,
  /** Notifications are asked for by ring index. */
  RingEventIdx: 1n << 29n,
  /** A modern device. */
  Version1: 1n << 32n,
  /** Addresses go through an IOMMU. */
  AccessPlatform: 1n << 33n,
  /** The packed ring layout. */
  RingPacked: 1n << 34n,
  /** Chains are used in the order in which they came. */
  InOrder: 1n << 35n,
  /** Kicks carry data. */
  NotificationData: 1n << 38n,
  /** Queues can be reset one by one. */
  RingReset: 1n << 40n,
} as const;

/** Features that any {@link Virtqueue} serves. */
export const QUEUE_FEATURES: bigint = Feature.Version1 | Feature.RingIndirectDesc |
  Feature.RingEventIdx;

/** Bits of the device status (virtio 1.2, 2.1). */
export const DeviceStatus = {
  Acknowledge: 1,
  Driver: 2,
  DriverOk: 4,
  FeaturesOk: 8,
  NeedsReset: 64,
  Failed: 128,
} as const;

/** Types of devices (virtio 1.2, 5). */
export const DeviceType = {
  Net: 1,
  Block: 2,
  Console: 3,
  Entropy: 4,
  Balloon: 5,
  P9: 9,
  Gpu: 16,
  Input: 18,
  Vsock: 19,
  Fs: 26,
  Pmem: 27,
  Wayland: 63,
} as const;
