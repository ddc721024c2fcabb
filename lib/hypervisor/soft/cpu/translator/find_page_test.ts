import assert from "node:assert/strict";
import { GuestMemory } from "../../../../memory/mod.ts";
import { findPage } from "./find_page.ts";

const MIB = 1 << 20;

/** Tables at 0x1000: where an address leads, as what the processor would say. */
Deno.test("pages of each size are found, near and far, and none where there is none", () => {
  using memory = GuestMemory.create({ sizeBytes: 16 * MIB, backing: "wasm" });
  const words = new Int32Array(memory.wasmMemory?.buffer as ArrayBuffer);
  const set = (table: number, index: number, entry: bigint) =>
    memory.writeU64(table + 8 * index, entry);
  // 0xffff_8000_0000_0000 and what follows: a page, a hole; then 2 MiB; then 1 GiB at 0; then high RAM.
  set(0x1000, 256, 0x8000_0000_0000_2003n);
  set(0x2000, 0, 0x3003n);
  set(0x2000, 1, 0x83n);
  set(0x2000, 2, 0x4003n);
  set(0x3000, 0, 0x5003n);
  set(0x3000, 1, 0xa0_0083n);
  set(0x5000, 0, 0x8000_0000_0067_8003n);
  set(0x5000, 1, 0x1234_5002n);
  set(0x5000, 2, 0x9000_0003n);
  set(0x4000, 0, 0x1_0000_0083n);
  const ram = { words, lowBytes: 16 * MIB, highBytes: 2 * MIB };
  const find = (offset: number) =>
    findPage(ram, { root: 0x1018, low: offset | 0, high: 0xffff_8000 | 0 });
  assert.equal(find(0x000), 0x678);
  assert.equal(find(0x1000), undefined);
  assert.equal(find(0x2000), undefined);
  assert.equal(find(0x20_0000), 0xa00);
  assert.equal(find(0x3f_f000), 0xbff);
  assert.equal(find(0x40_0000), undefined);
  assert.equal(find(0x4012_3000), 0x123);
  // Behind RAM.
  assert.equal(find(0x7000_0000), undefined);
  // RAM at 4 GiB lies behind the other.
  assert.equal(find(0x8000_1000), 0x1001);
  assert.equal(findPage(ram, { root: 0x1018, low: 0, high: 0 }), undefined);
  assert.equal(findPage(ram, { root: 0x7fff_f000, low: 0, high: 0 }), undefined);
});
