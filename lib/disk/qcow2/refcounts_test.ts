import assert from "node:assert/strict";
import { type IoVector, memfdCreate } from "../../host/mod.ts";
import { DiskError } from "../errors.ts";
import { ImageFile } from "../image_file.ts";
import { writeQcow2 } from "./create.ts";
import { REFCOUNT_TABLE_FIELD } from "./header.ts";
import { loadWritable, readHeader, readL1, readRefcountTable } from "./metadata.ts";
import { Refcounts } from "./refcounts.ts";

const CLUSTER_BYTES = 512;
/** Clusters whose counts are in one block. */
const PER_BLOCK = CLUSTER_BYTES / 2;
/** Blocks that the table of a new image has room for. */
const TABLE_BLOCKS = CLUSTER_BYTES / 8;
/** More than are taken here. */
const MOST_CLUSTERS = 400_000;

interface Written {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** A file in memory, of which one access fails. */
class FailingFile extends ImageFile {
  /** Accesses before the one that fails; undefined where none does. */
  left: number | undefined;
  /** Where it cannot be written. */
  badOffset: number | undefined;
  /** Where it ends, if it cannot become longer. */
  endOffset = Infinity;
  /** Told of each write before it is made, and of each time that all before is durable. */
  observer: ((written: Written | "durable") => void) | undefined;

  constructor() {
    super(memfdCreate("image"), { path: "memory", readOnly: false });
  }

  override readVector(vector: IoVector, offset: number): number {
    this.#access("EIO");
    return super.readVector(vector, offset);
  }

  override writeVector(vector: IoVector, offset: number): void {
    if (offset === this.badOffset || offset + vector.lengthBytes > this.endOffset) this.left = 0;
    this.#access("ENOSPC");
    const bytes = new Uint8Array(vector.lengthBytes);
    vector.copyTo(bytes);
    this.observer?.({ offset, bytes });
    super.writeVector(vector, offset);
  }

  override sync(): void {
    this.#access("EIO");
    super.sync();
    this.observer?.("durable");
  }

  override reserve(offset: number, length: number): void {
    if (offset + length > this.endOffset) this.left = 0;
    this.#access("ENOSPC");
    super.reserve(offset, length);
  }

  #access(code: "EIO" | "ENOSPC"): void {
    if (this.left === undefined || this.left-- > 0) return;
    this.left = undefined;
    throw new DiskError(`${this.path}: this access fails`, { code });
  }
}

/** The counts of a new image, and its file. */
class Rig implements Disposable {
  readonly file = new FailingFile();
  readonly refcounts: Refcounts;

  /**
   * @param taken clusters that are in use
   * @param free those of them that are not any more
   */
  constructor(taken: number, free: readonly number[] = []) {
    const { file } = this;
    writeQcow2(file, { sizeBytes: 2 ** 20, clusterBytes: CLUSTER_BYTES });
    const header = readHeader(file);
    const { refcountTable, metadata } = loadWritable(file, header, readL1(file, header));
    this.refcounts = new Refcounts(file, {
      header,
      table: refcountTable,
      metadata,
      corrupt: (message) => assert.fail(message),
    });
    for (let next = 0; next < taken - 1;) {
      const first = this.refcounts.allocate(taken - 1 - next);
      next = first + this.refcounts.allocated;
    }
    for (const cluster of free) this.refcounts.release(cluster);
    this.refcounts.writeBack();
  }

  /** Clusters that are counted, of those that could be. */
  counted(): number[] {
    const clusters = Array.from({ length: MOST_CLUSTERS }, (_, cluster) => cluster);
    return clusters.filter((cluster) => this.refcounts.get(cluster) > 0);
  }

  /** Clusters of the refcount table and of the blocks that it names, as the file has them. */
  tables(): number[] {
    return tablesOf(this.file);
  }

  /** Makes the file one that cannot become longer, as a device. */
  endAt(cluster: number): void {
    this.file.setLength(cluster * CLUSTER_BYTES);
    this.file.endOffset = this.file.lengthBytes;
  }

  [Symbol.dispose](): void {
    this.file.close();
  }
}

function memoryFile(): ImageFile {
  return new ImageFile(memfdCreate("image"), { path: "memory", readOnly: false });
}

function copy(from: ImageFile, to: ImageFile): void {
  const bytes = new Uint8Array(from.lengthBytes);
  from.read(bytes, 0);
  to.setLength(0);
  to.write(bytes, 0);
}

/** That a new process finds counts of `data` and of all tables. */
function assertCounted(file: ImageFile, data: readonly number[]): void {
  const header = readHeader(file);
  const { refcountTable, metadata } = loadWritable(file, header, readL1(file, header));
  const corrupt = (message: string) => assert.fail(message);
  const refcounts = new Refcounts(file, { header, table: refcountTable, metadata, corrupt });
  const lost = [...data, ...tablesOf(file)].filter((cluster) => refcounts.get(cluster) === 0);
  assert.deepEqual(lost, []);
}

function tablesOf(file: ImageFile): number[] {
  const header = readHeader(file);
  const start = header.refcountTableOffset / CLUSTER_BYTES;
  const blocks = readRefcountTable(file, header).filter((offset) => offset !== 0);
  return [
    ...Array.from({ length: header.refcountTableClusters }, (_, at) => start + at),
    ...[...blocks].map((offset) => offset / CLUSTER_BYTES),
  ];
}

function range(start: number, count: number): number[] {
  return Array.from({ length: count }, (_, at) => start + at);
}

/** Two pieces of the image that nothing uses. The first one has no room for a table and its blocks. */
const HOLES = [2000, ...range(3000, 30)];

interface Take {
  readonly name: string;
  readonly taken: number;
  readonly free?: readonly number[];
  readonly take: (refcounts: Refcounts) => number;
}

const takes: readonly Take[] = [
  {
    name: "a cluster behind the last block",
    taken: PER_BLOCK,
    take: (refcounts) => refcounts.allocate(1),
  },
  {
    name: "a run that needs blocks",
    taken: PER_BLOCK - 20,
    take: (refcounts) => refcounts.allocateContiguous(3 * PER_BLOCK),
  },
  {
    name: "a run that needs a longer table",
    taken: (TABLE_BLOCKS - 1) * PER_BLOCK - 20,
    take: (refcounts) => refcounts.allocateContiguous(2 * PER_BLOCK),
  },
  {
    name: "a run that needs a longer table for which there is room in the image",
    taken: (TABLE_BLOCKS - 1) * PER_BLOCK - 20,
    free: HOLES,
    take: (refcounts) => refcounts.allocateContiguous(2 * PER_BLOCK),
  },
];

for (const { name, taken, free, take } of takes) {
  Deno.test(`${name} is taken wholly or not at all, whichever access to the file fails`, () => {
    let failures = 0;
    for (;; failures++) {
      using rig = new Rig(taken, free);
      const { file, refcounts } = rig;
      const before = rig.tables();
      const data = rig.counted().filter((cluster) => !before.includes(cluster));
      file.left = failures;
      let first: number;
      try {
        first = take(refcounts);
      } catch (error) {
        assert(error instanceof DiskError, String(error));
        file.left = undefined;
        // What has become longer on the way stays so.
        refcounts.writeBack();
        const expected = new Set([...data, ...rig.tables()]);
        const counted = new Set(rig.counted());
        // What could not be made durable may still be what a stop of the host leaves: the old table stays counted.
        const difference = error.code === "EIO"
          ? expected.difference(counted)
          : expected.symmetricDifference(counted);
        assert.deepEqual([...difference], [], `access ${failures}`);
        assert(!counted.has(take(refcounts)));
        continue;
      }
      assert(!data.includes(first) && !before.includes(first));
      break;
    }
    assert(failures > 1);
  });
}

for (const { name, taken, free, take } of takes) {
  Deno.test(`${name} is taken in an order that is sound wherever the host stops`, () => {
    using rig = new Rig(taken, free);
    const { file, refcounts } = rig;
    const before = rig.tables();
    const data = rig.counted().filter((cluster) => !before.includes(cluster));
    using durable = memoryFile();
    using stopped = memoryFile();
    copy(file, durable);
    let pending: Written[] = [];
    let states = 0;
    file.observer = (written) => {
      if (written === "durable") {
        for (const { offset, bytes } of pending) durable.write(bytes, offset);
        pending = [];
        return;
      }
      pending.push(written);
      // All that was written since the last time, or of it only what came last.
      for (const kept of [pending, [written]]) {
        copy(durable, stopped);
        for (const { offset, bytes } of kept) stopped.write(bytes, offset);
        stopped.setLength(Math.max(stopped.lengthBytes, file.lengthBytes));
        assertCounted(stopped, data);
        states++;
      }
    };
    take(refcounts);
    refcounts.writeBack();
    assert(states > 1);
  });
}

Deno.test("a table becomes longer also where the file cannot, such as a device", () => {
  // Nothing is free before the end of what the table has entries for, or enough for a longer one.
  for (const free of [[], HOLES]) {
    using rig = new Rig(TABLE_BLOCKS * PER_BLOCK, free);
    const { file, refcounts } = rig;
    rig.endAt((TABLE_BLOCKS + 4) * PER_BLOCK);
    const before = rig.tables();
    const data = rig.counted().filter((cluster) => !before.includes(cluster));
    const first = refcounts.allocateContiguous(2 * PER_BLOCK);
    refcounts.writeBack();
    const run = range(first, 2 * PER_BLOCK);
    assert(run.every((cluster) => cluster >= TABLE_BLOCKS * PER_BLOCK));
    const tables = rig.tables();
    assert.equal(tables.slice(0, 2).every((cluster) => free.includes(cluster)), free.length > 0);
    const expected = new Set([...data, ...tables, ...run]);
    assert.equal(expected.size, data.length + tables.length + run.length);
    assert.deepEqual([...expected.symmetricDifference(new Set(rig.counted()))], []);
    assert(file.lengthBytes <= file.endOffset);
  }
});

Deno.test("a table that cannot become longer while no more counts have room in memory leaves all as it was", () => {
  // As many blocks as a table of a growing image has room for, and more than there are counts in memory.
  const [blocks, inMemory] = [1152, 1024];
  using rig = new Rig(blocks * PER_BLOCK);
  const { file, refcounts } = rig;
  assert.equal(rig.tables().length, blocks + blocks / TABLE_BLOCKS);
  const before = rig.tables();
  const data = rig.counted().filter((cluster) => !before.includes(cluster));
  // All that are in memory differ from the file.
  for (let block = blocks - inMemory; block < blocks; block++) {
    refcounts.release(block * PER_BLOCK + PER_BLOCK - 1);
  }
  for (let block = blocks - inMemory; block < blocks; block++) {
    assert.equal(refcounts.allocate(1), block * PER_BLOCK + PER_BLOCK - 1);
  }
  file.badOffset = REFCOUNT_TABLE_FIELD;
  assert.throws(() => refcounts.allocate(1), { code: "ENOSPC" });
  file.badOffset = undefined;
  const soundly = () => {
    const expected = new Set([...data, ...rig.tables()]);
    assert.deepEqual([...expected.symmetricDifference(new Set(rig.counted()))], []);
  };
  assert.deepEqual(rig.tables(), before);
  soundly();
  data.push(refcounts.allocate(1));
  refcounts.writeBack();
  assert(rig.tables().length > before.length);
  soundly();
});

Deno.test("clusters of a log are counted also where the file cannot become longer, such as a device", () => {
  using rig = new Rig(PER_BLOCK - 20);
  const { file, refcounts } = rig;
  const before = rig.counted();
  file.setLength(4 * PER_BLOCK * CLUSTER_BYTES);
  file.endOffset = file.lengthBytes;
  // Some lack a block, and the last one is not the last to come.
  const clusters = [PER_BLOCK - 3, 2 * PER_BLOCK + 7, PER_BLOCK, 2 * PER_BLOCK - 1];
  // The second time finds all of them counted.
  for (let turn = 0; turn < 2; turn++) refcounts.claim(new Set(clusters));
  refcounts.writeBack();
  const expected = new Set([...before, ...rig.tables(), ...clusters]);
  assert.deepEqual([...expected.symmetricDifference(new Set(rig.counted()))], []);
  assert(rig.tables().every((cluster) => !clusters.includes(cluster)));
});

Deno.test("clusters of a log are counted also where that takes a longer table", () => {
  using rig = new Rig(PER_BLOCK - 20);
  const { file, refcounts } = rig;
  const before = new Set(rig.counted()).difference(new Set(rig.tables()));
  const end = TABLE_BLOCKS * PER_BLOCK;
  rig.endAt(end + 5 * PER_BLOCK);
  // The first of them has the table moved, and those that lie low are the first to be free then.
  const low = range(PER_BLOCK - 20, 60);
  const clusters = [end + PER_BLOCK + 3, ...low, end + 3 * PER_BLOCK];
  for (let turn = 0; turn < 2; turn++) refcounts.claim(new Set(clusters));
  refcounts.writeBack();
  const expected = new Set([...before, ...rig.tables(), ...clusters]);
  assert.deepEqual([...expected.symmetricDifference(new Set(rig.counted()))], []);
  assert(rig.tables().every((cluster) => !clusters.includes(cluster)));
  assertCounted(file, [...expected]);
});

Deno.test("clusters of a log are counted also where they reach to the end of a device", () => {
  const last = range(PER_BLOCK - 20, 60);
  for (
    const [end, clusters] of [
      // All but the cluster that the block had in the process before.
      [PER_BLOCK + 40, last.filter((cluster) => cluster !== PER_BLOCK)],
      // A block for them has no room among them, and is counted by another one behind them.
      [2 * PER_BLOCK + 2, range(PER_BLOCK, PER_BLOCK)],
    ] as const
  ) {
    using rig = new Rig(PER_BLOCK - 20);
    const { file, refcounts } = rig;
    const before = new Set(rig.counted()).difference(new Set(rig.tables()));
    rig.endAt(end);
    refcounts.claim(new Set(clusters));
    refcounts.writeBack();
    const expected = new Set([...before, ...rig.tables(), ...clusters]);
    assert.deepEqual([...expected.symmetricDifference(new Set(rig.counted()))], []);
    assert(rig.tables().every((cluster) => !clusters.includes(cluster)));
    assertCounted(file, [...expected]);
  }
});
