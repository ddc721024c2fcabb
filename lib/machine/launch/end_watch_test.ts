import assert from "node:assert/strict";
import { setLogSink } from "../../base/mod.ts";
import { EndWatch } from "./end_watch.ts";

/** Runs `script` and ends it as a device; tells what was logged, and how it ended. */
async function end(
  script: string,
  limits: { readonly idleMs: number; readonly longestMs: number },
): Promise<{ readonly logged: string; readonly signal: string | null }> {
  const logged: string[] = [];
  setLogSink((line) => logged.push(line));
  const child = new Deno.Command("sh", { args: ["-c", script] }).spawn();
  try {
    const process = {
      pid: child.pid,
      kill: () => {
        child.kill("SIGKILL");
        return true;
      },
    };
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
