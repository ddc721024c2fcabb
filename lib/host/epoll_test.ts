import assert from "node:assert/strict";
import { Epoll, EpollFlag, Reactor } from "./epoll.ts";
import { eventfd, setTimer, signalEvent, takeEvent, timerfd } from "./event.ts";
import { listOpenFds } from "./fd.ts";
import { openFile, pipe, read, write } from "./file.ts";
import { monotonicNs, realtimeNs } from "./clock.ts";
import { poll, PollEvent, pollFd } from "./poll.ts";

Deno.test("eventfds count, and a semaphore gives one at a time", () => {
  using fd = eventfd(3, { nonblock: true });
  signalEvent(fd);
  assert.equal(takeEvent(fd), 4);
  assert.equal(takeEvent(fd), 0);
  using semaphore = eventfd(2, { nonblock: true, semaphore: true });
  assert.deepEqual([takeEvent(semaphore), takeEvent(semaphore), takeEvent(semaphore)], [1, 1, 0]);
  using full = eventfd(0, { nonblock: true });
  write(full, Uint8Array.of(0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff));
  signalEvent(full);
  assert.ok(takeEvent(full) > 2 ** 63);
});

Deno.test("poll tells what is ready", () => {
  const { reader, writer } = pipe();
  using r = reader;
  using w = writer;
  const both = () => poll([{ fd: r, events: PollEvent.In }, { fd: w, events: PollEvent.Out }], 0);
  assert.deepEqual(both(), [0, PollEvent.Out]);
  write(w, Uint8Array.of(1));
  assert.deepEqual(both(), [PollEvent.In, PollEvent.Out]);
  w.close();
  read(r, new Uint8Array(1));
  assert.equal(pollFd(r, PollEvent.In), PollEvent.HangUp);
});

Deno.test("epoll gives tokens and events", () => {
  using epoll = new Epoll(2);
  using a = eventfd(0, { nonblock: true });
  using b = eventfd(0, { nonblock: true });
  epoll.add(a, PollEvent.In, 2 ** 40 + 5);
  epoll.add(b, PollEvent.In | EpollFlag.EdgeTriggered);
  assert.equal(epoll.wait(0), 0);
  signalEvent(a);
  assert.equal(epoll.wait(), 1);
  assert.equal(epoll.token(0), 2 ** 40 + 5);
  assert.equal(epoll.events(0), PollEvent.In);
  signalEvent(b);
  assert.equal(epoll.wait(), 2);
  epoll.remove(a);
  assert.equal(epoll.wait(0), 0, "an edge is reported once");
  epoll.modify(b, PollEvent.In, 9);
  assert.equal(epoll.wait(0), 1);
  assert.equal(epoll.token(0), 9);
});

Deno.test("an epoll set sleeps for parts of a millisecond, and until there is an event", () => {
  using epoll = new Epoll(2);
  using timer = timerfd();
  epoll.add(timer, PollEvent.In, 7);
  for (const timeoutMs of [0, 0.01, 0.25, 0.999, 1.5]) {
    const start = monotonicNs();
    epoll.sleep(timeoutMs);
    assert.ok(monotonicNs() - start >= timeoutMs * 1e6, `${timeoutMs} ms`);
    assert.equal(epoll.wait(0), 0);
  }
  setTimer(timer, { ns: 100_000 });
  epoll.sleep(3_600_000.5);
  assert.equal(epoll.wait(0), 1);
  assert.equal(epoll.token(0), 7);
});

Deno.test("timers fire after their time and periodically", () => {
  using timer = timerfd();
  const start = monotonicNs();
  setTimer(timer, { ns: 3600e9 });
  assert.equal(takeEvent(timer), 0);
  setTimer(timer, { ns: 2e6, intervalNs: 1e6 });
  assert.equal(pollFd(timer, PollEvent.In, 5000), PollEvent.In);
  assert.ok(monotonicNs() - start >= 2e6);
  assert.ok(takeEvent(timer) >= 1);
  assert.equal(pollFd(timer, PollEvent.In, 5000), PollEvent.In);
  setTimer(timer, { ns: 0 });
  assert.equal(pollFd(timer, PollEvent.In, 5), 0);
  setTimer(timer, { ns: monotonicNs() - 1, absolute: true });
  assert.equal(pollFd(timer, PollEvent.In, 5000), PollEvent.In);
  const [earliest, now] = [Date.now(), realtimeNs() / 1e6];
  assert.ok(earliest - 1 <= now && now <= Date.now() + 1, `${now} ms after ${earliest} ms`);
});

Deno.test("the reactor calls back without blocking the thread", async () => {
  const before = listOpenFds();
  const events: string[] = [];
  {
    using reactor = new Reactor();
    using a = eventfd(0, { nonblock: true });
    using b = eventfd(0, { nonblock: true });
    const { promise, resolve } = Promise.withResolvers<void>();
    reactor.watch(a, PollEvent.In, () => {
      events.push(`a${takeEvent(a)}`);
      signalEvent(b);
    });
    const watch = reactor.watch(b, PollEvent.In, () => {
      events.push(`b${takeEvent(b)}`);
      if (events.length >= 4) resolve();
      else setTimeout(() => signalEvent(a), 1);
    });
    setTimeout(() => signalEvent(a), 1);
    await promise;
    watch[Symbol.dispose]();
  }
  assert.deepEqual(events, ["a1", "b1", "a1", "b1"]);
  // The waiting thread lets go of its descriptors in its own time.
  while (listOpenFds().length > before.length) {
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
});

Deno.test("the reactor pauses, goes on after errors, and reads regular files and /dev/null", async () => {
  const errors: unknown[] = [];
  using reactor = new Reactor((error) => errors.push(error));
  using a = eventfd(1, { nonblock: true });
  const first = Promise.withResolvers<void>();
  let calls = 0;
  using watch = reactor.watch(a, PollEvent.In, () => {
    calls++;
    watch.setEvents(0);
    first.resolve();
    throw new Error("from a callback");
  });
  await first.promise;
  const ended = Promise.withResolvers<void>();
  let bytes = 0;
  using file = openFile(new URL(import.meta.url).pathname);
  using fileWatch = reactor.watch(file, PollEvent.In, () => {
    const count = read(file, new Uint8Array(1000));
    bytes += count;
    if (count > 0) return;
    fileWatch[Symbol.dispose]();
    ended.resolve();
  });
  await ended.promise;
  assert.equal(bytes, Deno.statSync(new URL(import.meta.url)).size);
  assert.equal(calls, 1);
  assert.equal((errors[0] as Error).message, "from a callback");
  const again = Promise.withResolvers<void>();
  using nothing = openFile("/dev/null");
  using _nullWatch = reactor.watch(nothing, PollEvent.In, () => again.resolve());
  await again.promise;
});
