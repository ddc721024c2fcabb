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

/** A file in memory, of which one access fails. */
class FailingFile extends ImageFile {
  /** Accesses before the one that fails; undefined where none does. */
  left: number | undefined;
  /** Where it cannot be written. */
  badOffset: number | undefined;
  /** Where it ends, if it cannot become longer. */
  endOffset = Infinity;

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
    super.writeVector(vector, offset);
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

  /** @param taken clusters that are in use */
  constructor(taken: number) {
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
    this.refcounts.writeBack();
  }

  /** Clusters that are counted, of those that could be. */
  counted(): number[] {
    const clusters = Array.from({ length: MOST_CLUSTERS }, (_, cluster) => cluster);
    return clusters.filter((cluster) => this.refcounts.get(cluster) > 0);
  }

  /** Clusters of the refcount table and of the blocks that it names, as the file has them. */
  tables(): number[] {
    const header = readHeader(this.file);
    const start = header.refcountTableOffset / CLUSTER_BYTES;
    const blocks = readRefcountTable(this.file, header).filter((offset) => offset !== 0);
    return [
      ...Array.from({ length: header.refcountTableClusters }, (_, at) => start + at),
      ...[...blocks].map((offset) => offset / CLUSTER_BYTES),
    ];
  }

  [Symbol.dispose](): void {
    this.file.close();
  }
}

const takes: readonly { name: string; taken: number; take: (refcounts: Refcounts) => number }[] = [
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
];

for (const { name, taken, take } of takes) {
  Deno.test(`${name} is taken wholly or not at all, whichever access to the file fails`, () => {
    let failures = 0;
    for (;; failures++) {
      using rig = new Rig(taken);
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
        const difference = expected.symmetricDifference(new Set(rig.counted()));
        assert.deepEqual([...difference], [], `access ${failures}`);
        assert(!expected.has(take(refcounts)));
        continue;
      }
      assert(!data.includes(first) && !before.includes(first));
      break;
    }
    assert(failures > 1);
  });
}

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
