import assert from "node:assert/strict";
import {
  Errno,
  type Fd,
  IoUring,
  IoVector,
  isHostError,
  MemorySpan,
  openFile,
  OpenFlag,
  pipe,
  PollEvent,
  pollFd,
  writeAll,
} from "./mod.ts";

function lackOf(): string {
  try {
    new IoUring(1)[Symbol.dispose]();
    return "";
  } catch (error) {
    if (!isHostError(error, "ENOSYS", "EPERM", "EINVAL")) throw error;
    return ` (skipped: no io_uring, ${error.code})`;
  }
}

const lack = lackOf();
const ignore = lack !== "";

function temporaryFile(): Fd {
  const path = Deno.makeTempFileSync({ prefix: "vmctl-uring-" });
  const fd = openFile(path, OpenFlag.ReadWrite);
  Deno.removeSync(path);
  return fd;
}

function vectorOf(...pieces: Uint8Array[]): IoVector {
  const vector = new IoVector();
  for (const piece of pieces) vector.push(new MemorySpan(piece), 0, piece.length);
  return vector;
}

Deno.test({
  name: `a ring writes, makes durable and reads in pieces, many at once${lack}`,
  ignore,
  fn() {
    using fd = temporaryFile();
    using ring = new IoUring(8);
    const blocks = Array.from({ length: 8 }, (_, index) => new Uint8Array(4096).fill(index + 1));
    for (let round = 0; round < 5; round++) {
      blocks.forEach((block, token) => {
        const vector = vectorOf(block.subarray(0, 100), block.subarray(100));
        ring.write(fd, vector, { offset: token * 4096, token });
      });
      assert.equal(ring.underWay, 8);
      ring.submit();
      const done = new Set<number>();
      while (ring.underWay > 0) {
        ring.wait();
        for (let token; (token = ring.complete()) >= 0;) {
          assert.equal(ring.result, 4096);
          done.add(token);
        }
      }
      assert.equal(done.size, 8);
    }
    ring.sync(fd, 3);
    ring.submit();
    assert.equal(pollFd(ring.fd, PollEvent.In, 5000), PollEvent.In);
    assert.deepEqual([ring.complete(), ring.result, ring.complete()], [3, 0, -1]);
    const into = new Uint8Array(3 * 4096);
    ring.read(fd, vectorOf(into.subarray(0, 5000), into.subarray(5000)), {
      offset: 4096,
      token: 0,
    });
    ring.submit();
    ring.wait();
    assert.deepEqual([ring.complete(), ring.result], [0, into.length]);
    assert.deepEqual([into[0], into[4095], into[4096], into[into.length - 1]], [2, 2, 3, 4]);
  },
});

Deno.test({
  name: `a ring tells what failed, and ends only when nothing is under way${lack}`,
  ignore,
  fn() {
    const { reader, writer } = pipe();
    using _reader = reader;
    using _writer = writer;
    using fd = temporaryFile();
    const ring = new IoUring(4);
    ring.read(writer, vectorOf(new Uint8Array(8)), { offset: 0, token: 1 });
    ring.submit();
    ring.wait();
    assert.deepEqual([ring.complete(), ring.result], [1, -Errno.EBADF]);
    ring.read(fd, vectorOf(new Uint8Array(8)), { offset: 1e15, token: 2 });
    ring.submit();
    ring.wait();
    assert.deepEqual([ring.complete(), ring.result], [2, 0]);
    const into = new Uint8Array(5);
    writeAll(writer, new TextEncoder().encode("hello"));
    ring.read(reader, vectorOf(into), { offset: 0, token: 0 });
    ring[Symbol.dispose]();
    assert.equal(new TextDecoder().decode(into), "hello");
    ring[Symbol.dispose]();
  },
});
