/**
 * A virtio function of a real VM, whose guest is the test: it reads and writes configuration space and BAR
 * as a vCPU's worker does. The back end is a disk in memory in this thread.
 *
 * @module
 */

import { MIB } from "../../lib/base/mod.ts";
import { Platform } from "../../lib/devices/mod.ts";
import { PollEvent, Reactor, socketPair } from "../../lib/host/mod.ts";
import { type EngineKind, memoryBackingFor, openHypervisor } from "../../lib/hypervisor/mod.ts";
import { GuestMemory } from "../../lib/memory/mod.ts";
import {
  DeviceMemory,
  DeviceStatus,
  DeviceType,
  Feature,
  VhostUserBackend,
  VirtioPciFunction,
} from "../../lib/virtio/mod.ts";
import {
  BlockRequest,
  MemoryBlock,
  type MemoryBlockOptions,
} from "../../lib/virtio/testing/memory_block.ts";
import { MockDriver } from "../../lib/virtio/testing/mock_driver.ts";
import { MockPackedDriver } from "../../lib/virtio/testing/mock_packed_driver.ts";
import { VirtioBus } from "../../lib/machine/virtio/bus.ts";
import type { BackendLink } from "../../lib/machine/virtio/device.ts";

/** Where the rings of queue n lie: n times this and this. */
const RINGS = 0x1_0000;
const REQUEST = 0x10_0000;
const SIZE = 16;
const PATIENCE_MS = 120_000;

/** The parts. */
export class FunctionRig implements AsyncDisposable {
  readonly platform: Platform;
  readonly memory: GuestMemory;
  readonly disk = new Uint8Array(MIB);
  /** Reasons for which devices were lost. */
  readonly lost: string[] = [];
  /** Where the BAR is. */
  bar = 0;
  /** Of the back end that runs. */
  backend: VhostUserBackend | undefined;
  /** The device that it serves. */
  device: MemoryBlock | undefined;
  readonly #resources = new AsyncDisposableStack();
  readonly #data = new DataView(new ArrayBuffer(8));
  readonly #device: MemoryBlockOptions;
  #bus: VirtioBus | undefined;

  private constructor(engine: EngineKind, device: MemoryBlockOptions) {
    this.#device = { ...device, queueCount: 2 };
    const resources = this.#resources;
    const hypervisor = resources.use(openHypervisor(engine));
    this.memory = resources.use(
      GuestMemory.create({ sizeBytes: 4 * MIB, backing: memoryBackingFor(engine) }),
    );
    this.vm = resources.use(hypervisor.createVm(this.memory, { vcpuCount: 1 }));
    this.platform = Platform.create({ irq: (gsi, level) => this.vm.setIrqLine(gsi, level) });
  }

  readonly vm;

  /** Puts a function on the bus, as device 1. */
  static async start(
    engine: EngineKind,
    options: { restart?: boolean } & Omit<MemoryBlockOptions, "queueCount"> = {},
  ): Promise<FunctionRig> {
    const { restart = false, ...ofDevice } = options;
    const rig = new FunctionRig(engine, ofDevice);
    const reactor = rig.#resources.use(new Reactor());
    const abort = new AbortController();
    const bus = new VirtioBus([{
      name: "test disk",
      deviceType: DeviceType.Block,
      queueCount: 2,
      ...ofDevice.packed === true ? { packedQueues: "where-offered" } : {},
      launch: () => Promise.resolve(rig.#launch(reactor)),
    }], {
      reactor,
      signal: abort.signal,
      restart,
      onLost: (why) => rig.lost.push(why),
    });
    rig.#bus = rig.#resources.use(bus);
    await bus.launch();
    for (const handle of bus.install(rig)) {
      const slot = rig.platform.pci.slot(handle.device);
      const wiring = { vm: rig.vm, slot, hostWaitMs: 0 };
      rig.platform.pci.attach(handle.device, new VirtioPciFunction(handle, wiring));
    }
    rig.bar = (rig.config(0x10, 4) & ~0xf) >>> 0;
    return rig;
  }

  /** The bus. */
  get bus(): VirtioBus {
    return this.#bus!;
  }

  /** Reads configuration space of device 1, or writes it, by the configuration ports. */
  config(offset: number, size: number, value?: number): number {
    this.#data.setUint32(0, (0x8000_0800 | offset & 0xfc) >>> 0, true);
    this.platform.portOut(0xcf8, 4, this.#data);
    const port = 0xcfc + (offset & 3);
    if (value === undefined) {
      this.#data.setUint32(0, 0, true);
      this.platform.portIn(port, size, this.#data);
      return this.#data.getUint32(0, true);
    }
    this.#data.setInt32(0, value | 0, true);
    this.platform.portOut(port, size, this.#data);
    return value;
  }

  /** Reads `size` bytes of memory at `address`. */
  load(address: number, size: number): number {
    this.#data.setBigUint64(0, 0n);
    this.platform.mmioRead(address, size, this.#data);
    return this.#data.getUint32(0, true);
  }

  /** Writes `size` bytes of memory at `address`. */
  store(address: number, size: number, value: number): void {
    this.#data.setInt32(0, value | 0, true);
    this.#data.setInt32(4, 0);
    this.platform.mmioWrite(address, size, this.#data);
  }

  /** Reads a register of the BAR. */
  read(offset: number, size: number): number {
    return this.load(this.bar + offset, size);
  }

  /** Writes a register of the BAR. */
  write(offset: number, size: number, value: number): void {
    this.store(this.bar + offset, size, value);
  }

  /** The device status. */
  get status(): number {
    return this.read(0x14, 1);
  }

  /** Waits until `condition` holds. */
  async until(what: string, condition: () => boolean): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS;
    while (!condition()) {
      if (performance.now() > deadline) throw new Error(`still not: ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
  }

  /** Resets the device and waits for that. */
  async reset(): Promise<void> {
    this.write(0x14, 1, 0);
    await this.until("reset", () => this.status === 0);
  }

  /** Lets the function be accessed. */
  enable(): void {
    this.config(0x04, 2, 0x06);
  }

  /** Goes from a reset to a device that runs queue 0. */
  async activate(): Promise<MockDriver> {
    const { Acknowledge, Driver, FeaturesOk, DriverOk } = DeviceStatus;
    this.write(0x14, 1, Acknowledge);
    this.write(0x14, 1, Acknowledge | Driver);
    for (const half of [0, 1]) {
      this.write(0x00, 4, half);
      this.write(0x08, 4, half);
      this.write(0x0c, 4, this.read(0x04, 4));
    }
    this.write(0x14, 1, Acknowledge | Driver | FeaturesOk);
    this.write(0x10, 2, 0);
    const driver = this.startQueue(0);
    this.write(0x14, 1, Acknowledge | Driver | FeaturesOk | DriverOk);
    await this.until("it runs", () => this.bus.info()[0]!.queues.length === 1);
    return driver;
  }

  /** Sets queue `index` up in fresh rings, with vector `index + 1`, and enables it. */
  startQueue(index: number): MockDriver {
    const address = RINGS * (index + 1);
    this.memory.fill(address, RINGS);
    const driver = new MockDriver(DeviceMemory.of(this.memory), {
      address,
      size: SIZE,
      eventIdx: true,
    });
    this.#enableQueue(index, driver);
    return driver;
  }

  /** As {@link startQueue}, of a device whose queues are packed ones. */
  startPackedQueue(index: number): MockPackedDriver {
    const address = RINGS * (index + 1);
    const driver = new MockPackedDriver(DeviceMemory.of(this.memory), { address, size: SIZE });
    this.#enableQueue(index, driver);
    return driver;
  }

  #enableQueue(index: number, { addresses }: MockDriver | MockPackedDriver): void {
    const { descriptorTable, availableRing, usedRing } = addresses;
    this.write(0x16, 2, index);
    this.write(0x18, 2, SIZE);
    this.write(0x1a, 2, index + 1);
    [descriptorTable, availableRing, usedRing].forEach((address, n) => {
      this.write(0x20 + n * 8, 4, address);
      this.write(0x24 + n * 8, 4, 0);
    });
    this.write(0x1c, 2, 1);
  }

  /** Reads a sector by queue `index`. */
  async readSector(
    driver: MockDriver | MockPackedDriver,
    sector: number,
    index = 0,
  ): Promise<Uint8Array> {
    const head = this.askForSector(driver, sector, index);
    const at = REQUEST + index * 2 * 4096;
    let used = -1;
    await this.until("an answer", () => (used = driver.takeUsed()) >= 0);
    if (driver instanceof MockDriver) driver.free(head);
    if (used !== head || this.memory.readU8(at + 4096 + 512) !== 0) {
      throw new Error("expected that the request succeeds");
    }
    return this.memory.read(at + 4096, 512);
  }

  /** Asks for a sector by queue `index`, and waits for nothing; the result is the head of its chain. */
  askForSector(driver: MockDriver | MockPackedDriver, sector: number, index = 0): number {
    const at = REQUEST + index * 2 * 4096;
    this.memory.fill(at, 2 * 4096);
    this.memory.writeU32(at, BlockRequest.Read);
    this.memory.writeU32(at + 8, sector);
    this.memory.writeU8(at + 4096 + 512, 0xff);
    driver.wantInterrupts(true);
    const head = driver.add([
      { address: at, length: 16 },
      { address: at + 4096, length: 512, writable: true },
      { address: at + 4096 + 512, length: 1, writable: true },
    ]);
    if (driver.publish()) this.write(0x3000 + index * 4, 2, index);
    return head;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources.disposeAsync();
  }

  #launch(reactor: Reactor): BackendLink {
    const [near, far] = socketPair("stream");
    const device = this.device = new MemoryBlock(this.disk, this.#device);
    const backend = this.backend = new VhostUserBackend(far, device);
    let open = true;
    const close = () => {
      if (!open) return;
      open = false;
      watch[Symbol.dispose]();
      backend[Symbol.dispose]();
    };
    const watch = reactor.watch(backend.fd, PollEvent.In, () => {
      if (!backend.turn(0)) close();
    });
    this.killBackend = close;
    return {
      socket: near,
      [Symbol.asyncDispose]: () => Promise.resolve(close()),
    };
  }

  /** Ends the back end without a warning. */
  killBackend: () => void = () => {};

  /** The features that are offered. */
  get features(): bigint {
    this.write(0x00, 4, 1);
    const high = BigInt(this.read(0x04, 4));
    this.write(0x00, 4, 0);
    return high << 32n | BigInt(this.read(0x04, 4));
  }

  /** Whether {@link features} has `RingReset`. */
  get hasRingReset(): boolean {
    return (this.features & Feature.RingReset) !== 0n;
  }
}
