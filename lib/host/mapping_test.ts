import assert from "node:assert/strict";
import { HostError } from "./errno.ts";
import { ftruncate, memfdCreate, pread, pwrite } from "./file.ts";
import { Advice, bufferAddress, madvise, mmap, mmapFixedOver, unmapFixedOver } from "./mapping.ts";

const isCode = (code: string) => (error: unknown) =>
  error instanceof HostError && error.code === code;

Deno.test("a shared mapping and its file are the same bytes", () => {
  using fd = memfdCreate("map");
  ftruncate(fd, 8192);
  pwrite(fd, Uint8Array.of(1, 2, 3), 4096);
  using mapping = mmap(4096, { fd, offset: 4096 });
  assert.deepEqual([...mapping.bytes.subarray(0, 3)], [1, 2, 3]);
  mapping.view.setUint32(0, 0x04030201, true);
  const into = new Uint8Array(4);
  pread(fd, into, 4096);
  assert.deepEqual([...into], [1, 2, 3, 4]);
  using own = mmap(4096, { fd, shared: false });
  own.bytes[0] = 9;
  pread(fd, into, 0);
  assert.equal(into[0], 0);
});

Deno.test("after the unmapping its views are detached", () => {
  const mapping = mmap(65536);
  const kept = mapping.bytes;
  kept[65535] = 1;
  madvise(mapping.address, mapping.length, Advice.DontNeed);
  assert.equal(kept[65535], 0);
  mapping[Symbol.dispose]();
  mapping[Symbol.dispose]();
  assert.equal(kept.length, 0);
  assert.equal(mapping.buffer.byteLength, 0);
});

Deno.test("mappings that cannot be are refused", () => {
  assert.throws(() => mmap(0), isCode("EINVAL"));
  assert.throws(() => mmap(4096, { fd: 987_654 }), isCode("EBADF"));
  assert.throws(() => mmap(2 ** 48), isCode("ENOMEM"));
});

Deno.test("a file lies over a wasm memory, which compiled code and workers see", async () => {
  using fd = memfdCreate("overlay");
  ftruncate(fd, 131072);
  const memory = new WebAssembly.Memory({ initial: 3, maximum: 3, shared: true });
  new Uint8Array(memory.buffer)[0] = 77;
  mmapFixedOver(memory.buffer, 65536, 131072, fd, 0);
  pwrite(fd, Uint8Array.of(5), 70000);
  const bytes = new Uint8Array(memory.buffer);
  assert.equal(bytes[65536 + 70000], 5);
  assert.equal(bytes[0], 77, "what lies outside stays");
  const source = `self.onmessage = (event) => {
    const bytes = new Uint8Array(event.data.buffer);
    bytes[65536 + 70001] = bytes[65536 + 70000] + 1;
    self.postMessage(event.data.buffer.byteLength);
  };`;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module" });
  const answer = new Promise<number>((resolve) => {
    worker.onmessage = (event: MessageEvent<number>) => resolve(event.data);
  });
  worker.postMessage(memory);
  assert.equal(await answer, 196608);
  worker.terminate();
  URL.revokeObjectURL(url);
  const into = new Uint8Array(2);
  pread(fd, into, 70000);
  assert.deepEqual([...into], [5, 6]);
  assert.ok(bufferAddress(memory.buffer) % 4096n === 0n);
  unmapFixedOver(memory.buffer, 65536, 131072);
  assert.equal(bytes[65536 + 70000], 0);
  pread(fd, into, 70000);
  assert.deepEqual([...into], [5, 6]);
});

Deno.test("an overlay stays inside the buffer and on page borders", () => {
  using fd = memfdCreate("overlay");
  ftruncate(fd, 65536);
  const { buffer } = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  for (
    const [offset, length] of [[0, 131072], [65536, 4096], [1, 4096], [0, 100], [-4096, 4096], [
      0,
      NaN,
    ]]
  ) {
    assert.throws(() => mmapFixedOver(buffer, offset ?? 0, length ?? 0, fd, 0), isCode("EINVAL"));
  }
});
