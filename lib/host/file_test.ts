import assert from "node:assert/strict";
import { HostError } from "./errno.ts";
import { setNonblocking } from "./fd.ts";
import {
  flock,
  fstat,
  ftruncate,
  memfdCreate,
  openFile,
  OpenFlag,
  pipe,
  pread,
  punchHole,
  pwrite,
  read,
  seek,
  SeekFrom,
  tryRead,
  tryWrite,
  write,
  writeAll,
} from "./file.ts";
import { ioctl, ioctlFast, tryIoctl } from "./ioctl.ts";

const isCode = (code: string) => (error: unknown) =>
  error instanceof HostError && error.code === code;

Deno.test("files are opened, written, read and measured", () => {
  const folder = Deno.makeTempDirSync();
  const path = `${folder}/file`;
  try {
    using fd = openFile(path, OpenFlag.ReadWrite | OpenFlag.Create | OpenFlag.Exclusive, 0o640);
    assert.equal(write(fd, new TextEncoder().encode("hello world")), 11);
    const into = new Uint8Array(5);
    assert.equal(pread(fd, into, 6), 5);
    assert.equal(new TextDecoder().decode(into), "world");
    assert.equal(pread(fd, into, 11), 0);
    assert.equal(pwrite(fd, Uint8Array.of(1), 5 * 2 ** 30), 1);
    const status = fstat(fd);
    assert.equal(status.sizeBytes, 5 * 2 ** 30 + 1);
    assert.ok(status.allocatedBytes < 2 ** 20);
    assert.equal(status.kind, "file");
    assert.equal(status.ino, Deno.statSync(path).ino);
    assert.equal(status.mode & 0o700, 0o600);
    assert.equal(seek(fd, 0), 0);
    assert.equal(read(fd, into), 5);
    assert.equal(seek(fd, 0, SeekFrom.Current), 5);
    assert.throws(
      () => openFile(path, OpenFlag.Create | OpenFlag.Exclusive),
      (error) => isCode("EEXIST")(error) && (error as HostError).message.includes(path),
    );
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
  assert.throws(() => openFile("/nonexistent/file"), isCode("ENOENT"));
  assert.throws(() => openFile("/etc/pass\0wd"), isCode("EINVAL"));
  using directory = openFile("/", OpenFlag.Path | OpenFlag.Directory);
  assert.equal(fstat(directory).kind, "directory");
});

Deno.test("a hole gives memory back and reads as zeros", () => {
  using fd = memfdCreate("holes");
  ftruncate(fd, 2 ** 20);
  pwrite(fd, new Uint8Array(65536).fill(7), 0);
  const full = fstat(fd).allocatedBytes;
  punchHole(fd, 0, 32768);
  assert.equal(fstat(fd).allocatedBytes, full - 32768);
  const into = new Uint8Array(2);
  pread(fd, into, 32767);
  assert.deepEqual([...into], [0, 7]);
});

Deno.test("locks exclude other open files and end with them", () => {
  const path = Deno.makeTempFileSync();
  try {
    using first = openFile(path, OpenFlag.ReadWrite);
    {
      using second = openFile(path, OpenFlag.ReadWrite);
      assert.ok(flock(first, "shared"));
      assert.ok(flock(second, "shared"));
      assert.ok(!flock(first, "exclusive"));
    }
    assert.ok(flock(first, "exclusive"));
    using third = openFile(path, OpenFlag.ReadWrite);
    assert.ok(!flock(third, "shared"));
    assert.ok(flock(first, "release"));
    assert.ok(flock(third, "shared"));
  } finally {
    Deno.removeSync(path);
  }
});

Deno.test("non-blocking pipes say when there is nothing or no room", () => {
  const { reader, writer } = pipe({ nonblock: true });
  using r = reader;
  using w = writer;
  assert.equal(tryRead(r, new Uint8Array(4)), -1);
  let written = 0;
  for (;;) {
    const count = tryWrite(w, new Uint8Array(4096));
    if (count < 0) break;
    written += count;
  }
  assert.ok(written > 0);
  assert.throws(() => writeAll(w, new Uint8Array(1), { timeoutMs: 5 }), isCode("ETIMEDOUT"));
  r.close();
  assert.throws(() => writeAll(w, new Uint8Array(1)), isCode("EPIPE"));
});

Deno.test("writeAll waits for a slow reader of a non-blocking pipe", async () => {
  const { reader, writer } = pipe();
  using w = writer;
  setNonblocking(w, true);
  const source = `
    import { Fd, read } from ${JSON.stringify(new URL("./mod.ts", import.meta.url).href)};
    self.onmessage = (event) => {
      using fd = Fd.adopt(event.data);
      const into = new Uint8Array(3000);
      let sum = 0, total = 0, count = 0;
      while ((count = read(fd, into)) > 0) {
        total += count;
        for (let at = 0; at < count; at++) sum = (sum * 31 + into[at]) >>> 0;
      }
      self.postMessage([total, sum]);
    };`;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module" });
  worker.postMessage(reader.take());
  const answer = new Promise<number[]>((resolve) => {
    worker.onmessage = (event: MessageEvent<number[]>) => resolve(event.data);
  });
  const bytes = Uint8Array.from({ length: 1_000_000 }, (_, at) => at * 7);
  writeAll(w, bytes);
  w.close();
  const sum = bytes.reduce((value, byte) => (value * 31 + byte) >>> 0, 0);
  assert.deepEqual(await answer, [bytes.length, sum]);
  worker.terminate();
  URL.revokeObjectURL(url);
});

Deno.test("ioctl passes numbers and memory, and returns or throws errors", () => {
  const FIONREAD = 0x541b;
  const { reader, writer } = pipe();
  using r = reader;
  using w = writer;
  write(w, new Uint8Array(17));
  const count = new Int32Array(new ArrayBuffer(4));
  assert.equal(ioctl(r, FIONREAD, count), 0);
  assert.equal(count[0], 17);
  assert.equal(ioctl(r, FIONREAD, Deno.UnsafePointer.of(count)), 0);
  assert.equal(tryIoctl(r.raw, 0xdead, 1), -25);
  assert.equal(ioctlFast(-1, 0xdead, 0), -9);
  assert.equal(tryIoctl(r.raw, FIONREAD, -1), -14);
  assert.equal(tryIoctl(r.raw, FIONREAD, 0xffff_8000_0000_0000n), -14);
  assert.throws(() => ioctl(r, 0xdead, 0, "NO_SUCH"), /ioctl NO_SUCH: .*ENOTTY/);
  // A request that names its size is not given less.
  assert.throws(() => ioctl(r, 0x8040_0000, new Uint8Array(8)), /needs 64 bytes, got 8/);
});
