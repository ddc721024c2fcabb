import assert from "node:assert/strict";
import { MIB } from "../../base/mod.ts";
import { GuestMemory } from "../../memory/mod.ts";
import { DeviceRig } from "../../virtio/testing/device_rig.ts";
import { MAX_REQUEST_BYTES, RngDevice } from "./rng_device.ts";

Deno.test("rng: fills buffers with random bytes, up to its bound, and nothing beyond them", () => {
  using memory = GuestMemory.create({ sizeBytes: 4 * MIB, backing: "mmap" });
  using device = new RngDevice();
  using rig = new DeviceRig(device, { memory, ringsAt: 3 * MIB });
  rig.send(0, [
    { address: 0x1000, length: 64, writable: true },
    { address: 0x2000, length: 64, writable: true },
  ]);
  assert.equal(rig.used(0), 128);
  assert(rig.notified.has(0));
  const zeros = new Uint8Array(64);
  assert.notDeepEqual(memory.read(0x1000, 64), zeros);
  assert.notDeepEqual(memory.read(0x2000, 64), zeros);
  assert.notDeepEqual(memory.read(0x1000, 64), memory.read(0x2000, 64));
  assert.deepEqual(memory.read(0x1040, 64), zeros);

  rig.send(0, [{ address: 0x10_0000, length: MIB, writable: true }]);
  assert.equal(rig.used(0), MAX_REQUEST_BYTES);
  assert.deepEqual(memory.read(0x10_0000 + MAX_REQUEST_BYTES, 64), zeros);
  // A request that has room for nothing gets nothing, and does no harm.
  rig.send(0, [{ address: 0x1000, length: 64 }]);
  assert.equal(rig.used(0), 0);
});
