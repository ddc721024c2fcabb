import assert from "node:assert/strict";
import { bufferAddress } from "../host/mod.ts";
import { createGuardedMemory, REACH } from "./guarded_memory.ts";

/** What is mapped in `length` bytes from `from` on: ranges without gaps, by their protection. */
function mapped(from: bigint, length: number): { start: number; end: number; how: string }[] {
  const ranges: { start: number; end: number; how: string }[] = [];
  for (const line of Deno.readTextFileSync("/proc/self/maps").split("\n")) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) (\S+)/.exec(line);
    if (match === null) continue;
    const start = Number(BigInt(`0x${match[1]}`) - from);
    const end = Number(BigInt(`0x${match[2]}`) - from);
    if (end <= 0 || start >= length) continue;
    const last = ranges.at(-1);
    const how = match[3] as string;
    if (last !== undefined && last.end === start && last.how === how) last.end = end;
    else ranges.push({ start, end, how });
  }
  return ranges;
}

Deno.test("nothing within the reach of an instruction can be accessed behind a guarded memory", () => {
  const all = [1, 16, 3000, 1, 65535].map((pages) => ({
    pages,
    memory: createGuardedMemory(pages),
  }));
  for (const { pages, memory } of all) {
    assert.equal(memory.buffer.byteLength, pages * 65536);
    const ranges = mapped(bufferAddress(memory.buffer), REACH);
    const [own, ...behind] = ranges;
    assert.deepEqual({ ...own, start: 0 }, { start: 0, end: pages * 65536, how: "rw-p" });
    let end = pages * 65536;
    for (const range of behind) {
      assert.equal(range.start, end);
      assert.equal(range.how, "---p");
      end = range.end;
    }
    assert(end >= REACH, `reserved up to ${end}`);
  }
});

Deno.test("guarded memories can be made by several threads at once", async () => {
  const source = `
    import { createGuardedMemory } from ${
    JSON.stringify(new URL("./guarded_memory.ts", import.meta.url).href)
  };
    const memories = [];
    for (let i = 0; i < 20; i++) memories.push(createGuardedMemory(1 + i));
    postMessage(memories);
  `;
  const url = `data:application/javascript,${encodeURIComponent(source)}`;
  const made = await Promise.all(
    [1, 2, 3].map(() =>
      new Promise<WebAssembly.Memory[]>((resolve, reject) => {
        const worker = new Worker(url, { type: "module" });
        worker.onmessage = (event: MessageEvent<WebAssembly.Memory[]>) => {
          resolve(event.data);
          worker.terminate();
        };
        worker.onerror = (event) => {
          event.preventDefault();
          reject(new Error(event.message));
        };
      })
    ),
  );
  for (const memory of made.flat()) {
    const ranges = mapped(bufferAddress(memory.buffer), REACH);
    for (const { start, how } of ranges.slice(1)) assert.equal(how, "---p", `at ${start}`);
    assert((ranges.at(-1)?.end ?? 0) >= REACH);
  }
});
