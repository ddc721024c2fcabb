import assert from "node:assert/strict";
import { setLogLevel } from "../lib/base/mod.ts";
import { eventfd } from "../lib/host/mod.ts";
import {
  BAR_SIZE_BYTES,
  DeviceType,
  FrontendState,
  VirtioPciFunction,
  VirtioPciHost,
} from "../lib/virtio/mod.ts";
import { engineTest } from "./support/engines.ts";
import { FunctionRig } from "./support/function_rig.ts";

// What guests do wrong is also logged.
setLogLevel("error");

engineTest(
  "what a driver has configured holds for the next back end, too, and until a reset",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine, { restart: true });
    // Whether a disk's cache is written back (virtio 1.2, 5.2.4).
    const [field, writeback] = [32, 0x2000 + 32];
    rig.enable();
    const driver = await rig.activate();
    assert.equal(rig.read(writeback, 1), 1);
    rig.write(writeback, 1, 0);
    await rig.until("the device knows", () => rig.device?.config[field] === 0);
    const before = rig.device;
    rig.killBackend();
    await rig.readSector(driver, 1);
    assert.notEqual(rig.device, before);
    assert.equal(rig.device?.config[field], 0);
    assert.equal(rig.read(writeback, 1), 0);
    await rig.reset();
    assert.equal(rig.device?.config[field], 1);
    assert.equal(rig.read(writeback, 1), 1);
    const next = await rig.activate();
    await rig.readSector(next, 1);
    rig.killBackend();
    await rig.readSector(next, 2);
    assert.equal(rig.device?.config[field], 1);
    assert.deepEqual(rig.lost, []);
  },
);

engineTest(
  "a field is configured also by a longer write, and by one beside another",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine);
    const [field, writeback] = [32, 0x2000 + 32];
    const known = (value: number) =>
      rig.until("the device knows", () => rig.device?.config[field] === value);
    rig.enable();
    await rig.activate();
    rig.write(writeback, 2, 0);
    await known(0);
    rig.write(writeback - 4, 8, 0);
    rig.store(rig.bar + writeback, 1, 1);
    await known(1);
    // Both before the device hears of either.
    rig.write(writeback - 2, 1, 0);
    rig.write(writeback, 1, 0);
    await known(0);
    assert.deepEqual(rig.lost, []);
  },
);

engineTest(
  "a driver reads what the device has, whatever it wrote to fields that are not its own",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine);
    const [field, writeback] = [32, 0x2000 + 32];
    rig.enable();
    await rig.activate();
    const capacity = rig.read(0x2000, 4);
    const queues = rig.read(0x2000 + 34, 2);
    assert.equal(queues, 2);
    // Of these eight bytes one is the driver's.
    rig.write(writeback - 4, 8, 0);
    assert.deepEqual([rig.read(writeback, 1), rig.read(0x2000 + 34, 2)], [0, queues]);
    rig.write(0x2000, 4, 0x1234_5678);
    assert.equal(rig.read(0x2000, 4), capacity);
    await rig.until("the device knows", () => rig.device?.config[field] === 0);
    // What the device makes of it shows as soon as it has heard of it.
    rig.write(writeback, 1, 0xff);
    await rig.until("the driver reads it", () => rig.read(writeback, 1) === 1);
    assert.equal(rig.device?.config[field], 1);
    assert.deepEqual([rig.read(0x2000, 4), rig.read(0x2000 + 34, 2)], [capacity, queues]);
    assert.deepEqual(rig.lost, []);
  },
);

engineTest(
  "what a driver configures while the device changes its configuration is not lost",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine);
    using queues = new FrontendState();
    using configEvent = eventfd(0, { nonblock: true });
    const { pci } = rig.platform;
    const place = { device: 2, firstGsi: 40 };
    const host = new VirtioPciHost(
      {
        ...place,
        deviceType: DeviceType.Balloon,
        maxQueueSize: 16,
        queues: [queues.events(0)],
        configEvent,
        configBytes: 16,
      },
      rig.vm,
      pci.slot(2),
    );
    const address = rig.bar + 0x10_0000;
    pci.install({
      device: 2,
      ...host.configSpace,
      bars: [{ index: 0, sizeBytes: BAR_SIZE_BYTES, address }],
    });
    const wiring = { vm: rig.vm, slot: pci.slot(2), hostWaitMs: 0 };
    pci.attach(2, new VirtioPciFunction(host.handle, wiring));
    host.settle(0n, new Uint8Array(16));
    rig.store(0xe001_0004, 2, 0x06);
    const actual = address + 0x2000 + 4;
    rig.store(actual, 4, 0x1122_3344);
    const changed = new Uint8Array(16).fill(9);
    host.changeConfig(changed);
    assert.equal(rig.load(actual, 4), 0x1122_3344);
    assert.equal(rig.load(actual - 4, 4), 0x0909_0909, "of the device alone");
    assert.deepEqual(host.wishes().config, {
      offset: 4,
      bytes: Uint8Array.of(0x44, 0x33, 0x22, 0x11),
    });
    const generation = () => rig.load(address + 0x15, 1);
    let before = generation();
    host.showConfig(changed);
    assert.equal(rig.load(actual, 4), 0x0909_0909);
    assert.notEqual(generation(), before, "who reads a field in parts learns of it");
    before = generation();
    host.showConfig(changed);
    assert.equal(generation(), before);
  },
);

engineTest(
  "what a driver configures just when a back end dies holds for the next one",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine, { restart: true });
    const [field, writeback] = [32, 0x2000 + 32];
    rig.enable();
    const driver = await rig.activate();
    for (const value of [0, 1, 0]) {
      const before = rig.device;
      rig.killBackend();
      rig.write(writeback, 1, value);
      await rig.readSector(driver, 1);
      assert.notEqual(rig.device, before);
      await rig.until("the next one knows", () => rig.device?.config[field] === value);
      assert.equal(rig.read(writeback, 1), value);
    }
    assert.deepEqual(rig.lost, []);
  },
);

engineTest(
  "what a device makes of what a driver configured shows, also where it dies just behind that",
  async ({ kind: engine }) => {
    await using rig = await FunctionRig.start(engine, { restart: true });
    const [field, writeback] = [32, 0x2000 + 32];
    rig.enable();
    await rig.activate();
    const first = rig.device!;
    let heard = 0;
    first.writeConfig = () => {
      heard++;
      queueMicrotask(rig.killBackend);
    };
    rig.write(writeback, 1, 0xff);
    await rig.until("the driver reads it", () => rig.read(writeback, 1) === 1);
    assert.equal(heard, 1);
    assert.notEqual(rig.device, first);
    assert.equal(rig.device?.config[field], 1);
    assert.deepEqual(rig.lost, []);
  },
);
