/** Translations that an earlier run kept: that they are made ready, and used only where they fit. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { openSoft, type SoftVcpu } from "../soft/mod.ts";
import { FAR_CALL_TESTS } from "./cases/far_calls.ts";
import { TWO_PAGE_TESTS } from "./cases/two_pages.ts";
import { FREE, Port } from "./layout.ts";
import { Helper, TestMachine } from "./machine.ts";

/** Functions in pages of their own. */
const FUNCTIONS = 24;
const CALLS = 20;

/** `mov edx, 30; again: lea eax, [rax + 2 rax + number]; dec edx; jnz again; ret` */
function functionOf(number: number): Uint8Array {
  return Uint8Array.of(
    ...[0xba, 30, 0, 0, 0, 0x8d, 0x84, 0x40, number, 0, 0, 0, 0xff, 0xca, 0x75, 0xf5, 0xc3],
  );
}

interface Outcome {
  readonly stats: Record<string, number>;
  /** Instances before the guest began. */
  readonly ready: number;
}

/** Calls functions with these numbers, and checks what comes of that. */
function run(
  helper: Helper,
  of: { folder: string; numbers: readonly number[]; forced?: boolean; called?: boolean },
): Outcome {
  const { folder, numbers, forced, called } = of;
  const hypervisor = openSoft({
    tier: forced === true ? "translator-forced" : "auto",
    translations: { cacheFolder: folder },
  });
  using machine = new TestMachine({ hypervisor, helper, vcpuCount: 1 });
  numbers.forEach((number, n) => machine.memory.writeFrom(FREE + 4096 * n, functionOf(number)));
  machine.load(64, (a) => {
    a.xor("eax", "eax").mov("ebx", FREE).mov("esi", FUNCTIONS);
    a.label("next").mov("ecx", CALLS).label("again").call("rbx").dec("ecx").jcc("ne", "again");
    a.add("rbx", 4096).dec("esi").jcc("ne", "next");
    a.out(Port.Report, "eax").out(Port.Done, "al");
  });
  const vcpu = machine.vcpu as SoftVcpu;
  vcpu.prepare(() => called === true);
  const ready = vcpu.stats()["instances"] ?? 0;
  machine.startLong();
  machine.run();
  let expected = 0;
  for (const number of numbers) {
    for (let turn = 0; turn < 30 * CALLS; turn++) expected = (expected * 3 + number) >>> 0;
  }
  assert.deepEqual(machine.io.reports, [expected]);
  return { stats: vcpu.stats(), ready };
}

Deno.test({
  name:
    "kept translations are few modules, which are ready before the guest begins, and used only where they fit",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const helper = await Helper.start();
    const folder = Deno.makeTempDirSync();
    try {
      const numbers = Array.from({ length: FUNCTIONS }, (_, n) => n);
      const first = run(helper, { folder: join(folder, "a"), numbers, forced: true });
      const made = first.stats["modules"] ?? 0;
      assert.ok(made > FUNCTIONS, JSON.stringify(first.stats));
      assert.equal(first.ready, 0);
      const kept = () => {
        Deno.mkdirSync(join(folder, "b"), { recursive: true, mode: 0o700 });
        for (const { name } of Deno.readDirSync(join(folder, "a"))) {
          Deno.copyFileSync(join(folder, "a", name), join(folder, "b", name));
        }
        return join(folder, "b");
      };
      const again = run(helper, { folder: kept(), numbers });
      const text = JSON.stringify(again);
      // Far fewer than the units that they were made of.
      assert.ok(again.ready > 0 && again.ready < made / 4, text);
      assert.ok((again.stats["regionsFromDisk"] ?? 0) >= FUNCTIONS, text);
      assert.equal(again.stats["modules"], again.ready, text);
      // Nothing holds up a guest that is in place already.
      const called = run(helper, { folder: kept(), numbers, called: true });
      assert.equal(called.ready, 0);
      assert.ok((called.stats["regionsFromDisk"] ?? 0) >= FUNCTIONS);
      // Other code in half of the pages: what is kept of those is of no use, that of the others is.
      const others = numbers.map((n) => n % 2 === 0 ? n : n + 100);
      const changed = run(helper, { folder: kept(), numbers: others });
      const used = changed.stats["regionsFromDisk"] ?? 0;
      assert.ok(used >= FUNCTIONS / 2 && used < (again.stats["regionsFromDisk"] ?? 0), `${used}`);
    } finally {
      helper.stop();
      Deno.removeSync(folder, { recursive: true });
    }
  },
});

Deno.test({
  name: "kept translations over several pages do what they did, also where the code is changed",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const helper = await Helper.start();
    const folder = Deno.makeTempDirSync();
    try {
      for (const [i, test] of [...FAR_CALL_TESTS, ...TWO_PAGE_TESTS].entries()) {
        const used: number[] = [];
        for (const tier of ["translator-forced", "auto", "auto"] as const) {
          const translations = { cacheFolder: join(folder, String(i)) };
          const hypervisor = openSoft({ tier, translations });
          using machine = new TestMachine({ hypervisor, helper, vcpuCount: 1 });
          await test.run(machine);
          used.push((machine.vcpu as SoftVcpu).stats()["regionsFromDisk"] ?? 0);
        }
        assert.equal(used[0], 0);
        assert.ok((used[1] ?? 0) > 0 && (used[2] ?? 0) > 0, `${test.name}: ${used}`);
      }
    } finally {
      helper.stop();
      Deno.removeSync(folder, { recursive: true });
    }
  },
});
