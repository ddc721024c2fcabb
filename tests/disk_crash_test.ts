/**
 * qcow2 images after a process or host stopped in the middle of things.
 */
import { strict as assert } from "node:assert";
import { fileURLToPath } from "node:url";
import { type DiskImage, openDisk } from "../lib/disk/mod.ts";
import { ImageFile } from "../lib/disk/image_file.ts";
import { Qcow2Image } from "../lib/disk/qcow2/qcow2_image.ts";
import { IoVector, openFile, OpenFlag } from "../lib/host/mod.ts";
import {
  assertClean,
  firstDifference,
  HAS_QEMU_IMG,
  qemuCheck,
  qemuImg,
  Random,
  randomOperation,
  readAll,
  TemporaryFolder,
} from "./support/disk.ts";

const MIB = 2 ** 20;
const UNIT = 512;
const skipped = HAS_QEMU_IMG ? "" : " (skipped: no qemu-img)";

/** A change of a file, or the point where all before it are durable. */
type Change =
  | { readonly kind: "write"; readonly offset: number; readonly bytes: Uint8Array<ArrayBuffer> }
  | { readonly kind: "length"; readonly length: number }
  | { readonly kind: "punch"; readonly offset: number; readonly length: number }
  | { readonly kind: "sync" };

/** An image's file that remembers what was done to it. */
class RecordingFile extends ImageFile {
  readonly changes: Change[] = [];

  override writeVector(vector: IoVector, offset: number): void {
    const bytes = new Uint8Array(vector.lengthBytes);
    vector.copyTo(bytes);
    this.changes.push({ kind: "write", offset, bytes });
    super.writeVector(vector, offset);
  }

  override reserve(offset: number, length: number): void {
    this.changes.push({ kind: "length", length: offset + length });
    super.reserve(offset, length);
  }

  override setLength(length: number): void {
    this.changes.push({ kind: "length", length });
    super.setLength(length);
  }

  override discard(offset: number, length: number): boolean {
    this.changes.push({ kind: "punch", offset, length });
    return super.discard(offset, length);
  }

  override sync(): void {
    super.sync();
    if (this.changes.at(-1)?.kind !== "sync") this.changes.push({ kind: "sync" });
  }
}

function apply(file: Uint8Array<ArrayBuffer>, change: Change): Uint8Array<ArrayBuffer> {
  const resized = (length: number) => {
    const result = new Uint8Array(length);
    result.set(file.subarray(0, Math.min(length, file.length)));
    return result;
  };
  switch (change.kind) {
    case "write": {
      const end = change.offset + change.bytes.length;
      const result = end > file.length ? resized(end) : file;
      result.set(change.bytes, change.offset);
      return result;
    }
    case "length":
      return resized(change.length);
    case "punch":
      file.fill(0, change.offset, Math.min(file.length, change.offset + change.length));
      return file;
    case "sync":
      return file;
  }
}

/** What is known of a disk at the time of its last flush, and which units were touched since. */
class Promised {
  readonly flushedAt: number;
  readonly model: Uint8Array;
  readonly touched = new Set<number>();

  constructor(flushedAt: number, model: Uint8Array) {
    this.flushedAt = flushedAt;
    this.model = model.slice();
  }

  touch(operation: string): void {
    const match = /^(?:write|zero|discard) (\d+) (\d+)/.exec(operation);
    if (match === null) return;
    const start = Number(match[1]);
    for (let at = start; at < start + Number(match[2]); at += UNIT) this.touched.add(at / UNIT);
  }

  /** Asserts that everything flushed and not touched since is there. */
  assertKept(bytes: Uint8Array, hint: string): void {
    for (let unit = 0; unit < this.model.length / UNIT; unit++) {
      if (this.touched.has(unit)) continue;
      const from = unit * UNIT;
      const difference = firstDifference(
        bytes.subarray(from, from + UNIT),
        this.model.subarray(from, from + UNIT),
      );
      assert.equal(difference, undefined, `${hint}: flushed bytes at ${from} were lost`);
    }
  }
}

interface Scene {
  readonly name: string;
  readonly layout: string;
  readonly size: number;
  readonly prepare?: (image: string) => void;
}

const SCENES: readonly Scene[] = [
  { name: "small clusters", layout: "cluster_size=512,refcount_bits=64", size: MIB },
  { name: "one-bit counts", layout: "cluster_size=4096,refcount_bits=1", size: 4 * MIB },
  { name: "usual clusters", layout: "cluster_size=65536", size: 8 * MIB },
  { name: "version 2", layout: "compat=0.10,cluster_size=1024", size: 2 * MIB },
  {
    name: "a snapshot",
    layout: "cluster_size=1024",
    size: 2 * MIB,
    prepare: (image) => {
      using disk = openDisk(image);
      disk.writeAt(0, IoVector.of(new Uint8Array(MIB).fill(7)));
      disk.close();
      qemuImg("snapshot", "-c", "s", image);
    },
  },
];

for (const scene of SCENES) {
  Deno.test({
    name: `every prefix of what is done to an image with ${scene.name} is sound${skipped}`,
    ignore: !HAS_QEMU_IMG,
    fn: () => {
      using folder = new TemporaryFolder();
      const image = folder.file("image.qcow2");
      qemuImg("create", "-q", "-f", "qcow2", "-o", scene.layout, image, String(scene.size));
      scene.prepare?.(image);
      const start = Deno.readFileSync(image);
      const file = new RecordingFile(openFile(image, OpenFlag.ReadWrite), {
        path: image,
        readOnly: false,
      });
      const random = new Random(scene.size + 5);
      let model: Uint8Array<ArrayBuffer>;
      const promises: Promised[] = [];
      {
        using disk = new Qcow2Image(file, { sparse: true, cacheBytes: 16_384 });
        model = readAll(disk);
        promises.push(new Promised(0, model));
        for (let step = 0; step < 60; step++) {
          const operation = randomOperation(disk, model, random, {
            longestBytes: scene.size / 16,
          });
          for (const promise of promises) promise.touch(operation);
          if (step % 6 === 5) {
            disk.flush();
            promises.push(new Promised(file.changes.length, model));
          }
        }
      }
      assertClean(image);
      let reached = start;
      let durable = start.slice();
      let since: Change[] = [];
      const sampled = Math.max(1, Math.floor(file.changes.length / 40));
      const crashed = folder.file("crashed.qcow2");
      for (const [at, change] of file.changes.entries()) {
        reached = apply(reached, change);
        since.push(change);
        if (change.kind === "sync") {
          durable = reached.slice();
          since = [];
        }
        const isNearSync = file.changes[at + 1]?.kind === "sync";
        if (at % sampled !== 0 && !(isNearSync && random.next(3) === 0)) continue;
        const hint = `after ${at + 1} of ${file.changes.length} changes`;
        const promise = promises.findLast((known) => known.flushedAt <= at + 1);
        // The process was killed: the kernel has all that was written.
        Deno.writeFileSync(crashed, reached);
        checkCrashed(crashed, promise, hint);
        // The host lost power: of what was written since the last sync, anything may be missing.
        let lost = durable.slice();
        for (const change of since) if (random.next(2) === 0) lost = apply(lost, change);
        Deno.writeFileSync(crashed, lost);
        checkCrashed(crashed, promise, `${hint}, some lost`);
      }
    },
  });
}

function checkCrashed(image: string, promise: Promised | undefined, hint: string): void {
  const { corruptions, text } = qemuCheck(image);
  assert.equal(corruptions, 0, `${hint}: ${text}`);
  // Writable, so that it is checked as one that goes on.
  using disk = openDisk(image);
  promise?.assertKept(readAll(disk), hint);
}

/** A file whose changes are watched. */
class WatchedFile extends RecordingFile {
  /** States of the recovery log right after each change, and right before the next one. */
  readonly after: Uint8Array[] = [];
  readonly before: Uint8Array[] = [];
  log = new Uint8Array();

  override writeVector(vector: IoVector, offset: number): void {
    this.#watch(() => super.writeVector(vector, offset));
  }

  override setLength(length: number): void {
    this.#watch(() => super.setLength(length));
  }

  override reserve(offset: number, length: number): void {
    this.#watch(() => super.reserve(offset, length));
  }

  override discard(offset: number, length: number): boolean {
    this.#watch(() => super.discard(offset, length));
    return true;
  }

  override sync(): void {
    this.#watch(() => super.sync());
  }

  #watch(change: () => void): void {
    const log = this.log.slice();
    while (this.before.length < this.changes.length) this.before.push(log);
    change();
    while (this.after.length < this.changes.length) this.after.push(this.log.slice());
  }
}

for (const scene of SCENES) {
  Deno.test({
    name: `with a recovery log, a killed process loses nothing of ${scene.name}${skipped}`,
    ignore: !HAS_QEMU_IMG,
    fn: () => {
      using folder = new TemporaryFolder({ inMemory: true });
      const image = folder.file("image.qcow2");
      const size = scene.size / 2;
      qemuImg("create", "-q", "-f", "qcow2", "-o", scene.layout, image, String(size));
      scene.prepare?.(image);
      const start = Deno.readFileSync(image);
      const file = new WatchedFile(openFile(image, OpenFlag.ReadWrite), {
        path: image,
        readOnly: false,
      });
      file.log = new Uint8Array(16_400);
      const random = new Random(size + 9);
      const disk = new Qcow2Image(file, {
        sparse: true,
        cacheBytes: 16_384,
        recovery: file.log,
      });
      const model = readAll(disk);
      // What is known after each operation, and where it stood among the changes.
      const known: { readonly at: number; readonly model: Uint8Array; operation: string }[] = [
        { at: file.changes.length, model: model.slice(), operation: "" },
      ];
      for (let step = 0; step < 60; step++) {
        const operation = randomOperation(disk, model, random, { longestBytes: size / 10 });
        known.at(-1)!.operation = operation;
        known.push({ at: file.changes.length, model: model.slice(), operation: "" });
      }
      disk.abandon();
      let reached = start;
      const crashed = folder.file("crashed.qcow2");
      const sampled = Math.max(1, Math.floor(file.changes.length / 40));
      for (const [at, change] of file.changes.entries()) {
        reached = apply(reached, change);
        const isLast = at === file.changes.length - 1;
        if (at % sampled !== 0 && !isLast) continue;
        const hint = `after ${at + 1} of ${file.changes.length} changes`;
        for (const isLater of [false, true]) {
          const log = (isLater ? file.before : file.after)[at]?.slice();
          const done = known.findLast((entry) => entry.at <= at + (isLater ? 1 : 0));
          if (log === undefined || done === undefined) continue;
          Deno.writeFileSync(crashed, reached);
          const promised = new Promised(0, done.model);
          promised.touch(done.operation);
          for (let attempt = 0; attempt < 2; attempt++) {
            const again = new Qcow2Image(
              new ImageFile(openFile(crashed, OpenFlag.ReadWrite), {
                path: crashed,
                readOnly: false,
              }),
              { sparse: true, cacheBytes: 16_384, recovery: log },
            );
            promised.assertKept(readAll(again), `${hint}, ${isLater}, ${attempt}`);
            // Killed again, and once more not.
            if (attempt === 0) again.abandon();
            else again.close();
          }
          assert.equal(qemuCheck(crashed).corruptions, 0, hint);
        }
      }
    },
  });
}

/** What the child does: the same operations for the same seed, with a word for each flush. */
function work(disk: DiskImage, seed: number, onFlush: (count: number) => void): void {
  const random = new Random(seed);
  const model = readAll(disk);
  for (let count = 1; count <= 400; count++) {
    for (const operation of batch(random, model.length)) {
      if (operation.bytes === undefined) {
        disk.writeZeroes(operation.offset, operation.length, { unmap: true });
      } else disk.writeAt(operation.offset, IoVector.of(operation.bytes));
    }
    disk.flush();
    onFlush(count);
  }
}

interface Operation {
  readonly offset: number;
  readonly length: number;
  readonly bytes: Uint8Array<ArrayBuffer> | undefined;
}

function batch(random: Random, size: number): Operation[] {
  return Array.from({ length: 1 + random.next(12) }, () => {
    const offset = random.next(size / UNIT) * UNIT;
    const length = Math.min(size - offset, UNIT * (1 + random.next(200)));
    return { offset, length, bytes: random.next(4) === 0 ? undefined : random.bytes(length) };
  });
}

Deno.test({
  name: `a process killed while it writes loses nothing that it flushed${skipped}`,
  ignore: !HAS_QEMU_IMG,
  fn: async () => {
    using folder = new TemporaryFolder();
    for (let seed = 0; seed < 8; seed++) {
      const image = folder.file("image.qcow2");
      const size = 4 * MIB;
      const layout = seed % 2 === 0 ? "cluster_size=4096" : "cluster_size=65536";
      qemuImg("create", "-q", "-f", "qcow2", "-o", layout, image, String(size));
      const child = new Deno.Command(Deno.execPath(), {
        args: ["run", "--quiet", "-A", fileURLToPath(import.meta.url), image, String(seed)],
        stdout: "piped",
      }).spawn();
      const killAt = 1 + new Random(seed).next(60);
      let acknowledged = 0;
      for await (const chunk of child.stdout) {
        acknowledged += chunk.length;
        // Each byte stands for a flush. The child is somewhere behind it by now.
        if (acknowledged >= killAt) {
          try {
            child.kill("SIGKILL");
          } catch {
            // It has come to its end.
          }
        }
      }
      await child.status;
      const random = new Random(seed);
      const model = new Uint8Array(size);
      let promise = new Promised(0, model);
      // At most one batch lies between what was flushed and what was acknowledged, and one was begun.
      for (let count = 1; count <= acknowledged + 2; count++) {
        for (const { offset, length, bytes } of batch(random, size)) {
          model.set(bytes ?? new Uint8Array(length), offset);
          promise.touch(`write ${offset} ${length}`);
        }
        if (count <= acknowledged) promise = new Promised(count, model);
      }
      checkCrashed(image, promise, `seed ${seed}, killed after ${acknowledged} flushes`);
    }
  },
});

if (import.meta.main) {
  const [image, seed] = Deno.args;
  const disk = openDisk(image!);
  work(disk, Number(seed), () => Deno.stdout.writeSync(new Uint8Array([46])));
  disk.close();
}
