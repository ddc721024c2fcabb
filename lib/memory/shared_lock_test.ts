import assert from "node:assert/strict";
import { SharedLock } from "./shared_lock.ts";
import { memoryFence, SharedCarver } from "./shared_state.ts";
import { GuestMemoryError } from "./errors.ts";

function startWorker(turns: number, buffer: SharedArrayBuffer): Promise<void> {
  const source = `
    import { SharedLock } from ${JSON.stringify(new URL("./mod.ts", import.meta.url).href)};
    self.onmessage = (event) => {
      const words = new Int32Array(event.data.buffer);
      const lock = new SharedLock(words, 1);
      for (let turn = 0; turn < event.data.turns; turn++) {
        lock.lock();
        // Not atomic: only the lock keeps updates from getting lost.
        const value = words[2];
        if (turn % 1000 === 0) Atomics.wait(words, 4, 0, 0.1);
        words[2] = value + 1;
        words[3] = words[3] + words[2] | 0;
        lock.unlock();
      }
      self.postMessage("done");
    };`;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module" });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  worker.onmessage = () => {
    worker.terminate();
    URL.revokeObjectURL(url);
    resolve();
  };
  worker.onerror = (event) => reject(new Error(event.message));
  worker.postMessage({ turns, buffer });
  return promise;
}

Deno.test("no update gets lost between workers and the main thread", async () => {
  const buffer = new SharedArrayBuffer(64);
  const words = new Int32Array(buffer);
  const workers = [1, 2, 3, 4].map(() => startWorker(20_000, buffer));
  const lock = new SharedLock(words, 1);
  for (let turn = 0; turn < 20_000; turn++) {
    lock.withLock(() => {
      words[2] = (words[2] ?? 0) + 1;
      words[3] = (words[3] ?? 0) + (words[2] ?? 0) | 0;
    });
    if (turn % 1000 === 0) await Promise.resolve();
  }
  await Promise.all(workers);
  assert.equal(words[2], 100_000);
  assert.equal(words[3], (100_000 * 100_001 / 2) | 0);
  assert.equal(words[1], 0, "free at the end");
});

Deno.test("a held lock is told, and is freed by an error", () => {
  const lock = new SharedLock(new Int32Array(new SharedArrayBuffer(4)));
  assert.ok(lock.tryLock());
  assert.ok(!lock.tryLock());
  lock.unlock();
  assert.throws(() =>
    lock.withLock(() => {
      throw new Error("inside");
    }), /inside/);
  assert.ok(lock.tryLock());
});

Deno.test("carving twice gives the same pieces, aligned and apart", () => {
  const buffer = new SharedArrayBuffer(256);
  const carve = () => {
    const carver = new SharedCarver(buffer);
    return [
      carver.uint8(3),
      carver.int32(2),
      carver.uint8(1),
      carver.float64(2),
      carver.bigInt64(1),
      carver.uint32(1),
      carver.view(10),
    ];
  };
  const first = carve();
  let end = 0;
  carve().forEach((piece, index) => {
    assert.equal(piece.byteOffset, first[index]?.byteOffset);
    assert.ok(piece.byteOffset >= end);
    end = piece.byteOffset + piece.byteLength;
  });
  assert.throws(() => new SharedCarver(buffer).int32(65), GuestMemoryError);
  memoryFence();
});
