/**
 * What block devices offer beyond files (linux/fs.h).
 *
 * @module
 */

import type { FdLike } from "./fd.ts";
import { ioctl } from "./ioctl.ts";

const BLKSSZGET = 0x1268;
const BLKDISCARD = 0x1277;
const BLKZEROOUT = 0x127f;
const BLKGETSIZE64 = 0x8008_1272;

/** Bytes of a block device. */
export function blockDeviceSize(fd: FdLike): number {
  const size = new BigUint64Array(new ArrayBuffer(8));
  ioctl(fd, BLKGETSIZE64, size, "BLKGETSIZE64");
  return Number(size[0]);
}

/** Bytes of a block device's logical sector, the unit of direct access. */
export function blockSectorSize(fd: FdLike): number {
  // Safe: the kernel writes an int; the request does not say its size.
  const size = new Int32Array(new ArrayBuffer(4));
  ioctl(fd, BLKSSZGET, size, "BLKSSZGET");
  return size[0] ?? 512;
}

/** Tells the device that a range is not needed any more; what it reads as is the device's affair. */
export function blockDiscard(fd: FdLike, offset: number, lengthBytes: number): void {
  // Safe: the kernel reads two 64-bit numbers; the request does not say its size.
  ioctl(fd, BLKDISCARD, range(offset, lengthBytes), "BLKDISCARD");
}

/** Makes a range read as zeros, by the device's own means where it has them. */
export function blockZeroOut(fd: FdLike, offset: number, lengthBytes: number): void {
  // Safe: as above.
  ioctl(fd, BLKZEROOUT, range(offset, lengthBytes), "BLKZEROOUT");
}

function range(offset: number, lengthBytes: number): BigUint64Array<ArrayBuffer> {
  const words = new BigUint64Array(new ArrayBuffer(16));
  words[0] = BigInt(offset);
  words[1] = BigInt(lengthBytes);
  return words;
}
