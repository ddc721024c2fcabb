import assert from "node:assert/strict";
import { setLogSink } from "../../base/mod.ts";
import { endingProcess, endingThread, EndWatch } from "./end_watch.ts";

/** Runs `script` and ends it as a device; tells what was logged, and how it ended. */
async function end(
  script: string,
  limits: { readonly idleMs: number; readonly longestMs: number },
): Promise<{ readonly logged: string; readonly signal: string | null }> {
  const logged: string[] = [];
  setLogSink((line) => logged.push(line));
  const child = new Deno.Command("sh", { args: ["-c", script] }).spawn();
  try {
    const process = endingProcess(child.pid, () => child.kill("SIGKILL"));
    using watch = new EndWatch(process, { name: "device", ...limits });
    const never = watch.givenUp.then(() => assert.fail("the kernel ends it"));
    const { signal } = await Promise.race([child.status, never]);
    return { logged: logged.join(""), signal };
  } finally {
    setLogSink(undefined);
  }
}

Deno.test("a process that hangs is killed, and named", async () => {
  const stopped = await end("kill -STOP $$", { idleMs: 1000, longestMs: 600_000 });
  assert.equal(stopped.signal, "SIGKILL");
  assert.match(stopped.logged, /device \(process \d+\) has done nothing for 1 s.*is killed/);
  const asleep = await end("exec sleep 600", { idleMs: 1000, longestMs: 600_000 });
  assert.equal(asleep.signal, "SIGKILL");
});

Deno.test("a process that is at work may go on for longer, but not forever", async () => {
  const busy = await end("while :; do :; done", { idleMs: 1500, longestMs: 4000 });
  assert.equal(busy.signal, "SIGKILL");
  assert.match(busy.logged, /is still at work 4 s after .* is killed/);
  const works = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done";
  const done = await end(works, { idleMs: 60_000, longestMs: 600_000 });
  assert.deepEqual(done, { logged: "", signal: null });
});

/** As {@link end}, of a worker that does `script` when it has told its number. */
async function endWorker(
  script: string,
  limits: { readonly idleMs: number; readonly longestMs: number },
): Promise<{ readonly logged: string; readonly thread: number }> {
  const logged: string[] = [];
  setLogSink((line) => logged.push(line));
  const source = `
    import { gettid } from ${JSON.stringify(new URL("../../host/mod.ts", import.meta.url).href)};
    self.postMessage(gettid());
    ${script}
    self.postMessage("done");
  `;
  const url = `data:application/typescript,${encodeURIComponent(source)}`;
  const worker = new Worker(url, { type: "module" });
  let thread: number | undefined;
  const { promise: ended, resolve } = Promise.withResolvers<void>();
  worker.onmessage = ({ data }: MessageEvent<number | "done">) => {
    if (data === "done") resolve();
    else thread = data;
  };
  try {
    using _watch = new EndWatch(endingThread(() => thread, resolve), { name: "device", ...limits });
    await ended;
    return { logged: logged.join(""), thread: thread! };
  } finally {
    worker.terminate();
    setLogSink(undefined);
  }
}

Deno.test("a worker that hangs is told by its thread alone, and one that is at work may go on", async () => {
  const hang = "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 600_000);";
  // This process itself is at work.
  const busy = setInterval(() => {
    for (const end = performance.now() + 30; performance.now() < end;);
  }, 50);
  try {
    const hangs = await endWorker(hang, { idleMs: 1000, longestMs: 600_000 });
    assert.match(
      hangs.logged,
      new RegExp(`device \\(thread ${hangs.thread}\\) has done nothing for 1 s`),
    );
  } finally {
    clearInterval(busy);
  }
  const works = await endWorker("for (;;);", { idleMs: 1500, longestMs: 4000 });
  assert.match(works.logged, /device \(thread \d+\) is still at work 4 s after .* is killed/);
  const ends = await endWorker("", { idleMs: 60_000, longestMs: 600_000 });
  assert.equal(ends.logged, "");
});
