/**
 * Boot: kernels, initial RAM disks, boot parameters and firmware tables, and where the platform's
 * parts lie.
 *
 * @module
 */

export * from "./platform_layout.ts";
