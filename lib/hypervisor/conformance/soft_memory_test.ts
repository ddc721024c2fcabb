/**
 * Code that is translated and changed, over and over: what was made of it must go.
 */

import assert from "node:assert/strict";
import { openSoft, type SoftVcpu } from "../soft/mod.ts";
import { at } from "./asm/mod.ts";
import { FREE, Port } from "./layout.ts";
import { Helper, TestMachine } from "./machine.ts";

/** Times that the guest changes its function in a round. */
const CHANGES = 1000;
/** `mov edx, 20; again: mov eax, imm32; dec edx; jnz again; ret` */
const FUNCTION = Uint8Array.of(0xba, 20, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xff, 0xca, 0x75, 0xf7, 0xc3);
/** Where the number in it is. */
const NUMBER = 6;

const MIB = 2 ** 20;

function rssMib(): number {
  return Deno.memoryUsage().rss / MIB;
}

Deno.test({
  name: "translated code that is changed is given back",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const helper = await Helper.start();
    try {
      using machine = new TestMachine({
        hypervisor: openSoft({ tier: "translator-forced" }),
        helper,
        vcpuCount: 1,
      });
      machine.memory.writeFrom(FREE, FUNCTION);
      machine.load(64, (a) => {
        a.label("round").mov("rbx", FREE).mov("ecx", CHANGES).xor("edi", "edi").label("loop");
        a.call("rbx").add("edi", "eax").add(at("rbx", { disp: NUMBER, size: 4 }), 3).dec("ecx");
        a.jcc("ne", "loop").mov("eax", "edi").out(Port.Report, "eax").out(Port.Note, "al");
        a.jmp("round");
      });
      const rounds: { rss: number; stats: Record<string, number> }[] = [];
      machine.io.onNote = () => {
        const stats = (machine.vcpu as SoftVcpu).stats();
        rounds.push({ rss: rssMib(), stats });
        if (rounds.length === 4) machine.io.done = true;
      };
      machine.startLong();
      machine.run();
      const [first, , , last] = rounds;
      assert(first !== undefined && last !== undefined);
      const text = JSON.stringify(rounds);
      // It did change and translate.
      assert.ok((last.stats["invalidated"] ?? 0) > 3 * CHANGES, text);
      assert.ok((last.stats["modules"] ?? 0) > 500, text);
      // What is in use now is a handful of modules, at any time.
      for (const { stats } of rounds) assert.ok((stats["liveBytes"] ?? Infinity) < MIB, text);
      // A module takes tens of KiB: all of them would be far more.
      assert.ok(last.rss - first.rss < 100, text);
    } finally {
      helper.stop();
    }
  },
});
