/**
 * Devices of the virtual machine.
 *
 * @module
 */

export * from "./frame/mod.ts";
export * from "./platform/mod.ts";
export * from "./control/mod.ts";
export type { ConsoleOptions, ConsolePortOptions, TerminalSize } from "./console/mod.ts";
export type { ServedDisk } from "./block/mod.ts";
export type { BalloonOptions } from "./balloon/mod.ts";
