/**
 * How many requests a second go through a vring, between this process as the driver and a back end in
 * another one: ours over a disk in memory, and qemu-storage-daemon's over its null device.
 *
 * `deno run -A vring_bench.ts [--seconds N] [--depth N] [--poll] [--bytes N] [--spin-us N]`
 *
 * @module
 */

import { join } from "node:path";
import { parseArgs } from "node:util";
import { MIB } from "../../base/mod.ts";
import { monotonicNs, PollEvent, pollFd, Reactor, signalEvent, takeEvent } from "../../host/mod.ts";
import { GuestMemory } from "../../memory/mod.ts";
import { DeviceMemory } from "../device_memory.ts";
import { VirtioError } from "../errors.ts";
import { Feature } from "../features.ts";
import { VhostUserFrontend } from "../vhost_user/frontend.ts";
import type { QueueEvents } from "../vhost_user/frontend_state.ts";
import { BLOCK_HEADER_BYTES, BlockRequest } from "./memory_block.ts";
import { MockDriver } from "./mock_driver.ts";
import { hasProgram, listening, TestProgram } from "./programs.ts";

const RINGS = 0x1_0000;
const BUFFERS = 0x10_0000;
const BUFFER_BYTES = 0x2_0000;
const STATUS_AT = 64;

/** What is measured. */
export interface VringBenchOptions {
  /** Requests under way at once. */
  readonly depth: number;
  /** Bytes of each read. */
  readonly lengthBytes: number;
  readonly seconds: number;
  /** Whether the driver spins instead of waiting for interrupts. */
  readonly poll: boolean;
}

/** What came of it. */
export interface VringBenchResult {
  /** Requests a second. */
  readonly rate: number;
  /** Requests a kick. */
  readonly perKick: number;
  /** Requests an interrupt. */
  readonly perInterrupt: number;
}

/** Measures the back end at `socket`. */
export async function benchVring(
  socket: string,
  options: VringBenchOptions,
): Promise<VringBenchResult> {
  using reactor = new Reactor();
  using memory = GuestMemory.create({ sizeBytes: 64 * MIB, backing: "mmap" });
  using frontend = await VhostUserFrontend.connect({ name: "bench", socket, reactor });
  const wanted = Feature.Version1 | Feature.RingEventIdx | Feature.RingIndirectDesc;
  const features = frontend.features & wanted;
  const eventIdx = (features & Feature.RingEventIdx) !== 0n;
  const size = 256;
  const driver = new MockDriver(DeviceMemory.of(memory), { address: RINGS, size, eventIdx });
  const queues = [{ index: 0, size, ...driver.addresses }];
  await frontend.activate({ features, memory, queues });
  const events = frontend.queueEvents(0);
  const heads = Array.from({ length: options.depth }, (_, index) => {
    const at = BUFFERS + index * BUFFER_BYTES;
    memory.writeU32(at, BlockRequest.Read);
    memory.writeU64(at + 8, BigInt(index * 8));
    memory.writeU8(at + STATUS_AT, 0xff);
    return driver.prepare([
      { address: at, length: BLOCK_HEADER_BYTES },
      { address: at + 4096, length: options.lengthBytes, writable: true },
      { address: at + STATUS_AT, length: 1, writable: true },
    ]);
  });
  drive(driver, events, { ...options, heads, seconds: 0.3 });
  const result = drive(driver, events, { ...options, heads });
  heads.forEach((_, index) => {
    const status = memory.readU8(BUFFERS + index * BUFFER_BYTES + STATUS_AT);
    if (status !== 0) throw new VirtioError(`bench: a read has failed with status ${status}`);
  });
  await frontend.reset();
  return result;
}

function drive(
  driver: MockDriver,
  events: QueueEvents,
  options: VringBenchOptions & { readonly heads: readonly number[] },
): VringBenchResult {
  const { heads, seconds, poll } = options;
  driver.wantInterrupts(!poll);
  let done = 0;
  let kicks = 0;
  let interrupts = 0;
  let under = heads.length;
  const begin = monotonicNs();
  const end = begin + seconds * 1e9;
  for (const head of heads) driver.offer(head);
  let running = true;
  while (under > 0) {
    if (driver.publish()) {
      signalEvent(events.kick);
      kicks++;
    }
    let taken = 0;
    for (let head; (head = driver.takeUsed()) >= 0; taken++) {
      if (running) driver.offer(head);
      else under--;
    }
    done += taken;
    if (taken === 0 && !poll && !driver.wantInterrupts(true)) {
      if (pollFd(events.call, PollEvent.In, 5000) === 0) {
        throw new VirtioError("bench: no interrupt within 5 s");
      }
      takeEvent(events.call);
      interrupts++;
    }
    if ((done & 0xff) < taken) running = monotonicNs() < end;
  }
  const rate = done / ((monotonicNs() - begin) / 1e9);
  return { rate, perKick: done / kicks, perInterrupt: done / interrupts };
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    args: Deno.args,
    options: {
      seconds: { type: "string", default: "3" },
      depth: { type: "string", default: "32" },
      bytes: { type: "string", default: "512" },
      poll: { type: "boolean", default: false },
      "spin-us": { type: "string", default: "0" },
    },
  });
  const options = {
    seconds: Number(values.seconds),
    depth: Number(values.depth),
    lengthBytes: Number(values.bytes),
    poll: values.poll,
  };
  const folder = await Deno.makeTempDir({ prefix: "vmctl-vring-" });
  try {
    const socket = join(folder, "ours");
    await using _program = await TestProgram.start("block_backend", [
      ...[socket, "--spin-us", values["spin-us"]],
    ]);
    console.log("vmctl", await benchVring(socket, options));
    if (!hasProgram("qemu-storage-daemon")) return;
    const exported = join(folder, "qemu");
    const daemon = new Deno.Command("qemu-storage-daemon", {
      args: [
        ...["--blockdev", "driver=null-co,node-name=disk,size=8388608,read-zeroes=on"],
        ...[
          "--export",
          "type=vhost-user-blk,id=export,node-name=disk,writable=on," +
          `addr.type=unix,addr.path=${exported}`,
        ],
      ],
    }).spawn();
    try {
      await listening(exported);
      console.log("qemu-storage-daemon", await benchVring(exported, options));
    } finally {
      daemon.kill("SIGKILL");
      await daemon.status;
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) await main();
