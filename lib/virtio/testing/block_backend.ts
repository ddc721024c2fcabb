/**
 * A program that serves a {@link MemoryBlock}: `block_backend.ts SOCKET [--size-mib N] [--disk FILE]
 * [--stuck-sector N] [--connections N]`. It says "ready" when the socket can be connected to, "stuck" when it
 * holds a request for ever, and ends when its last front end has gone.
 *
 * @module
 */

import { parseArgs } from "node:util";
import { MIB } from "../../base/mod.ts";
import { fstat, listenUnix, mmap, openFile, OpenFlag } from "../../host/mod.ts";
import { VhostUserBackend } from "../vhost_user/backend.ts";
import { MemoryBlock } from "./memory_block.ts";

function openDisk(path: string | undefined, sizeMib: number): Uint8Array {
  if (path === undefined) return new Uint8Array(sizeMib * MIB);
  using fd = openFile(path, OpenFlag.ReadWrite);
  return mmap(fstat(fd).sizeBytes, { fd }).bytes;
}

function main(): void {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    args: Deno.args,
    options: {
      "size-mib": { type: "string", default: "8" },
      disk: { type: "string" },
      "stuck-sector": { type: "string", default: "-1" },
      connections: { type: "string", default: "1" },
      queues: { type: "string", default: "1" },
      "spin-us": { type: "string", default: "0" },
    },
  });
  const disk = openDisk(values.disk, Number(values["size-mib"]));
  using listener = listenUnix(positionals[0]!, "stream");
  console.log("ready");
  for (let left = Number(values.connections); left > 0; left--) {
    const socket = listener.accept();
    if (socket === undefined) return;
    const device = new MemoryBlock(disk, {
      stuckSector: Number(values["stuck-sector"]),
      onStuck: () => console.log("stuck"),
      queueCount: Number(values.queues),
    });
    using backend = new VhostUserBackend(socket, device, {
      spinUs: Number(values["spin-us"]),
    });
    backend.run();
    console.error(`${device.requests} requests`);
  }
}

if (import.meta.main) main();
