import assert from "node:assert/strict";
import { setLogSink } from "../../base/mod.ts";
import {
  eventfd,
  type FdLike,
  pipe,
  PollEvent,
  Reactor,
  signalEvent,
  takeEvent,
  type Watch,
  type WatchCallback,
  writeAll,
} from "../../host/mod.ts";
import { DeviceLog } from "./device_log.ts";

/** Counts its calls. */
class CountingReactor extends Reactor {
  calls = 0;

  override watch(fd: FdLike, events: number, callback: WatchCallback): Watch {
    return super.watch(fd, events, (ready) => {
      this.calls++;
      callback(ready);
    });
  }
}

Deno.test("a device's log is read to its end, after which it costs nothing", async () => {
  const lines: string[] = [];
  setLogSink((line) => lines.push(line));
  try {
    using reactor = new CountingReactor();
    const { reader, writer } = pipe({ nonblock: true });
    using log = new DeviceLog(reader, { name: "a device", reactor });
    writeAll(writer, new TextEncoder().encode("info vmctl: hello\nand more"));
    writer.close();
    // Others have their turns: the log's end would come with each of them.
    using event = eventfd(0, { nonblock: true });
    const turns = 100;
    const done = Promise.withResolvers<void>();
    let seen = 0;
    using _watch = reactor.watch(event, PollEvent.In, () => {
      takeEvent(event);
      if (++seen === turns) done.resolve();
      else signalEvent(event);
    });
    signalEvent(event);
    await done.promise;
    assert.ok(reactor.calls <= turns + 3, `${reactor.calls} calls`);
    log[Symbol.dispose]();
    assert.match(lines.join(""), /^info +a device: hello\nwarn +a device: and more\n$/);
  } finally {
    setLogSink(undefined);
  }
});
