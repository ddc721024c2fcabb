import assert from "node:assert/strict";
import { eventfd } from "./event.ts";
import { getResourceLimit, getuid, Resource } from "./process.ts";
import {
  blockSignal,
  FIRST_REALTIME_SIGNAL,
  getpid,
  gettid,
  installNoopSignalHandler,
  kill,
  Signal,
  tgkill,
} from "./signal.ts";
import { pollFd } from "./poll.ts";

Deno.test("a signal to a thread interrupts its system call and nothing else", async () => {
  installNoopSignalHandler(FIRST_REALTIME_SIGNAL);
  using never = eventfd();
  const source = `
    import { PollEvent, gettid, pollFd } from ${
    JSON.stringify(new URL("./mod.ts", import.meta.url).href)
  };
    self.onmessage = (event) => {
      self.postMessage(gettid());
      self.postMessage(pollFd(event.data, PollEvent.In, 600_000));
    };`;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module" });
  const started = Date.now();
  const tid = Promise.withResolvers<number>();
  const result = Promise.withResolvers<number>();
  let messages = 0;
  worker.onmessage = (event: MessageEvent<number>) =>
    (messages++ === 0 ? tid : result).resolve(event.data);
  worker.postMessage(never.raw);
  const thread = await tid.promise;
  assert.notEqual(thread, gettid());
  // The worker may not wait yet: one signal could come too early.
  const timer = setInterval(() => tgkill(getpid(), thread, FIRST_REALTIME_SIGNAL), 5);
  assert.equal(await result.promise, 0);
  clearInterval(timer);
  assert.ok(Date.now() - started < 300_000, "it waited to the end of its time");
  worker.terminate();
  URL.revokeObjectURL(url);
});

Deno.test("a blocked signal waits for its unblocking", () => {
  installNoopSignalHandler(Signal.User2);
  blockSignal(Signal.User2);
  assert.ok(tgkill(getpid(), gettid(), Signal.User2));
  using never = eventfd();
  assert.equal(pollFd(never, 1, 1), 0);
  blockSignal(Signal.User2, false);
});

Deno.test("SIGPIPE is ignored by the runtime, which writing relies on", () => {
  const ignored = /SigIgn:\s*([0-9a-f]+)/.exec(Deno.readTextFileSync("/proc/self/status"))?.[1];
  assert.ok((BigInt(`0x${ignored}`) >> BigInt(Signal.Pipe - 1)) & 1n);
});

Deno.test("facts about processes", () => {
  assert.equal(getpid(), Deno.pid);
  assert.equal(getuid(), Deno.uid());
  assert.ok(kill(Deno.pid, 0));
  assert.ok(!kill(0x3fff_fff0, 0));
  assert.ok(!tgkill(getpid(), 0x3fff_fff0, 0));
  assert.ok(getResourceLimit(Resource.OpenFiles).soft > 0);
});
