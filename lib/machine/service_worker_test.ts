import assert from "node:assert/strict";
import { setLogSink } from "../base/mod.ts";
import type { Vm, VmService } from "../hypervisor/mod.ts";
import type { GuestMemory } from "../memory/mod.ts";
import { startService } from "./service_worker.ts";

const module = (code: string) => `data:text/javascript,${encodeURIComponent(code)}`;

/** A VM with `service`, as far as it is looked at here. */
function vmWith(service: VmService | undefined): Vm {
  return { service, handle: () => ({ kind: "soft" }) } as unknown as Vm;
}

const memory = { handle: () => ({}) } as unknown as GuestMemory;

Deno.test("a service's worker that fails is told to the vCPUs and ends nothing else", async () => {
  const lost = Promise.withResolvers<void>();
  const said: string[] = [];
  let ended = 0;
  setLogSink((line) => said.push(line));
  try {
    const service = { serve: () => {}, lost: () => lost.resolve(), end: () => ended++ };
    using _worker = startService(vmWith(service), memory, {
      moduleUrl: module("self.onmessage = () => { throw new TypeError('no more') };"),
    });
    await lost.promise;
  } finally {
    setLogSink(undefined);
  }
  assert.equal(ended, 1);
  assert.match(said.join(), /the worker that translates failed.*no more/);
});

Deno.test("a service's worker gets the VM's handle, and ends with what was returned", async () => {
  const channel = new BroadcastChannel("service_worker_test");
  const got = new Promise((resolve) => channel.onmessage = (event) => resolve(event.data));
  const service = { serve: () => {}, lost: () => {}, end: () => {} };
  {
    using _worker = startService(vmWith(service), memory, {
      moduleUrl: module(`self.onmessage = ({ data }) => {
        new BroadcastChannel("service_worker_test").postMessage([data.role, data.vm]);
        for (;;) ;
      };`),
    });
    assert.deepEqual(await got, ["service", { kind: "soft" }]);
  }
  channel.close();
});

Deno.test("an engine without a service gets no worker", () => {
  using _nothing = startService(vmWith(undefined), memory, { moduleUrl: module("throw 1") });
});
