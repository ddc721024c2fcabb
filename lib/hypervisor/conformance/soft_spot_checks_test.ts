/**
 * Regions that run at full speed and are compared with the interpreter now and then, and what a
 * difference says.
 */

import assert from "node:assert/strict";
import { openSoft, type SoftVcpu } from "../soft/mod.ts";
import { at } from "./asm/mod.ts";
import { DATA, FREE, Port } from "./layout.ts";
import { Helper, TestMachine } from "./machine.ts";

/** Where no memory is. */
const DEVICE = 0x4000_0000;

function machineOf(helper: Helper): TestMachine {
  const hypervisor = openSoft({ tier: "spot-checks" });
  return new TestMachine({ hypervisor, helper, vcpuCount: 1 });
}

async function withHelper(test: (helper: Helper) => void): Promise<void> {
  const helper = await Helper.start();
  try {
    test(helper);
  } finally {
    helper.stop();
  }
}

Deno.test({
  name: "spot checks: regions are compared at first and later, most of what runs is not",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () =>
    withHelper((helper) => {
      using machine = machineOf(helper);
      const turns = 800_000;
      machine.load(64, (a) => {
        a.mov("ebx", FREE).mov("ecx", turns).xor("edi", "edi").label("loop");
        a.mov("eax", "ecx").shl("eax", 3).xor("edi", "eax").call("function").dec("ecx");
        a.jcc("ne", "loop").mov("eax", "edi").out(Port.Report, "eax").out(Port.Done, "al");
        a.label("function").mov(at("rbx", { size: 4 }), "edi").add("edi", at("rbx"));
        a.ret();
      });
      machine.startLong();
      machine.run();
      let expected = 0;
      for (let n = turns; n > 0; n--) expected = ((expected ^ (n << 3)) * 2) | 0;
      assert.deepEqual(machine.io.reports, [expected >>> 0]);
      const stats = (machine.vcpu as SoftVcpu).stats();
      const text = JSON.stringify(stats);
      const regions = stats["guardedRegions"] ?? 0;
      assert.ok(regions > 1, text);
      // What a larger one took the place of may not have run.
      assert.ok((stats["guardedRegionsCompared"] ?? 0) > regions / 2, text);
      // More than when it was new, and less than all.
      assert.ok((stats["comparedRegions"] ?? 0) > 100, text);
      assert.ok((stats["comparedInstructions"] ?? Infinity) < turns, text);
    }),
});

Deno.test({
  name: "spot checks: a difference is told with code, states and module",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () =>
    withHelper((helper) => {
      using machine = machineOf(helper);
      // A device that changes memory behind the processor's back: only once for both.
      let reads = 0n;
      machine.io.onMmioRead = () => {
        machine.memory.writeU64(DATA, ++reads);
        return 0n;
      };
      machine.load(64, (a) => {
        a.mov("ebx", DATA).mov("ebp", DEVICE).label("loop").mov("rax", at("rbx"));
        a.mov("rcx", at("rbp", { size: 8 })).jmp("loop");
      });
      machine.startLong();
      const message = told(() => machine.run());
      assert.match(
        message,
        /^region at 0xa[0-9a-f]{3}, \d+ instructions: region and interpreter differ:$/m,
      );
      assert.match(message, /^rax: region [0-9a-f]{16}, interpreter [0-9a-f]{16}$/m);
      assert.match(message, /^before: rax=0x[0-9a-f]+ rcx=0x0 /m);
      assert.match(message, /^rflags=0x/m);
      // mov rax, [rbx]
      assert.match(message, /^0xa[0-9a-f]{3} \d+ 488b03$/m);
      const module = message.split("module in base64:\n")[1]?.replaceAll("\n", "") ?? "";
      assert.ok(WebAssembly.validate(Uint8Array.fromBase64(module)));
    }),
});

function told(run: () => void): string {
  try {
    run();
  } catch (error) {
    if (error instanceof Error && error.name === "LockstepError") return error.message;
    throw error;
  }
  assert.fail("no difference was found");
}
