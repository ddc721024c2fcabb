import assert from "node:assert/strict";
import { join } from "node:path";
import { MIB } from "../../base/mod.ts";
import { monotonicNs, Reactor, signalEvent } from "../../host/mod.ts";
import { GuestMemory } from "../../memory/mod.ts";
import { DeviceMemory } from "../device_memory.ts";
import { Feature } from "../features.ts";
import { BLOCK_HEADER_BYTES, BlockRequest } from "../testing/memory_block.ts";
import { MockDriver } from "../testing/mock_driver.ts";
import { TestProgram } from "../testing/programs.ts";
import { VhostUserFrontend } from "./frontend.ts";

Deno.test("busy poll: no request is lost, whenever it comes and whether a kick was wanted or not", async () => {
  const folder = await Deno.makeTempDir({ prefix: "vmctl-busy-poll-" });
  try {
    const socket = join(folder, "socket");
    await using _program = await TestProgram.start("block_backend", [socket, "--spin-us", "50"]);
    using reactor = new Reactor();
    using memory = GuestMemory.create({ sizeBytes: MIB, backing: "mmap" });
    using frontend = await VhostUserFrontend.connect({ name: "disk", socket, reactor });
    for (const eventIdx of [true, false]) {
      const features = frontend.features &
        (Feature.Version1 | (eventIdx ? Feature.RingEventIdx : 0n));
      const size = 8;
      const driver = new MockDriver(DeviceMemory.of(memory), { address: 0x1_0000, size, eventIdx });
      await frontend.activate({
        features,
        memory,
        queues: [{ index: 0, size, ...driver.addresses }],
      });
      const { kick } = frontend.queueEvents(0);
      driver.wantInterrupts(false);
      memory.writeU32(0, BlockRequest.Read);
      const head = driver.prepare([
        { address: 0, length: BLOCK_HEADER_BYTES },
        { address: 0x1000, length: 512, writable: true },
        { address: 0x2000, length: 1, writable: true },
      ]);
      for (let request = 0; request < 3000; request++) {
        driver.offer(head);
        if (driver.publish()) signalEvent(kick);
        const deadline = monotonicNs() + 30e9;
        while (driver.takeUsed() < 0) {
          assert.ok(monotonicNs() < deadline, `request ${request} is not answered`);
        }
        // Around the end of the window, where the device asks for kicks again.
        const next = monotonicNs() + Math.random() * (request % 2 === 0 ? 100_000 : 60_000);
        while (monotonicNs() < next);
      }
      await frontend.reset();
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
