/**
 * The kernel's command line.
 *
 * @module
 */

import { BootError } from "./errors.ts";

/**
 * What every guest gets in front of its own parameters:
 *
 * - `reboot=k`: restart by the keyboard controller, the shortest way to a reset; without it a kernel
 *   first tries ACPI's register, which works too.
 * - `panic=-1`: restart at once after a panic instead of hanging, so that the machine's exit status
 *   tells of it.
 *
 * Unlike virtual machines without firmware tables, there is no `noapic`, `acpi=off` or `pci=off`: the
 * tables say what is there.
 */
export const DEFAULT_KERNEL_PARAMS: readonly string[] = ["reboot=k", "panic=-1"];

/**
 * Joins the defaults, a console and the user's parameters; of contradicting ones a kernel takes the
 * last, which is the user's.
 * @param options.console the kernel's console device, such as `ttyS0`.
 */
export function buildCmdline(
  params: readonly string[],
  options: { readonly console?: string | undefined } = {},
): string {
  const console = options.console === undefined ? [] : [`console=${options.console}`];
  return [...DEFAULT_KERNEL_PARAMS, ...console, ...params].map((param) => param.trim())
    .filter((param) => param !== "").join(" ");
}

/**
 * Encodes a command line with its NUL.
 * @throws {BootError} when it is longer than `maxBytes` without the NUL, or holds anything but
 * printable ASCII.
 */
export function encodeCmdline(cmdline: string, maxBytes: number): Uint8Array {
  for (let index = 0; index < cmdline.length; index++) {
    const code = cmdline.charCodeAt(index);
    if (code < 0x20 || code > 0x7e) {
      throw new BootError(
        `kernel command line: expected printable ASCII, ` +
          `found ${JSON.stringify(cmdline[index])} at position ${index}`,
      );
    }
  }
  if (cmdline.length > maxBytes) {
    throw new BootError(
      `kernel command line: expected at most ${maxBytes} characters, found ${cmdline.length}`,
    );
  }
  const bytes = new Uint8Array(cmdline.length + 1);
  new TextEncoder().encodeInto(cmdline, bytes);
  return bytes;
}
