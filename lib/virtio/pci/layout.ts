/**
 * Where things are in the one BAR of a virtio function and in its shared state, and the numbers of
 * virtio 1.2, 4.1, and PCI.
 *
 * @module
 */

/** Bytes of BAR 0. */
export const BAR_SIZE_BYTES = 0x8000;

/** Structures in BAR 0: each in a page of its own, and what the data path touches alone in its. */
export const BarOffset = {
  Common: 0x0000,
  Isr: 0x1000,
  Device: 0x2000,
  Notify: 0x3000,
  MsixTable: 0x4000,
  MsixPending: 0x5000,
  End: 0x6000,
} as const;

/** Bytes between two queues' notification addresses. */
export const NOTIFY_MULTIPLIER = 4;
/** Most queues of a device. */
export const MAX_QUEUES = 32;
/** Most bytes of configuration space, as in a vhost-user message. */
export const MAX_DEVICE_CONFIG_BYTES = 256;
/** No interrupt (virtio 1.2, 4.1.5.1.2). */
export const NO_VECTOR = 0xffff;

/** The common configuration structure (virtio 1.2, 4.1.4.3). */
export const Common = {
  DeviceFeatureSelect: 0x00,
  DeviceFeature: 0x04,
  DriverFeatureSelect: 0x08,
  DriverFeature: 0x0c,
  ConfigVector: 0x10,
  QueueCount: 0x12,
  DeviceStatus: 0x14,
  ConfigGeneration: 0x15,
  QueueSelect: 0x16,
  QueueSize: 0x18,
  QueueVector: 0x1a,
  QueueEnable: 0x1c,
  QueueNotifyOffset: 0x1e,
  QueueDescriptors: 0x20,
  QueueDriver: 0x28,
  QueueDevice: 0x30,
  QueueNotifyData: 0x38,
  QueueReset: 0x3a,
  Bytes: 0x3c,
} as const;

/** Offsets of the PCI configuration space. */
export const Pci = {
  Command: 0x04,
  Status: 0x06,
  Bar0: 0x10,
  MsixCap: 0x40,
  MsixControl: 0x42,
  CommonCap: 0x50,
  IsrCap: 0x60,
  DeviceCap: 0x70,
  NotifyCap: 0x80,
  AccessCap: 0x94,
  AccessBar: 0x98,
  AccessOffset: 0x9c,
  AccessLength: 0xa0,
  AccessData: 0xa4,
  AccessEnd: 0xa8,
  InterruptLine: 0x3c,
  InterruptPin: 0x3d,
  Bytes: 0x100,
} as const;

/** Bits of the command register. */
export const PciCommand = { Memory: 2, BusMaster: 4, NoInterrupt: 0x400 } as const;
/** Bits of the status register. */
export const PciStatus = { Interrupt: 8, Capabilities: 0x10 } as const;
/** Bits of the MSI-X message control register. */
export const MsixControl = { FunctionMask: 0x4000, Enable: 0x8000 } as const;
/** Bits of the ISR status (virtio 1.2, 4.1.4.5). */
export const Isr = { Queue: 1, Config: 2 } as const;

/** Words of the shared state before the queues. */
export const Word = {
  Lock: 0,
  /** The device status. */
  Status: 1,
  DeviceFeatureSelect: 2,
  DriverFeatureSelect: 3,
  DriverFeaturesLow: 4,
  DriverFeaturesHigh: 5,
  QueueSelect: 6,
  ConfigVector: 7,
  ConfigGeneration: 8,
  Isr: 9,
  /** Counts what the guest side wants of the host side. */
  Requests: 10,
  /** Counts what the host side has done. */
  Done: 11,
  /** Not 0 while a reset waits for the host side. */
  Resetting: 12,
  /** Not 0 while the back end is, or is about to be, active. */
  Active: 13,
  /** Bytes of the configuration space that the driver has written and the back end does not know. */
  DirtyFrom: 14,
  DirtyTo: 15,
  /** Page number of the BAR for which the ioeventfds are registered, 0 for none. */
  IoeventPage: 16,
  /** GSI that the event of configuration changes is bound to, 0 for none. */
  ConfigGsi: 17,
  /** Not 0 while the queues stand still because the function may not master the bus. */
  Halted: 18,
  /** Not 0 while the interrupt pin is asserted. */
  Asserted: 19,
  /** Features that the device offers, bits 0 to 31 and 32 to 63. */
  FeaturesLow: 20,
  FeaturesHigh: 21,
  /** One of {@link Settled}. */
  Settled: 22,
  Count: 23,
} as const;

/** How far a function's back end is. */
export const Settled = {
  /** It is not there, and nobody waits for it. */
  No: 0,
  /** It is there, or never will be. */
  Yes: 1,
  /** It is not there, and a vCPU waits for it. */
  Awaited: 2,
} as const;

/** Words of a queue. */
export const QueueWord = {
  Size: 0,
  Vector: 1,
  Enabled: 2,
  /** Not 0 while a reset of the queue waits for the host side. */
  Resetting: 3,
  /** Addresses, 64 bits each: descriptors, driver area, device area. */
  Addresses: 4,
  /** GSI that the call event is bound to, 0 for none. */
  Gsi: 10,
  /** Not 0 while the ioeventfd is registered. */
  Ioevent: 11,
  Count: 12,
} as const;

/** Words of a vector: its entry in the table, and the message that its GSI is routed to. */
export const VectorWord = {
  AddressLow: 0,
  AddressHigh: 1,
  Data: 2,
  Control: 3,
  RoutedLow: 4,
  RoutedHigh: 5,
  RoutedData: 6,
  Routed: 7,
  Count: 8,
} as const;
