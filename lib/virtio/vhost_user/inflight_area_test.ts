import assert from "node:assert/strict";
import {
  addSeals,
  Fd,
  ftruncate,
  HostError,
  isHostError,
  memfdCreate,
  mmap,
  openFile,
  OpenFlag,
  pread,
  pwrite,
  Seal,
  setStatusFlags,
} from "../../host/mod.ts";
import { inflightQueueBytes } from "../inflight.ts";
import { packedInflightBytes } from "../packed_inflight.ts";
import { clearRecord } from "./inflight_area.ts";

const SIZE = 256;
const COUNT = 2;
const PAGE = 4096;

/** Bytes of all records and of the page that stands before them. */
function lengthOf(packed: boolean): number {
  const bytes = packed ? packedInflightBytes(SIZE) : inflightQueueBytes(SIZE);
  return PAGE + Math.ceil(COUNT * bytes / PAGE) * PAGE;
}

function message(packed: boolean) {
  return {
    sizeBytes: lengthOf(packed) - PAGE,
    fileOffset: PAGE,
    queueCount: COUNT,
    queueSize: SIZE,
  };
}

function fill(fd: Fd, packed: boolean): void {
  pwrite(fd, new Uint8Array(lengthOf(packed)).fill(0xa5), 0);
}

function content(fd: Fd, packed: boolean): Uint8Array {
  const bytes = new Uint8Array(lengthOf(packed));
  assert.equal(pread(fd, bytes, 0), bytes.length);
  return bytes;
}

for (const packed of [false, true]) {
  const layout = packed ? "packed" : "split";
  const bytes = packed ? packedInflightBytes(SIZE) : inflightQueueBytes(SIZE);

  Deno.test(`the record of a ${layout} queue is cleared, and nothing beside it`, () => {
    for (const flags of [0, OpenFlag.Append]) {
      using fd = memfdCreate("record");
      fill(fd, packed);
      // Whoever gave the file may have set any flag of it, which is that of all its descriptors.
      setStatusFlags(fd, flags);
      clearRecord(fd, message(packed), { index: 1, packed });
      const found = content(fd, packed);
      const at = PAGE + bytes;
      assert(
        found.subarray(0, at + 8).every((byte) => byte === 0xa5),
        "another's, and the features",
      );
      assert(found.subarray(at + bytes).every((byte) => byte === 0xa5), "what is behind");
      const view = new DataView(found.buffer, at);
      assert.deepEqual([view.getUint16(8, true), view.getUint16(10, true)], [1, SIZE]);
      const entry = packed ? 32 : 16;
      for (let index = 0; index < SIZE; index++) {
        assert.equal(view.getUint8(entry + index * entry), 0, `entry ${index} is held`);
      }
      assert.equal(pread(fd, new Uint8Array(1), lengthOf(packed)), 0, "nothing is appended");
    }
  });

  Deno.test(`a record of a ${layout} queue that is not all there is an error`, () => {
    for (const seals of [0, Seal.Grow]) {
      using fd = memfdCreate("record");
      fill(fd, packed);
      // The file ends within the record, and then before it.
      for (const length of [PAGE + bytes + PAGE, PAGE]) {
        ftruncate(fd, length);
        if (length > PAGE && seals !== 0) addSeals(fd, seals);
        const clear = () => clearRecord(fd, message(packed), { index: 1, packed });
        assert.throws(clear, HostError, `${length} bytes`);
      }
    }
  });

  Deno.test(`a record of a ${layout} queue that cannot be written to is an error`, () => {
    const clear = (fd: Fd) => clearRecord(fd, message(packed), { index: 0, packed });
    {
      using fd = memfdCreate("record");
      fill(fd, packed);
      addSeals(fd, Seal.Write);
      assert.throws(() => clear(fd), (error) => isHostError(error, "EPERM"));
    }
    using fd = openFile("/dev/null", OpenFlag.ReadWrite);
    assert.throws(() => clear(fd), HostError);
  });
}

const MFD_HUGETLB = 4;
const HUGE_PAGE = 2 ** 21;

/** How many are free; undefined where the kernel has no files of such pages. */
function freeHugePages(): number | undefined {
  const facts = Deno.readTextFileSync("/proc/meminfo");
  if (!/^Hugepagesize: *2048 kB$/m.test(facts)) return undefined;
  return Number(/^HugePages_Free: *(\d+)$/m.exec(facts)?.[1]);
}

/** How many the kernel may make beside those. */
function surplusHugePages(): number {
  return Number(Deno.readTextFileSync("/proc/sys/vm/nr_overcommit_hugepages"));
}

const free = freeHugePages();
const hasPages = free !== undefined && free > 0;
const hasNone = free === 0 && surplusHugePages() === 0;

Deno.test({
  name: `a record in huge pages is cleared${hasPages ? "" : " (skipped: the host has none free)"}`,
  ignore: !hasPages,
  fn: () => {
    using fd = memfdCreate("record", MFD_HUGETLB);
    ftruncate(fd, HUGE_PAGE);
    using mapping = mmap(HUGE_PAGE, { fd });
    mapping.bytes.fill(0xa5);
    const queues = { sizeBytes: 8192, fileOffset: 0, queueCount: 1, queueSize: SIZE };
    clearRecord(fd, queues, { index: 0, packed: false });
    assert.equal(mapping.bytes[16], 0);
    assert.equal(mapping.bytes[7], 0xa5);
    assert.equal(mapping.bytes[inflightQueueBytes(SIZE)], 0xa5);
  },
});

Deno.test({
  name: `a record in huge pages of which none can be had is an error${
    hasNone ? "" : " (skipped: the host has some, or no such files)"
  }`,
  ignore: !hasNone,
  fn: () => {
    using fd = memfdCreate("record", MFD_HUGETLB);
    ftruncate(fd, HUGE_PAGE);
    const queues = { sizeBytes: 8192, fileOffset: 0, queueCount: 1, queueSize: SIZE };
    assert.throws(() => clearRecord(fd, queues, { index: 0, packed: false }), HostError);
  },
});
