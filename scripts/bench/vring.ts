/**
 * How fast our block back end answers a driver in another process, beside qemu-storage-daemon's with the
 * same driver and the same image in memory.
 *
 * @module
 */

import { join } from "node:path";
import { MIB } from "../../lib/base/mod.ts";
import { listening } from "../../lib/virtio/testing/programs.ts";
import { benchVring, type VringBenchOptions } from "../../lib/virtio/testing/vring_bench.ts";
import { type BenchContext, type BenchResult, type Measure, median } from "./bench.ts";
import { findProgram } from "./programs.ts";

const IMAGE_BYTES = 64 * MIB;
const DEFAULT_RUNS = 5;
const SECONDS = 1;
/** 400,000 requests a second. */
const LIMIT_US = 2.5;

const LOADS: readonly (Pick<VringBenchOptions, "depth" | "lengthBytes"> & {
  readonly limitUs?: number;
})[] = [
  { depth: 32, lengthBytes: 4096, limitUs: LIMIT_US },
  { depth: 1, lengthBytes: 4096 },
  { depth: 32, lengthBytes: 65536 },
];

/** A back end that serves an image. */
interface Server {
  readonly name: string;
  readonly program: string;
  readonly args: (image: string, socket: string) => readonly string[];
}

function servers(vmctl: string): Server[] {
  const daemon = findProgram("qemu-storage-daemon");
  const ours: Server = {
    name: "vmctl",
    program: vmctl,
    args: (image, socket) => [
      ...["device", "block", "--socket-path", socket, "--path", `${image},format=raw,lock=false`],
    ],
  };
  return daemon === undefined ? [ours] : [ours, {
    name: "qemu-storage-daemon",
    program: daemon,
    args: (image, socket) => [
      ...["--blockdev", `driver=file,node-name=file,filename=${image},locking=off`],
      ...["--blockdev", "driver=raw,node-name=disk,file=file"],
      "--export",
      "type=vhost-user-blk,id=export,node-name=disk,writable=on," +
      `addr.type=unix,addr.path=${socket}`,
    ],
  }];
}

/** A folder whose files are in memory. */
function memoryFolder(): string | undefined {
  try {
    return Deno.makeTempDirSync({ dir: "/dev/shm", prefix: "vmctl-bench-" });
  } catch {
    return undefined;
  }
}

async function measure(server: Server, image: string, load: VringBenchOptions): Promise<number> {
  const socket = join(image, "..", `${server.name}.sock`);
  const child = new Deno.Command(server.program, {
    args: [...server.args(image, socket)],
    stdin: "null",
    stdout: "null",
    signal: AbortSignal.timeout(30_000),
  }).spawn();
  try {
    await listening(socket);
    return 1e6 / (await benchVring(socket, load)).rate;
  } finally {
    child.kill("SIGKILL");
    await child.status;
    await Deno.remove(socket);
  }
}

/** Measures both back ends in turn. */
export async function vringBench(context: BenchContext): Promise<BenchResult> {
  const folder = memoryFolder();
  if (folder === undefined) return { measures: [], notes: ["no figures of vrings: no /dev/shm"] };
  const measures: Measure[] = [];
  const notes: string[] = [];
  try {
    const image = join(folder, "disk");
    await Deno.writeFile(image, new Uint8Array(IMAGE_BYTES).fill(1));
    const all = servers(context.vmctl);
    if (all.length < 2) {
      notes.push("no qemu-storage-daemon here, so nothing to compare vrings with");
    }
    for (const { limitUs, ...load } of LOADS) {
      const what = `vring, read of ${load.lengthBytes / 1024} KiB, depth ${load.depth}`;
      context.progress(what);
      const values = new Map<Server, number[]>(all.map((server) => [server, []]));
      for (let run = 0; run < (context.runs ?? DEFAULT_RUNS); run++) {
        for (const [server, list] of values) {
          list.push(await measure(server, image, { ...load, seconds: SECONDS, poll: false }));
        }
      }
      const [ours = NaN, theirs] = [...values.values()].map(median);
      measures.push({
        what,
        unit: "us",
        vmctl: ours,
        reference: theirs === undefined ? undefined : { name: all[1]!.name, value: theirs },
        limit: theirs === undefined ? undefined : 1,
      });
      const rate = Math.round(1e6 / ours);
      const goal = limitUs === undefined ? "" : `, at least ${1e6 / limitUs} are asked for`;
      notes.push(`${what}: ${rate} a second${goal}`);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  return { measures, notes };
}
