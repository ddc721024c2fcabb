/**
 * The header of a bzImage (Documentation/arch/x86/boot.rst, protocol 2.12 and later).
 *
 * @module
 */

import { hex } from "../base/mod.ts";
import { BootError } from "./errors.ts";

/** Where the setup header lies, in the file and in the boot parameters alike. */
export const SETUP_HEADER_OFFSET = 0x1f1;
/** End of the boot parameters' room for the setup header. */
const SETUP_HEADER_LIMIT = 0x290;
/** Oldest protocol with `xloadflags`. */
const OLDEST_PROTOCOL = 0x020c;
const SECTOR_BYTES = 512;
const BOOT_FLAG = 0xaa55;
const HEADER_MAGIC = 0x53726448; // "HdrS"
const LOADED_HIGH = 1;
const XLF_KERNEL_64 = 1;
/** The setup code is 64 sectors at most, by its one-byte count a little more. */
const SMALLEST_HEADER_BYTES = 0x268;

/** What the header of a bzImage says. */
export interface BzImage {
  /** The setup header's own bytes, to be copied into the boot parameters. */
  readonly setupHeader: Uint8Array;
  /** The protected-mode part, which unpacks itself at its 64-bit entry. */
  readonly protectedMode: Uint8Array;
  /** The packed vmlinux inside, empty when the header does not say where it is. */
  readonly payload: Uint8Array;
  /** Where the kernel wants to be. */
  readonly preferredAddress: number;
  /** Memory that it needs from there until it has read the memory map, in bytes. */
  readonly initBytes: number;
  /** Highest address that a byte of the initrd may have. */
  readonly initrdMaxAddress: number;
  /** Longest command line in bytes, without the NUL. */
  readonly cmdlineMaxBytes: number;
}

/** Whether `bytes` carry the magic numbers of a Linux boot sector, whatever else they hold. */
export function isBzImage(bytes: Uint8Array): boolean {
  if (bytes.length < SMALLEST_HEADER_BYTES) return false;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return view.getUint16(0x1fe, true) === BOOT_FLAG && view.getUint32(0x202, true) === HEADER_MAGIC;
}

/**
 * Parses the header of a bzImage for which {@link isBzImage} holds.
 * @throws {BootError} when it is too old, of 32 bits, truncated or inconsistent.
 */
export function parseBzImage(bytes: Uint8Array, name: string): BzImage {
  const fail = (text: string) => new BootError(`${name}: ${text}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = view.getUint16(0x206, true);
  if (version < OLDEST_PROTOCOL) {
    throw fail(
      `expected boot protocol ${protocol(OLDEST_PROTOCOL)} or later, found ${protocol(version)}`,
    );
  }
  if ((view.getUint16(0x236, true) & XLF_KERNEL_64) === 0) {
    throw fail("expected a 64-bit x86 kernel, found a bzImage without a 64-bit entry (i386)");
  }
  if ((view.getUint8(0x211) & LOADED_HIGH) === 0) {
    throw fail("expected a kernel that loads high (bzImage), found one that loads low (zImage)");
  }
  const headerEnd = 0x202 + view.getUint8(0x201);
  if (headerEnd < SMALLEST_HEADER_BYTES - 4 || headerEnd > SETUP_HEADER_LIMIT) {
    throw fail(
      `expected a setup header ending before ${hex(SETUP_HEADER_LIMIT)}, found ${hex(headerEnd)}`,
    );
  }
  const setupSectors = view.getUint8(0x1f1) || 4; // 0 means 4, for ancient times' sake
  const setupBytes = (setupSectors + 1) * SECTOR_BYTES;
  const protectedBytes = view.getUint32(0x1f4, true) * 16;
  if (protectedBytes === 0 || setupBytes + protectedBytes > bytes.length) {
    throw fail(
      `expected ${setupBytes + protectedBytes} bytes by its header, ` +
        `found ${bytes.length}: the file is truncated`,
    );
  }
  const protectedMode = bytes.subarray(setupBytes, setupBytes + protectedBytes);
  const payloadOffset = view.getUint32(0x248, true);
  const payloadBytes = view.getUint32(0x24c, true);
  if (payloadOffset + payloadBytes > protectedBytes) {
    throw fail(
      `expected its payload within ${protectedBytes} bytes of kernel, ` +
        `found it at ${payloadOffset} with ${payloadBytes} bytes`,
    );
  }
  const preferredAddress = view.getBigUint64(0x258, true);
  if (preferredAddress > 2n ** 52n) {
    throw fail(`expected a physical preferred address, found ${hex(preferredAddress)}`);
  }
  return {
    setupHeader: bytes.subarray(SETUP_HEADER_OFFSET, headerEnd),
    protectedMode,
    payload: protectedMode.subarray(payloadOffset, payloadOffset + payloadBytes),
    preferredAddress: Number(preferredAddress),
    initBytes: Math.max(view.getUint32(0x260, true), protectedBytes),
    initrdMaxAddress: view.getUint32(0x22c, true),
    cmdlineMaxBytes: view.getUint32(0x238, true),
  };
}

function protocol(version: number): string {
  return `${version >> 8}.${(version & 0xff).toString().padStart(2, "0")}`;
}
