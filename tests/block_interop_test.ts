/** Random requests to images of all kinds that QEMU makes, and what QEMU then reads of them. */

import assert from "node:assert/strict";
import { KIB, MIB } from "../lib/base/mod.ts";
import { RequestStatus, RequestType } from "../lib/devices/block/protocol.ts";
import { DiskRig, rangeBytes } from "./support/disk_rig.ts";
import {
  assertClean,
  firstDifference,
  HAS_QEMU_IMG,
  qemuImg,
  Random,
  TemporaryFolder,
} from "./support/disk.ts";

const DISK_BYTES = 8 * MIB;
const SECTORS = DISK_BYTES / 512;
/** Each batch of requests touches so many parts of the disk, each one of them. */
const PARTS = 16;
const PART_SECTORS = SECTORS / PARTS;
const BATCHES = 40;
const skipped = HAS_QEMU_IMG ? "" : " (skipped: no qemu-img)";
const { In, Out, Flush, Discard, WriteZeroes } = RequestType;

interface Kind {
  readonly name: string;
  /** Makes the image of `base`, a raw one, at `path`. */
  readonly make: (base: string, path: string) => void;
  readonly format: "raw" | "qcow2";
  readonly direct?: boolean;
}

const convert = (options: string, ...more: string[]) => (base: string, path: string) => {
  qemuImg("convert", "-f", "raw", "-O", "qcow2", ...more, "-o", options, base, path);
};

const KINDS: readonly Kind[] = [
  { name: "raw", make: (base, path) => Deno.copyFileSync(base, path), format: "raw" },
  {
    name: "raw, direct",
    make: (base, path) => Deno.copyFileSync(base, path),
    format: "raw",
    direct: true,
  },
  { name: "qcow2", make: convert("compat=1.1"), format: "qcow2" },
  { name: "qcow2, direct", make: convert("compat=1.1"), format: "qcow2", direct: true },
  { name: "qcow2 of version 2", make: convert("compat=0.10"), format: "qcow2" },
  { name: "compressed qcow2", make: convert("compat=1.1", "-c"), format: "qcow2" },
  {
    name: "qcow2 compressed by zstd",
    make: convert("compression_type=zstd", "-c"),
    format: "qcow2",
  },
  {
    name: "qcow2 with small clusters and counts",
    make: convert("cluster_size=4096,refcount_bits=1"),
    format: "qcow2",
  },
  {
    name: "qcow2 over a raw image",
    make: (base, path) => {
      qemuImg("create", "-f", "qcow2", "-b", base, "-F", "raw", path);
    },
    format: "qcow2",
  },
  {
    name: "qcow2 over a shorter qcow2",
    make: (base, path) => {
      qemuImg("convert", "-f", "raw", "-O", "qcow2", base, `${path}.base`);
      const size = String(DISK_BYTES);
      qemuImg("create", "-f", "qcow2", "-b", `${path}.base`, "-F", "qcow2", path, size);
    },
    format: "qcow2",
  },
];

for (const [seed, kind] of KINDS.entries()) {
  Deno.test({
    name: `random requests to a disk are equal to what QEMU reads: ${kind.name}${skipped}`,
    ignore: skipped !== "",
    fn() {
      using folder = new TemporaryFolder();
      const random = new Random(seed + 1);
      const isShort = kind.name.includes("shorter");
      const model = new Uint8Array(DISK_BYTES);
      for (let at = 0; at < (isShort ? DISK_BYTES / 2 : DISK_BYTES); at += 128 * KIB) {
        if (random.next(3) > 0) model.set(random.bytes(64 * KIB + 512 * random.next(128)), at);
      }
      const base = folder.file("base");
      Deno.writeFileSync(base, isShort ? model.subarray(0, DISK_BYTES / 2) : model);
      if (isShort) model.fill(0, DISK_BYTES / 2);
      const path = folder.file("disk");
      kind.make(base, path);
      // What is discarded may read as anything.
      const unknown = new Uint8Array(SECTORS);
      {
        using rig = new DiskRig({
          path,
          format: kind.format,
          ...(kind.direct === true ? { direct: true } : {}),
        });
        for (let batch = 0; batch < BATCHES; batch++) {
          const queue = random.next(2);
          const expected = Array.from({ length: 14 }, (_, part) => {
            return offer(rig, queue, part * PART_SECTORS, { random, model, unknown });
          });
          for (const [index, { status, data }] of rig.answers(queue).entries()) {
            assert.equal(status, RequestStatus.Ok);
            const { bytes, sector } = expected[index]!;
            bytes.forEach((byte, at) => {
              if (unknown[sector + Math.floor(at / 512)] === 1) return;
              if (byte !== data[at]) {
                assert.fail(`sector ${sector}, byte ${at}: ${byte}, ${data[at]}`);
              }
            });
          }
        }
      }
      const raw = folder.file("raw");
      qemuImg("convert", "-f", kind.format, "-O", "raw", path, raw);
      const content = Deno.readFileSync(raw);
      unknown.forEach((is, sector) => {
        if (is === 0) return;
        model.set(content.subarray(sector * 512, (sector + 1) * 512), sector * 512);
      });
      assert.equal(firstDifference(content, model), undefined);
      if (kind.format === "qcow2") assertClean(path);
    },
  });
}

/** Offers a request to a part of the disk; the result is what is expected to be read. */
function offer(
  rig: DiskRig,
  queue: number,
  part: number,
  state: { random: Random; model: Uint8Array; unknown: Uint8Array },
): { bytes: Uint8Array; sector: number } {
  const { random, model, unknown } = state;
  const sectors = 1 + random.next(random.next(3) === 0 ? 300 : 16);
  const sector = part + random.next(PART_SECTORS - sectors);
  const bytes = model.subarray(sector * 512, (sector + sectors) * 512);
  const cuts = [random.next(4096), random.next(4096)];
  const nothing = new Uint8Array(0);
  switch (random.next(8)) {
    case 0:
      rig.offer({ type: Flush }, queue);
      return { bytes: nothing, sector };
    case 1:
      rig.offer({ type: Discard, data: rangeBytes([{ sector, sectors }]) }, queue);
      unknown.fill(1, sector, sector + sectors);
      return { bytes: nothing, sector };
    case 2: {
      const data = rangeBytes([{ sector, sectors, flags: random.next(2) }]);
      rig.offer({ type: WriteZeroes, data }, queue);
      bytes.fill(0);
      unknown.fill(0, sector, sector + sectors);
      return { bytes: nothing, sector };
    }
    case 3:
    case 4:
    case 5:
      rig.offer({ type: In, sector, length: bytes.length, cuts }, queue);
      return { bytes: bytes.slice(), sector };
    default:
      bytes.set(random.bytes(bytes.length));
      rig.offer({ type: Out, sector, data: bytes.slice(), cuts }, queue);
      unknown.fill(0, sector, sector + sectors);
      return { bytes: nothing, sector };
  }
}
