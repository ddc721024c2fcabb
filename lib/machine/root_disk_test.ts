import assert from "node:assert/strict";
import { type BlockOptions, diskConfig } from "../config/mod.ts";
import { diskName, diskNames, rootParams } from "./root_disk.ts";

Deno.test("disks have Linux's names", () => {
  assert.deepEqual([0, 25, 26, 51, 52, 701, 702].map(diskName), [
    ...["vda", "vdz", "vdaa", "vdaz", "vdba", "vdzz", "vdaaa"],
  ]);
});

Deno.test("the kernel is told of the root disk, and whether it can be written", () => {
  const disks = (...all: BlockOptions[]) => ({
    disks: all.map((one) => diskConfig(one, assert.fail)!),
    vhostUser: [],
  });
  const placed = disks({ path: "/a", root: true, "pci-address": "00:07.0" }, { path: "/b" });
  assert.deepEqual(rootParams(placed), ["root=/dev/vdb", "rw"]);
  const vhostUser = [
    { type: "net", socket: "/n", maxQueueSize: undefined, packedQueues: false },
    { type: "block", socket: "/c", maxQueueSize: undefined, packedQueues: false },
  ] as const;
  assert.deepEqual(diskNames({ ...placed, vhostUser }), ["vdc", "vda"]);
  assert.deepEqual(rootParams(disks({ path: "/a" })), []);
  assert.deepEqual(rootParams(disks({ path: "/a", root: true })), ["root=/dev/vda", "rw"]);
  assert.deepEqual(rootParams(disks({ path: "/a" }, { path: "/b", root: true, ro: true })), [
    ...["root=/dev/vdb", "ro"],
  ]);
});
