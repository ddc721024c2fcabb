/**
 * Memory for translated code: what was made of code that is changed must go, and where there is more
 * than may be, all goes and the guest goes on.
 */

import assert from "node:assert/strict";
import { openSoft, type SoftVcpu, type Tier } from "../soft/mod.ts";
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

/** Functions in pages of their own, each with a region of its own, more than may be kept. */
const FUNCTIONS = 40;
const FEW_BYTES = 128 << 10;
const PASSES = 3;

for (const tier of ["translator-forced", "random", "spot-checks"] as const) {
  Deno.test({
    name: `with hardly any memory for translated code a guest goes on (${tier})`,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: () => runInLittle(tier),
  });
}

/** `mov edx, 30; again: lea eax, [rax + 2 rax + number]; dec edx; jnz again; ret` */
function functionOf(number: number): Uint8Array {
  return Uint8Array.of(
    ...[0xba, 30, 0, 0, 0, 0x8d, 0x84, 0x40, number, 0, 0, 0, 0xff, 0xca, 0x75, 0xf5, 0xc3],
  );
}

async function runInLittle(tier: Tier): Promise<void> {
  // Long enough for tiers that only look at what takes time.
  const calls = tier === "translator-forced" ? 4 : 30;
  const helper = await Helper.start();
  try {
    using machine = new TestMachine({
      hypervisor: openSoft({ tier, translations: { codeLimitBytes: FEW_BYTES } }),
      helper,
      vcpuCount: 1,
    });
    const order = Array.from({ length: FUNCTIONS }, (_, n) => n);
    for (const n of order) machine.memory.writeFrom(FREE + 4096 * n, functionOf(n));
    machine.load(64, (a) => {
      a.xor("eax", "eax").mov("edi", PASSES).label("pass").mov("ebx", FREE).mov("esi", FUNCTIONS);
      a.label("next").mov("ecx", calls).label("again").call("rbx").dec("ecx").jcc("ne", "again");
      a.out(Port.Note, "al").add("rbx", 4096).dec("esi").jcc("ne", "next");
      a.dec("edi").jcc("ne", "pass").out(Port.Report, "eax").out(Port.Done, "al");
    });
    let most = 0;
    machine.io.onNote = () => {
      const { liveBytes } = (machine.vcpu as SoftVcpu).stats();
      most = Math.max(most, liveBytes ?? Infinity);
    };
    machine.startLong();
    machine.run();
    let expected = 0;
    for (let pass = 0; pass < PASSES; pass++) {
      for (const n of order) {
        for (let turn = 0; turn < 30 * calls; turn++) expected = (expected * 3 + n) >>> 0;
      }
    }
    assert.deepEqual(machine.io.reports, [expected]);
    const stats = (machine.vcpu as SoftVcpu).stats();
    const text = `${most} ${JSON.stringify(stats)}`;
    assert.ok((stats["codeFlushes"] ?? 0) >= PASSES, text);
    // The module that was one too many is there until the next look.
    assert.ok(most < FEW_BYTES + (32 << 10), text);
  } finally {
    helper.stop();
  }
}
