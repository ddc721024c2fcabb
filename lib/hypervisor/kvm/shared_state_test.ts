import assert from "node:assert/strict";
import { MAX_GSI, SharedVmState } from "./shared_state.ts";

/** GSI, type and the first two words of each route of a table. */
function routes(table: Uint8Array<ArrayBuffer>): number[][] {
  const view = new DataView(table.buffer, table.byteOffset);
  return Array.from(
    { length: view.getUint32(0, true) },
    (_, index) => [0, 4, 16, 20, 24].map((offset) => view.getUint32(8 + index * 48 + offset, true)),
  );
}

Deno.test("a new VM's GSIs lead to the pins of the same number", () => {
  const table = routes(SharedVmState.create(1).routingTable());
  assert.equal(table.length, 40);
  const of = (gsi: number) =>
    table.filter(([number]) => number === gsi).map((each) => each.slice(1));
  assert.deepEqual(of(0), [[1, 0, 0, 0], [1, 2, 0, 0]]);
  assert.deepEqual(of(9), [[1, 1, 1, 0], [1, 2, 9, 0]]);
  assert.deepEqual(of(23), [[1, 2, 23, 0]]);
});

Deno.test("routes are replaced, shared and checked", () => {
  const state = SharedVmState.create(2);
  const other = SharedVmState.attach(state.buffer, 2);
  other.setRoutes(24, [{ type: "msi", address: 0xfee0_1000n, data: 0x41 }]);
  other.setRoutes(5, []);
  const table = routes(state.routingTable());
  assert.deepEqual(table.at(-1), [24, 2, 0xfee0_1000, 0, 0x41]);
  assert.ok(!table.some(([gsi]) => gsi === 5));
  assert.throws(() => state.setRoutes(MAX_GSI + 1, []), /GSI 4096/);
  assert.throws(() => state.setRoutes(1, [{ type: "irqchip", chip: "pic", pin: 16 }]), /no pin 16/);
  assert.equal(routes(state.routingTable()).length, table.length);
});

Deno.test("a vCPU is claimed once, its kick is taken once", () => {
  const state = SharedVmState.create(2);
  const slot = state.slot(1);
  assert.ok(slot.claim());
  assert.ok(!SharedVmState.attach(state.buffer, 2).slot(1).claim());
  assert.ok(state.slot(0).claim());
  slot.requestKick();
  slot.requestKick();
  assert.ok(!state.slot(0).takeKick());
  assert.ok(slot.takeKick());
  assert.ok(!slot.takeKick());
  slot.enter(1234);
  assert.equal(state.slot(1).tid, 1234);
  slot.leave();
  assert.equal(state.slot(1).tid, 0);
});
