/**
 * The devices that every PC has.
 *
 * @module
 */

export { PCI_CONFIG_SIZE, PCI_DEVICE_COUNT, PciBus } from "./pci.ts";
export type { PciBar, PciFunction, PciHandler } from "./pci.ts";
export { Platform, type PlatformHandle, type PlatformOptions } from "./platform.ts";
export { SYSTEM_CONTROL_PORT } from "./ports.ts";
export { Uart, type UartEvent } from "./uart.ts";
export { type IrqLine, PlatformRequest, type PlatformWiring, type SerialSink } from "./wiring.ts";
export type { SharedEvent } from "./shared_event.ts";
