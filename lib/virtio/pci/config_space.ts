/**
 * The PCI configuration space of a virtio function (virtio 1.2, 4.1.2 and 4.1.4; PCI Local Bus 3.0, 6).
 *
 * @module
 */

import { DeviceType } from "../features.ts";
import { BarOffset, Common, NOTIFY_MULTIPLIER, Pci, PciStatus } from "./layout.ts";

const VENDOR = 0x1af4;
const FIRST_MODERN_DEVICE = 0x1040;
const CAPABILITY_VENDOR = 0x09;
const CAPABILITY_MSIX = 0x11;

/** Types of virtio structures (virtio 1.2, 4.1.4). */
const Structure = { Common: 1, Notify: 2, Isr: 3, Device: 4, PciAccess: 5 } as const;

/** Class and subclass, by the type of the device; what is not here is unclassified. */
const CLASSES: Readonly<Record<number, number>> = {
  [DeviceType.Net]: 0x0200,
  [DeviceType.Block]: 0x0180,
  [DeviceType.Console]: 0x0780,
  [DeviceType.Gpu]: 0x0380,
  [DeviceType.Input]: 0x0980,
  [DeviceType.Fs]: 0x0180,
};
const UNCLASSIFIED = 0x00ff;

/**
 * Fields of the device's own configuration that the driver may write (virtio 1.2, 5), from where and how many
 * bytes, by the type of the device; of what is not here, all may be.
 */
const WRITABLE_FIELDS: Readonly<Record<number, readonly (readonly [number, number])[]>> = {
  [DeviceType.Net]: [],
  // writeback
  [DeviceType.Block]: [[32, 1]],
  // emerg_wr
  [DeviceType.Console]: [[8, 4]],
  [DeviceType.Entropy]: [],
  // actual, poison_val
  [DeviceType.Balloon]: [[4, 4], [12, 4]],
  [DeviceType.P9]: [],
  // events_clear
  [DeviceType.Gpu]: [[4, 4]],
  // select, subsel
  [DeviceType.Input]: [[0, 2]],
  [DeviceType.Vsock]: [],
  [DeviceType.Fs]: [],
  [DeviceType.Pmem]: [],
};

/** A byte for each of the device's own configuration: not 0 where the driver may write it. */
export function writableConfig(deviceType: number, configBytes: number): Uint8Array {
  const fields = WRITABLE_FIELDS[deviceType] ?? [[0, configBytes]];
  const mask = new Uint8Array(configBytes);
  for (const [start, length] of fields) mask.fill(1, start, start + length);
  return mask;
}

/** What the space depends on. */
export interface ConfigSpaceOptions {
  readonly deviceType: number;
  readonly queueCount: number;
  readonly vectorCount: number;
  /** Bytes of the device's own configuration; none has no structure for it. */
  readonly deviceConfigBytes: number;
}

/** Initial bytes, and which bits of them the guest may write; both without the BAR. */
export interface ConfigSpace {
  readonly config: Uint8Array;
  readonly writable: Uint8Array;
}

/** The configuration space of a modern virtio function. */
export function buildConfigSpace(options: ConfigSpaceOptions): ConfigSpace {
  const { deviceType, queueCount, vectorCount, deviceConfigBytes } = options;
  const config = new Uint8Array(Pci.Bytes);
  const writable = new Uint8Array(Pci.Bytes);
  const view = new DataView(config.buffer);
  view.setUint16(0x00, VENDOR, true);
  view.setUint16(0x02, FIRST_MODERN_DEVICE + deviceType, true);
  view.setUint16(Pci.Status, PciStatus.Capabilities, true);
  view.setUint8(0x08, 1); // Revision: not transitional.
  view.setUint16(0x0a, CLASSES[deviceType] ?? UNCLASSIFIED, true);
  view.setUint16(0x2c, VENDOR, true);
  view.setUint16(0x2e, FIRST_MODERN_DEVICE + deviceType, true);
  // The line is the guest's, to note what it is connected with.
  writable[Pci.InterruptLine] = 0xff;
  config[Pci.InterruptPin] = 1;
  writable[Pci.Command] = 0x06;
  writable[Pci.Command + 1] = 0x04;

  let link = 0x34;
  const capability = (at: number, id: number) => {
    view.setUint8(link, at);
    view.setUint8(at, id);
    link = at + 1;
  };
  capability(Pci.MsixCap, CAPABILITY_MSIX);
  view.setUint16(Pci.MsixControl, vectorCount - 1, true);
  writable[Pci.MsixControl + 1] = 0xc0;
  view.setUint32(Pci.MsixCap + 4, BarOffset.MsixTable, true);
  view.setUint32(Pci.MsixCap + 8, BarOffset.MsixPending, true);

  const structure = (at: number, type: number, place: { offset: number; bytes: number }) => {
    capability(at, CAPABILITY_VENDOR);
    view.setUint8(at + 2, 16);
    view.setUint8(at + 3, type);
    view.setUint32(at + 8, place.offset, true);
    view.setUint32(at + 12, place.bytes, true);
  };
  structure(Pci.CommonCap, Structure.Common, { offset: BarOffset.Common, bytes: Common.Bytes });
  structure(Pci.IsrCap, Structure.Isr, { offset: BarOffset.Isr, bytes: 1 });
  if (deviceConfigBytes > 0) {
    structure(Pci.DeviceCap, Structure.Device, {
      offset: BarOffset.Device,
      bytes: deviceConfigBytes,
    });
  }
  structure(Pci.NotifyCap, Structure.Notify, {
    offset: BarOffset.Notify,
    bytes: queueCount * NOTIFY_MULTIPLIER,
  });
  view.setUint8(Pci.NotifyCap + 2, 20);
  view.setUint32(Pci.NotifyCap + 16, NOTIFY_MULTIPLIER, true);
  structure(Pci.AccessCap, Structure.PciAccess, { offset: 0, bytes: 0 });
  view.setUint8(Pci.AccessCap + 2, 20);
  writable[Pci.AccessBar] = 0xff;
  writable.fill(0xff, Pci.AccessOffset, Pci.AccessEnd);
  return { config, writable };
}
