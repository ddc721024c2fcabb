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

Deno.test({
  name: "translated code that is changed is given back",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const helper = await Helper.start();
    try {
      using machine = new TestMachine({
        hypervisor: openSoft({
          tier: "translator-forced",
          translations: { codeLimitBytes: 16 * MIB, cacheLimitBytes: MIB },
        }),
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
      const rounds: Record<string, number>[] = [];
      machine.io.onNote = () => {
        rounds.push((machine.vcpu as SoftVcpu).stats());
        if (rounds.length === 4) machine.io.done = true;
      };
      machine.startLong();
      machine.run();
      const last = rounds[3] ?? {};
      const text = JSON.stringify(rounds);
      // It did change and translate.
      assert.ok((last["invalidated"] ?? 0) > 3 * CHANGES, text);
      assert.ok((last["modules"] ?? 0) > 3 * CHANGES, text);
      for (const { liveBytes, instances, keptUnits } of rounds) {
        // What is in use is a handful of modules at any time; of what is not, some is kept.
        assert.ok((liveBytes ?? Infinity) < MIB, text);
        assert.ok((instances ?? Infinity) < 100, text);
        assert.ok((keptUnits ?? Infinity) < 100, text);
      }
    } finally {
      helper.stop();
    }
  },
});
