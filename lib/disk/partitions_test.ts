import assert from "node:assert/strict";
import { MIB } from "../base/mod.ts";
import { openDisk } from "./open.ts";
import { hasPartitions } from "./partitions.ts";

/** A first sector with entries of a status, a type, a first sector and a length. */
function firstSector(...entries: readonly (readonly [number, number, number, number])[]) {
  const sector = new Uint8Array(512);
  const view = new DataView(sector.buffer);
  view.setUint16(510, 0xaa55, true);
  entries.forEach(([status, type, begin, length], index) => {
    const at = 446 + 16 * index;
    view.setUint8(at, status);
    view.setUint8(at + 4, type);
    view.setUint32(at + 8, begin, true);
    view.setUint32(at + 12, length, true);
  });
  return sector;
}

Deno.test("partitions are told from file systems and from nothing", () => {
  const path = Deno.makeTempFileSync({ prefix: "vmctl-partitions-" });
  try {
    const check = (sector: Uint8Array, sizeBytes = MIB) => {
      Deno.writeFileSync(path, sector);
      Deno.truncateSync(path, sizeBytes);
      using image = openDisk(path, { format: "raw", readOnly: true });
      return hasPartitions(image);
    };
    const linux = [0x80, 0x83, 64, 1024] as const;
    assert.equal(check(firstSector(linux)), true);
    assert.equal(check(firstSector([0, 0, 0, 0], linux)), true);
    // What protects a GUID partition table, also of a disk of 4 KiB blocks that is larger than it can say.
    assert.equal(check(firstSector([0, 0xee, 1, 0xffff_ffff])), true);
    assert.equal(check(new Uint8Array(512)), false);
    assert.equal(check(firstSector()), false);
    assert.equal(check(new Uint8Array(100), 100), false);
    // Text of a boot loader where entries would be.
    assert.equal(check(firstSector(linux).fill(0x20, 446, 478)), false);
    assert.equal(check(firstSector([0, 0x83, 0, 1024])), false);
    assert.equal(check(firstSector([0, 0x83, 4096, 1024])), false);
    assert.equal(check(firstSector(linux).fill(0, 510)), false);
  } finally {
    Deno.removeSync(path);
  }
});
