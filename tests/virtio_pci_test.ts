import assert from "node:assert/strict";
import fc from "fast-check";
import { setLogLevel } from "../lib/base/mod.ts";
import { DeviceStatus, Feature } from "../lib/virtio/mod.ts";
import { engineTest } from "./support/engines.ts";
import type { MockDriver } from "../lib/virtio/testing/mock_driver.ts";
import type { MockPackedDriver } from "../lib/virtio/testing/mock_packed_driver.ts";
import { FunctionRig } from "./support/function_rig.ts";

// What guests do wrong is also logged.
setLogLevel("error");

const MSIX_TABLE = 0x4000;
const MSIX_PENDING = 0x5000;
const MESSAGE_ADDRESS = 0xfee0_0000;

function writeVector(rig: FunctionRig, vector: number, masked: boolean): void {
  rig.write(MSIX_TABLE + vector * 16, 4, MESSAGE_ADDRESS);
  rig.write(MSIX_TABLE + vector * 16 + 4, 4, 0);
  rig.write(MSIX_TABLE + vector * 16 + 8, 4, 0x40 + vector);
  rig.write(MSIX_TABLE + vector * 16 + 12, 4, Number(masked));
}

engineTest(
  "a function tells what it is, by ports and by memory, and its BAR goes where it is put",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine);
    assert.equal(rig.config(0, 4), 0x1042_1af4);
    const ecam = 0xe000_8000;
    for (let offset = 0; offset < 256; offset += 4) {
      assert.equal(rig.load(ecam + offset, 4), rig.config(offset, 4), `offset ${offset}`);
    }
    assert.equal(rig.load(ecam + 1, 1), 0x1a);
    assert.equal(rig.load(ecam + 0x100, 4), 0, "no extended capabilities");
    assert.equal(rig.load(ecam + 0x1000, 4), 0xffff_ffff, "no function 1");
    assert.equal(rig.load(0xe010_0000, 4), 0xffff_ffff, "no bus 1");
    // Capabilities: MSI-X, and the five structures, each within the BAR.
    const found: number[] = [];
    for (let at = rig.config(0x34, 1); at !== 0; at = rig.config(at + 1, 1)) {
      const id = rig.config(at, 1);
      found.push(id === 9 ? rig.config(at + 3, 1) : 0x100 + id);
      if (id === 9) assert(rig.config(at + 8, 4) + rig.config(at + 12, 4) <= 0x8000);
    }
    assert.deepEqual(found, [0x111, 1, 3, 4, 2, 5]);
    assert.equal(rig.config(0x3d, 1), 1, "INTA#");

    assert.equal(rig.load(rig.bar + 0x12, 2), 0xffff, "not decoded yet");
    rig.enable();
    assert.equal(rig.read(0x12, 2), 2);
    rig.config(0x10, 4, -1);
    rig.config(0x14, 4, -1);
    assert.equal(rig.config(0x10, 4), 0xffff_8004);
    assert.equal(rig.config(0x14, 4), 0xffff_ffff);
    for (const address of [0xd123_0000, 0x8_0000_8000, 0xfff_ffff_8000]) {
      rig.config(0x10, 4, address % 2 ** 32);
      rig.config(0x14, 4, Math.floor(address / 2 ** 32));
      assert.equal(rig.load(address + 0x12, 2), 2, `at ${address}`);
      const before = rig.bar;
      assert.equal(rig.load(before + 0x12, 2), 0xffff);
      rig.bar = address;
    }
    // By another way, the configuration itself.
    rig.config(0x98, 1, 0);
    rig.config(0x9c, 4, 0x12);
    rig.config(0xa0, 4, 2);
    assert.equal(rig.config(0xa4, 2), 2);
    rig.config(0x9c, 4, 0x14);
    rig.config(0xa0, 4, 1);
    rig.config(0xa4, 1, DeviceStatus.Acknowledge);
    assert.equal(rig.status, DeviceStatus.Acknowledge);
    rig.config(0x04, 2, 0);
    assert.equal(rig.load(rig.bar + 0x12, 2), 0xffff);
  },
);

engineTest(
  "a driver starts a device, resets it and its queues, and starts again",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine);
    crypto.getRandomValues(rig.disk.subarray(0, 65536));
    rig.enable();
    assert(rig.hasRingReset);
    assert.notEqual(rig.features & Feature.Version1, 0n);
    assert.equal(rig.read(0x2000, 4), rig.disk.length / 512);
    for (let turn = 0; turn < 3; turn++) {
      const driver = await rig.activate();
      for (let sector = 0; sector < 40; sector++) {
        const expected = rig.disk.slice(sector * 512, (sector + 1) * 512);
        assert.deepEqual(await rig.readSector(driver, sector), expected);
      }
      // A queue of its own, started late, reset and started anew.
      for (let again = 0; again < 3; again++) {
        const second = rig.startQueue(1);
        await rig.until("queue 1 runs", () => rig.bus.info()[0]!.queues.length === 2);
        assert.deepEqual(await rig.readSector(second, 5, 1), rig.disk.slice(2560, 3072));
        rig.write(0x16, 2, 1);
        rig.write(0x3a, 2, 1);
        await rig.until("queue 1 is reset", () => rig.read(0x3a, 2) === 0);
        assert.equal(rig.read(0x1c, 2), 0);
        assert.equal(rig.read(0x18, 2), 256);
      }
      assert.deepEqual(await rig.readSector(driver, 1), rig.disk.slice(512, 1024));
      await rig.reset();
      assert.equal(rig.bus.info()[0]!.queues.length, 0);
    }
    assert.deepEqual(rig.lost, []);
  },
);

engineTest("masked vectors are pending instead of signalled", async ({ kind: engine }) => {
  await using rig = await FunctionRig.start(engine);
  rig.enable();
  for (let vector = 0; vector < 3; vector++) writeVector(rig, vector, vector === 1);
  rig.config(0x42, 2, 0x8000);
  const driver = await rig.activate();
  await rig.readSector(driver, 0);
  await rig.until("vector 1 is pending", () => rig.read(MSIX_PENDING, 4) === 2);
  rig.write(MSIX_TABLE + 16 + 12, 4, 0);
  assert.equal(rig.read(MSIX_PENDING, 4), 0, "it went to the interrupt controller");
  // The whole function.
  rig.config(0x42, 2, 0xc000);
  await rig.readSector(driver, 0);
  await rig.until("vector 1 is pending", () => rig.read(MSIX_PENDING, 4) === 2);
  rig.config(0x42, 2, 0x8000);
  assert.equal(rig.read(MSIX_PENDING, 4), 0);
  // Without messages, the register tells and forgets.
  rig.config(0x42, 2, 0);
  await rig.readSector(driver, 0);
  await rig.until("the register tells", () => rig.read(0x1000, 1) === 1);
  assert.equal(rig.read(0x1000, 1), 0);
  // Entries are the guest's, but for what is reserved.
  rig.write(MSIX_TABLE, 4, -1);
  rig.write(MSIX_TABLE + 12, 4, -2);
  assert.equal(rig.read(MSIX_TABLE, 4), 0xffff_fffc);
  assert.equal(rig.read(MSIX_TABLE + 12, 4), 0);
});

engineTest("features and queues that are not possible are refused", async ({ kind: engine }) => {
  await using rig = await FunctionRig.start(engine);
  rig.enable();
  rig.write(0x08, 4, 0);
  rig.write(0x0c, 4, -1);
  rig.write(0x14, 1, DeviceStatus.Acknowledge | DeviceStatus.Driver | DeviceStatus.FeaturesOk);
  assert.equal(rig.status & DeviceStatus.FeaturesOk, 0);
  rig.write(0x14, 1, DeviceStatus.DriverOk);
  assert.notEqual(rig.status & DeviceStatus.NeedsReset, 0);
  await rig.reset();
  const driver = await rig.activate();
  rig.write(0x20, 4, 0x1234_5000);
  assert.equal(rig.read(0x20, 4), driver.addresses.descriptorTable, "it is enabled");
  // A queue outside of memory.
  const generation = rig.read(0x15, 1);
  rig.write(0x16, 2, 1);
  rig.write(0x24, 4, 0x1234);
  rig.write(0x1c, 2, 1);
  await rig.until("it needs a reset", () => (rig.status & DeviceStatus.NeedsReset) !== 0);
  assert.notEqual(rig.read(0x15, 1), generation);
  await rig.reset();
  await rig.readSector(await rig.activate(), 3);
  rig.killBackend();
  await rig.until("it is lost", () => rig.lost.length > 0);
  assert.match(rig.lost[0]!, /^test disk ended: .*closed/);
});

engineTest(
  "whatever a guest writes, in whatever order, the device can be used again",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine);
    const offset = fc.oneof(
      { weight: 6, arbitrary: fc.integer({ min: 0, max: 0x40 }) },
      { weight: 2, arbitrary: fc.integer({ min: 0x4000, max: 0x4030 }) },
      { weight: 2, arbitrary: fc.integer({ min: 0x2000, max: 0x2040 }) },
      { weight: 1, arbitrary: fc.integer({ min: 0, max: 0x7fff }) },
    );
    const value = fc.oneof(
      fc.integer({ min: 0, max: 20 }),
      fc.constantFrom(-1, 0x1_0000, 0x2_0000, MESSAGE_ADDRESS, 0xffff, 0x8000),
      fc.integer(),
    );
    const size = fc.constantFrom(1, 2, 4, 8);
    const access = fc.oneof(
      { weight: 12, arbitrary: fc.tuple(fc.constant("write" as const), offset, size, value) },
      { weight: 4, arbitrary: fc.tuple(fc.constant("read" as const), offset, size, value) },
      {
        weight: 2,
        arbitrary: fc.tuple(
          fc.constant("config" as const),
          fc.integer({ min: 0, max: 255 }),
          fc.constantFrom(1, 2, 4),
          value,
        ),
      },
      {
        weight: 2,
        arbitrary: fc.tuple(
          fc.constant("ecam" as const),
          fc.integer({ min: 0, max: 4095 }),
          size,
          value,
        ),
      },
      { weight: 1, arbitrary: fc.tuple(fc.constant("wait" as const), offset, size, value) },
    );
    const storms = fc.array(access, { minLength: 50, maxLength: 400 });
    const bar = rig.bar;
    await fc.assert(
      fc.asyncProperty(storms, fc.boolean(), async (storm, active) => {
        rig.enable();
        if (active) await rig.activate();
        for (const [kind, offset, size, value] of storm) {
          if (kind === "write") rig.write(offset, size, value);
          else if (kind === "read") rig.read(offset, size);
          else if (kind === "config") rig.config(offset & -size, size, value);
          else if (kind === "ecam") rig.store(0xe000_8000 + offset, size, value);
          else await new Promise((resolve) => setTimeout(resolve, 0));
        }
        rig.config(0x04, 2, 0);
        rig.config(0x10, 4, bar);
        rig.config(0x14, 4, 0);
        rig.enable();
        await rig.reset();
        const driver = await rig.activate();
        await rig.readSector(driver, 7);
        await rig.reset();
        assert.deepEqual(rig.lost, []);
      }),
      { numRuns: 100 },
    );
  },
);

engineTest(
  "a guest whose back end dies goes on with the next, also while it is reset",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine, { restart: true });
    rig.enable();
    const driver = await rig.activate();
    await rig.readSector(driver, 1);
    rig.killBackend();
    await rig.readSector(driver, 2);
    const late = rig.startQueue(1);
    await rig.until("queue 1 runs", () => rig.bus.info()[0]!.queues.length === 2);
    await rig.readSector(late, 2, 1);
    rig.killBackend();
    await rig.readSector(driver, 3);
    await rig.readSector(late, 3, 1);
    rig.killBackend();
    rig.write(0x14, 1, 0);
    await rig.until("reset", () => rig.status === 0);
    const next = await rig.activate();
    await rig.readSector(next, 3);
    await rig.bus.suspend();
    rig.killBackend();
    await rig.until("it is started again", () => rig.bus.info()[0]!.restarts === 4);
    await rig.bus.resume();
    await rig.readSector(next, 4);
    assert.deepEqual(rig.lost, []);
  },
);

engineTest(
  "a packed queue that is reset just when its back end dies begins anew at the next one",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine, { restart: true, packed: true });
    rig.enable();
    await rig.activate();
    for (let turn = 0; turn < 3; turn++) {
      const driver = rig.startPackedQueue(1);
      await rig.until("queue 1 runs", () => rig.bus.info()[0]!.queues.length === 2);
      assert.deepEqual(await rig.readSector(driver, 5, 1), rig.disk.slice(2560, 3072));
      rig.killBackend();
      rig.write(0x16, 2, 1);
      rig.write(0x3a, 2, 1);
      await rig.until("queue 1 is reset", () => rig.read(0x3a, 2) === 0);
    }
    assert.deepEqual(rig.lost, []);
  },
);

/** Reads sectors by queue 1, and expects that nothing comes but the answers. */
async function expectAnswers(
  rig: FunctionRig,
  driver: MockDriver | MockPackedDriver,
): Promise<void> {
  for (let sector = 0; sector < 30; sector++) {
    const expected = rig.disk.slice(sector * 512, (sector + 1) * 512);
    assert.deepEqual(await rig.readSector(driver, sector, 1), expected);
  }
  assert.equal(driver.takeUsed(), -1, "nothing else was answered");
}

for (const packed of [false, true]) {
  const kind = packed ? "packed" : "split";

  engineTest(
    `what a device held of a ${kind} queue does not come again once the driver has reset the queue`,
    async ({ kind: engine }) => {
      const stuckSector = 99;
      const [HALTED, MASTER] = [0x02, 0x06];
      const start = (rig: FunctionRig, index: number) =>
        packed ? rig.startPackedQueue(index) : rig.startQueue(index);
      const resetQueue = async (rig: FunctionRig, index = 1) => {
        rig.write(0x16, 2, index);
        rig.write(0x3a, 2, 1);
        await rig.until("the queue is reset", () => rig.read(0x3a, 2) === 0);
      };
      const ways: Record<string, (rig: FunctionRig) => Promise<void>> = {
        "while the back end lives": resetQueue,
        "while it stands still": async (rig) => {
          rig.config(0x04, 2, HALTED);
          await rig.until("it stands still", () => rig.bus.info()[0]!.halted);
          await resetQueue(rig);
          rig.config(0x04, 2, MASTER);
        },
        "just when it dies": async (rig) => {
          rig.killBackend();
          await resetQueue(rig);
        },
        "when it dies while it is to stand still": async (rig) => {
          rig.killBackend();
          rig.config(0x04, 2, HALTED);
          await resetQueue(rig);
          rig.config(0x04, 2, MASTER);
        },
        "when it dies while it stands still": async (rig) => {
          rig.config(0x04, 2, HALTED);
          await rig.until("it stands still", () => rig.bus.info()[0]!.halted);
          rig.killBackend();
          await resetQueue(rig);
          rig.config(0x04, 2, MASTER);
        },
      };
      for (const [way, reset] of Object.entries(ways)) {
        let stuck = 0;
        const device = { packed, stuckSector, onStuck: () => stuck++ };
        await using rig = await FunctionRig.start(engine, { restart: true, ...device });
        rig.enable();
        await rig.activate();
        await resetQueue(rig, 0);
        const [other, driver] = [start(rig, 0), start(rig, 1)];
        await rig.until("queue 1 runs", () => rig.bus.info()[0]!.queues.length === 2);
        for (let n = 0; n < 7; n++) await rig.readSector(driver, n, 1);
        for (let n = 0; n < 3; n++) rig.askForSector(driver, stuckSector, 1);
        await rig.until("they are held", () => stuck === 3);
        await reset(rig);
        stuck = 0;
        await expectAnswers(rig, start(rig, 1));
        assert.equal(stuck, 0, way);
        // What is held of another queue comes again, and that alone.
        rig.askForSector(other, stuckSector, 0);
        await rig.until("it is held", () => stuck === 1);
        await resetQueue(rig);
        rig.killBackend();
        await rig.until("it is held again", () => stuck === 2);
        await expectAnswers(rig, start(rig, 1));
        assert.equal(stuck, 2, way);
        assert.deepEqual(rig.lost, []);
      }
    },
  );
}

engineTest(
  "a suspend fails where a back end dies at that moment and has no successor",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine);
    rig.enable();
    const driver = await rig.activate();
    await rig.readSector(driver, 1);
    rig.killBackend();
    await assert.rejects(rig.bus.suspend(), /cannot suspend/);
    await rig.until("it is lost", () => rig.lost.length === 1);
  },
);

engineTest(
  "a VM is suspended and resumed although a back end dies at that moment",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine, { restart: true });
    rig.enable();
    const driver = await rig.activate();
    await rig.readSector(driver, 1);
    const restarted = (times: number) =>
      rig.until("it is started again", () => rig.bus.info()[0]!.restarts === times);
    // Nobody has noticed yet that it is gone.
    rig.killBackend();
    await rig.bus.suspend();
    assert.equal(rig.bus.info()[0]!.halted, true);
    await restarted(1);
    const answer = rig.readSector(driver, 2);
    for (let turn = 0; turn < 200; turn++) await new Promise((done) => setTimeout(done, 0));
    assert.equal(rig.memory.readU16(driver.addresses.usedRing + 2), 1, "its successor waits, too");
    await rig.bus.resume();
    assert.deepEqual(await answer, rig.disk.slice(1024, 1536));
    await rig.bus.suspend();
    rig.killBackend();
    await rig.bus.resume();
    await rig.readSector(driver, 3);
    await restarted(2);
    assert.deepEqual(rig.lost, []);
  },
);

engineTest(
  "a back end that is started again while the VM ends, ends with it",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine, { restart: true });
    rig.enable();
    await rig.activate();
    const dead = rig.backend;
    rig.killBackend();
    await rig.until("the next one is there", () => rig.backend !== dead);
    await rig.bus[Symbol.asyncDispose]();
    assert.equal(rig.backend?.open, false);
  },
);

engineTest(
  "a function that may not master the bus leaves memory alone until it may again",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine, { restart: true });
    const HALTED = 0x02;
    const used = (driver: MockDriver) => rig.memory.readU16(driver.addresses.usedRing + 2);
    // Many times as long as a request takes.
    const wait = async () => {
      for (let turn = 0; turn < 200; turn++) await new Promise((done) => setTimeout(done, 0));
    };
    rig.enable();
    const driver = await rig.activate();
    await rig.readSector(driver, 1);
    const standsStill = async () => {
      rig.config(0x04, 2, HALTED);
      await rig.until("it stands still", () => rig.bus.info()[0]!.halted);
      const before = used(driver);
      const answer = rig.readSector(driver, 2);
      await wait();
      assert.equal(used(driver), before);
      return { answer };
    };
    for (let turn = 0; turn < 2; turn++) {
      const { answer } = await standsStill();
      rig.enable();
      assert.deepEqual(await answer, rig.disk.slice(1024, 1536));
      const second = rig.startQueue(1);
      await rig.readSector(second, 3, 1);
      rig.write(0x16, 2, 1);
      rig.write(0x3a, 2, 1);
      await rig.until("queue 1 is reset", () => rig.read(0x3a, 2) === 0);
    }
    // Back ends die, queues begin, and the VM is suspended meanwhile.
    const { answer } = await standsStill();
    rig.killBackend();
    await rig.until("it is started again", () => rig.bus.info()[0]!.restarts === 1);
    const second = rig.startQueue(1);
    const fromSecond = rig.readSector(second, 4, 1);
    await rig.until("queue 1 is known", () => rig.bus.info()[0]!.queues.length === 2);
    await rig.bus.suspend();
    await rig.bus.resume();
    await wait();
    assert.equal(used(second), 0);
    await rig.bus.suspend();
    rig.enable();
    await rig.bus.resume();
    assert.deepEqual(await fromSecond, rig.disk.slice(2048, 2560));
    await answer;
    // A reset ends all of it; a device may begin without the bus.
    rig.config(0x04, 2, HALTED);
    await rig.reset();
    const next = await rig.activate();
    const late = rig.readSector(next, 5);
    await wait();
    assert.equal(used(next), 0);
    rig.enable();
    assert.deepEqual(await late, rig.disk.slice(2560, 3072));
    assert.deepEqual(rig.lost, []);
  },
);
