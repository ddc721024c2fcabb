import assert from "node:assert/strict";
import { HostError, isHostError } from "./errno.ts";
import { eventfd, signalEvent, takeEvent } from "./event.ts";
import {
  addSeals,
  dupFd,
  Fd,
  getCloseOnExec,
  getSeals,
  getStatusFlags,
  inheritedFdOfPath,
  listOpenFds,
  Seal,
  setCloseOnExec,
  setNonblocking,
  validateInheritedFd,
} from "./fd.ts";
import { ftruncate, memfdCreate, OpenFlag, pipe, read } from "./file.ts";

const isCode = (code: string) => (error: unknown) =>
  error instanceof HostError && error.code === code;

Deno.test("a descriptor closes once, and is unusable after that", () => {
  const before = listOpenFds().length;
  const fd = eventfd();
  assert.equal(listOpenFds().length, before + 1);
  assert.ok(!fd.closed);
  fd[Symbol.dispose]();
  fd[Symbol.dispose]();
  assert.ok(fd.closed);
  assert.throws(() => fd.raw, isCode("EBADF"));
  assert.equal(listOpenFds().length, before);
});

Deno.test("taking the number leaves the descriptor open for the taker", () => {
  const fd = eventfd(0, { nonblock: true });
  const raw = fd.take();
  fd.close();
  using again = Fd.adopt(raw);
  signalEvent(again);
  assert.equal(takeEvent(again), 1);
  assert.throws(() => Fd.adopt(-1), HostError);
});

Deno.test("a duplicate shares the open file and closes at exec", () => {
  using fd = eventfd(0, { nonblock: true });
  using copy = dupFd(fd, 50);
  assert.ok(copy.raw >= 50);
  assert.ok(getCloseOnExec(copy));
  signalEvent(copy);
  assert.equal(takeEvent(fd), 1);
});

Deno.test("flags are read and set", () => {
  const { reader, writer } = pipe();
  using r = reader;
  using _w = writer;
  setNonblocking(r, true);
  assert.ok((getStatusFlags(r) & OpenFlag.NonBlock) !== 0);
  assert.throws(() => read(r, new Uint8Array(1)), isCode("EAGAIN"));
  setNonblocking(r, false);
  assert.equal(getStatusFlags(r) & OpenFlag.NonBlock, 0);
});

Deno.test("seals keep a memfd's size", () => {
  using fd = memfdCreate("test");
  ftruncate(fd, 8192);
  addSeals(fd, Seal.Shrink | Seal.Grow | Seal.Seal);
  assert.equal(getSeals(fd), Seal.Shrink | Seal.Grow | Seal.Seal);
  assert.throws(() => ftruncate(fd, 4096), isCode("EPERM"));
  assert.throws(() => ftruncate(fd, 16384), isCode("EPERM"));
  assert.throws(() => addSeals(fd, Seal.Write), isCode("EPERM"));
});

Deno.test("an inherited descriptor is duplicated, marked, and may be named twice", () => {
  using fd = eventfd(0, { nonblock: true });
  setCloseOnExec(fd, false);
  using first = validateInheritedFd(fd.raw);
  assert.ok(getCloseOnExec(fd));
  using second = validateInheritedFd(fd.raw);
  assert.notEqual(first.raw, fd.raw);
  signalEvent(first);
  assert.equal(takeEvent(second), 1);
});

Deno.test("descriptors that were not inherited are refused", () => {
  using own = eventfd();
  assert.throws(() => validateInheritedFd(own.raw), /was not passed to this process/);
  for (const raw of [-1, 1.5, NaN, 2 ** 40, 99_999]) {
    assert.throws(
      () => validateInheritedFd(raw),
      (error) => isHostError(error, "EBADF"),
      String(raw),
    );
  }
});

Deno.test("paths of descriptors", () => {
  assert.equal(inheritedFdOfPath("/proc/self/fd/7"), 7);
  assert.equal(inheritedFdOfPath("/dev/fd/12"), 12);
  for (const path of ["/proc/self/fd/", "/proc/1/fd/7", "/dev/fd/7x", "/dev/fd/-1", "7"]) {
    assert.equal(inheritedFdOfPath(path), undefined, path);
  }
});

Deno.test("errno belongs to the failed call, also under garbage collection and in workers", async () => {
  const hammer = () => {
    const bad = new Uint8Array(1);
    for (let turn = 0; turn < 20_000; turn++) {
      const garbage = new Array(50).fill(turn);
      assert.throws(() => read(987_654, bad), (error) => isHostError(error, "EBADF"));
      assert.equal(garbage.length, 50);
    }
  };
  const source = `
    import { read } from ${JSON.stringify(new URL("./mod.ts", import.meta.url).href)};
    let wrong = 0;
    const bad = new Uint8Array(1);
    for (let turn = 0; turn < 20000; turn++) {
      try { read(-1, bad); wrong++; } catch (error) { if (error.code !== "EBADF") wrong++; }
    }
    self.postMessage(wrong);`;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module" });
  const answer = new Promise<number>((resolve) => {
    worker.onmessage = (event: MessageEvent<number>) => resolve(event.data);
  });
  hammer();
  assert.equal(await answer, 0);
  worker.terminate();
  URL.revokeObjectURL(url);
});

Deno.test("a program takes what its parent passed, and not what it opened itself", async () => {
  const url = JSON.stringify(new URL("./mod.ts", import.meta.url).href);
  const program = `
    import { Fd, HostError, openFile, read, validateInheritedFd } from ${url};
    using own = openFile("/dev/null");
    try {
      validateInheritedFd(own.raw);
      console.log("own descriptor taken");
    } catch (error) {
      if (!(error instanceof HostError)) throw error;
    }
    using fd = validateInheritedFd(37);
    const into = new Uint8Array(20);
    console.log(new TextDecoder().decode(into.subarray(0, read(fd, into))));`;
  const { stdout, stderr } = await new Deno.Command("bash", {
    args: ["-c", 'exec 37<<<"from the parent"; exec "$0" eval "$1"', Deno.execPath(), program],
  }).output();
  assert.equal(
    new TextDecoder().decode(stdout).trim(),
    "from the parent",
    new TextDecoder().decode(stderr),
  );
});
