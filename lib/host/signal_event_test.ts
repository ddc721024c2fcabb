import assert from "node:assert/strict";
import { catchSignals, getpid, kill, PollEvent, pollFd, Signal, takeEvent } from "./mod.ts";

Deno.test("a caught signal is an event, each time", () => {
  const event = catchSignals([Signal.WindowChange, Signal.Continue]);
  assert.equal(pollFd(event, PollEvent.In, 0), 0);
  for (const signal of [Signal.WindowChange, Signal.Continue, Signal.WindowChange]) {
    kill(getpid(), signal);
    assert.equal(pollFd(event, PollEvent.In, 5000), PollEvent.In);
    takeEvent(event);
    assert.equal(pollFd(event, PollEvent.In, 0), 0);
  }
});
