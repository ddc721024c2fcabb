/**
 * Devices of the virtual machine.
 *
 * @module
 */

export * from "./platform/mod.ts";
