import assert from "node:assert/strict";
import { EXIT_NAMES } from "./abi.ts";
import { describeExit } from "./exits.ts";

function runWith(reason: number, fill: (view: DataView) => void = () => {}): DataView {
  const view = new DataView(new ArrayBuffer(4096));
  view.setUint32(8, reason, true);
  fill(view);
  return view;
}

Deno.test("every exit reason is named", () => {
  for (const [reason, name] of EXIT_NAMES.entries()) {
    assert.ok(describeExit(runWith(reason)).startsWith(`KVM_EXIT_${name}`), name);
  }
  assert.match(describeExit(runWith(99)), /^KVM_EXIT_99 \(not known/);
});

Deno.test("an internal error tells its suberror, instruction and data", () => {
  const run = runWith(17, (view) => {
    view.setUint32(32, 1, true);
    view.setUint32(36, 3, true);
    view.setBigUint64(40, 1n, true);
    [3, 0x0f, 0xae, 0xf0].forEach((byte, index) => view.setUint8(48 + index, byte));
  });
  const text = describeExit(run);
  assert.match(text, /suberror 1, EMULATION/);
  assert.match(text, /instruction bytes 0f ae f0, data 0x1 0xf0ae0f03 0x0/);
  // A count beyond the structure is not followed.
  run.setUint32(36, 0xffff_ffff, true);
  assert.equal(describeExit(run).match(/0x[0-9a-f]+/g)?.length, 16);
});

Deno.test("a failed entry and a system event tell their codes", () => {
  const failed = runWith(9, (view) => {
    view.setBigUint64(32, 0x8000_0021n, true);
    view.setUint32(40, 3, true);
  });
  assert.match(describeExit(failed), /reason 0x80000021 on host CPU 3/);
  const event = runWith(24, (view) => {
    view.setUint32(32, 3, true);
    view.setUint32(36, 1, true);
    view.setBigUint64(40, 0xabcn, true);
  });
  assert.equal(describeExit(event), "KVM_EXIT_SYSTEM_EVENT: CRASH, data 0xabc");
});
