import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { MIB, setLogSink } from "../../base/mod.ts";
import { diskConfig, type SandboxConfig } from "../../config/mod.ts";
import { DeviceControlClient, deviceKind, type OpenedDevice } from "../../devices/mod.ts";
import { createQcow2 } from "../../disk/mod.ts";
import { getuid, Reactor } from "../../host/mod.ts";
import { closedSwitches } from "../../jail/mod.ts";
import { GuestMemory } from "../../memory/mod.ts";
import { VhostUserFrontend } from "../../virtio/mod.ts";
import { BlockClient } from "../../virtio/testing/block_client.ts";
import { DeviceLauncher } from "./device_launcher.ts";
import { ownProgram } from "./device_program.ts";
import type { LaunchedDevice } from "./launched_device.ts";

const reason = closedSwitches().length > 0 && getuid() !== 0 ? "no user namespaces" : undefined;
const FLUSH = 4;
const DISCARD = 11;
const WRITE_ZEROES = 13;

interface Place {
  readonly folder: string;
  readonly sandbox: SandboxConfig;
}

function jailTest(name: string, fn: (place: Place) => Promise<void>): void {
  Deno.test({
    name: reason === undefined ? name : `${name} (skipped: ${reason})`,
    ignore: reason !== undefined,
    async fn() {
      const folder = await Deno.makeTempDir({ prefix: "vmctl-launch-" });
      await Deno.mkdir(join(folder, "root"));
      try {
        await fn({
          folder,
          sandbox: {
            pivotRoot: join(folder, "root"),
            seccompPolicyDir: undefined,
            seccompLogFailures: false,
          },
        });
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}

const MAIN = new URL("../../../main.ts", import.meta.url).href;
const WORKER_MAIN = JSON.stringify(new URL("../worker_main.ts", import.meta.url).href);
/** What main.ts does in a worker, without all that the program is otherwise. */
const WORKER = `data:text/javascript,${
  encodeURIComponent(
    `import { startWorker } from ${WORKER_MAIN};
     startWorker();
     if (self.name === "first") postMessage("loaded");`,
  )
}`;

/** Has the runtime check the types of what workers load, which takes longer than a device may. */
async function loadOnce(): Promise<void> {
  const worker = new Worker(WORKER, { type: "module", name: "first" });
  await new Promise((resolve) => worker.onmessage = resolve);
  worker.terminate();
}

const program = ownProgram(MAIN);

async function openBlock(path: string): Promise<OpenedDevice> {
  const disk = diskConfig({ path }, (key, message) => assert.fail(`${key}: ${message}`));
  assert.ok(disk !== undefined);
  return (await deviceKind("block")).open(disk);
}

/** Lets a driver use a disk in every way. */
async function exercise(link: LaunchedDevice, reactor: Reactor): Promise<void> {
  using memory = GuestMemory.create({ sizeBytes: 8 * MIB, backing: "mmap" });
  using frontend = await VhostUserFrontend.connect({ name: "test", socket: link.socket, reactor });
  using control = new DeviceControlClient(link.control, { reactor, device: "test" });
  const { features } = frontend;
  for (let round = 0; round < 2; round++) {
    const client = new BlockClient({ memory, reactor, features });
    const events = frontend.queueEvents(0);
    using _listening = client.listen(events);
    await frontend.activate({ features, memory, queues: [client.queue] });
    const data = new Uint8Array(randomBytes(65536));
    for (let sector = 0; sector < 4096; sector += 1024) await client.write(events, sector, data);
    const submit = async (type: number, range?: readonly [number, number]) => {
      const bytes = new DataView(new ArrayBuffer(range === undefined ? 0 : 16));
      if (range !== undefined) {
        bytes.setBigUint64(0, BigInt(range[0]), true);
        bytes.setUint32(8, range[1], true);
      }
      const request = { type, sector: 0, data: new Uint8Array(bytes.buffer) };
      return (await client.submit(events, request)).status;
    };
    assert.equal(await submit(FLUSH), 0);
    assert.equal(await submit(DISCARD, [1024, 128]), 0);
    assert.equal(await submit(WRITE_ZEROES, [2048, 128]), 0);
    assert.deepEqual(await client.read(events, 3072, 65536), data);
    assert.deepEqual(await client.read(events, 2048, 65536), new Uint8Array(65536));
    await control.request("resize", { sizeBytes: (8 + round) * MIB, shrink: false });
    assert.deepEqual(await client.read(events, 2047 + 8192, 512), new Uint8Array(512));
    // Long enough for a device to find that it has nothing to do, and to give memory back.
    await new Promise((resolve) => setTimeout(resolve, 700));
    await frontend.reset();
  }
}

for (const format of ["raw", "qcow2"]) {
  jailTest(
    `a ${format} disk is served from a jail, and from a worker without one`,
    async (place) => {
      const path = join(place.folder, "disk");
      const logged: string[] = [];
      setLogSink((line) => logged.push(line));
      try {
        await loadOnce();
        for (const sandbox of [place.sandbox, undefined]) {
          if (format === "raw") {
            await Deno.writeFile(path, new Uint8Array(0));
            await Deno.truncate(path, 8 * MIB);
          } else {
            await Deno.remove(path).catch(() => {});
            createQcow2(path, { sizeBytes: 8 * MIB });
          }
          using launcher = new DeviceLauncher({ sandbox, program, workerUrl: WORKER });
          using reactor = new Reactor();
          using opened = await openBlock(path);
          const order = {
            name: "block device vda",
            kind: "block",
            opened,
            logLevel: "info" as const,
          };
          await using device = await launcher.launch(order);
          await exercise(device, reactor).catch(async (cause) => {
            throw new Error(`${await device.ended}: ${logged.join("")}`, { cause });
          });
          assert.equal(
            await device.ended,
            sandbox === undefined ? "it ended" : "it ended with status 0",
          );
        }
      } finally {
        setLogSink(undefined);
      }
      assert.equal(logged.length, 1);
      assert.match(logged[0]!, /warn.*devices run without jails, in the process of the VMM/);
    },
  );
}
