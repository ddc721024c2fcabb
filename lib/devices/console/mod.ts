/**
 * The virtio console.
 *
 * @module
 */

export { ConsoleDevice, type TerminalSize } from "./console_device.ts";
export { CONSOLE_DEVICE, type ConsoleOptions, type ConsolePortOptions } from "./kind.ts";
export { MAX_PORTS } from "./protocol.ts";
