/** Code that another thread translates: that it comes and is right, and what is where nobody answers. */

import assert from "node:assert/strict";
import { setLogSink } from "../../base/mod.ts";
import type { Vm } from "../mod.ts";
import { type DeskHandle, TranslationDesk } from "../soft/cpu/translator/desk.ts";
import { openSoft, type SoftVcpu, type Tier } from "../soft/mod.ts";
import { at } from "./asm/mod.ts";
import { FREE, Port } from "./layout.ts";
import { Helper, TestMachine } from "./machine.ts";

function deskOf(vm: Vm): DeskHandle {
  return (vm.handle() as unknown as { desk: DeskHandle }).desk;
}

interface Rig extends Disposable {
  readonly machine: TestMachine;
  readonly stats: () => Record<string, number>;
}

/** Runs `body` with machines that `make` makes, whose server is the same thread. */
async function withServer(
  body: (make: (tier: Tier, served?: boolean | "later") => Rig) => void,
): Promise<void> {
  const [helper, server] = await Promise.all([Helper.start(), Helper.start()]);
  const make = (tier: Tier, served: boolean | "later" = true): Rig => {
    const machine = new TestMachine({
      hypervisor: openSoft({ tier }),
      server: served === true ? server : undefined,
      ...{ helper, vcpuCount: 1 },
    });
    const desk = TranslationDesk.attach(deskOf(machine.vm));
    if (served === true) desk.awaitOpen();
    // As if somebody did.
    else if (!served) desk.open();
    return {
      machine,
      stats: () => (machine.vcpu as SoftVcpu).stats(),
      [Symbol.dispose]: () => machine[Symbol.dispose](),
    };
  };
  try {
    body(make);
  } finally {
    helper.stop();
    server.stop();
  }
}

const loose = { sanitizeOps: false, sanitizeResources: false } as const;

/** A loop that adds, which notes each of its rounds until the test has seen enough. */
function loadRounds(machine: TestMachine): void {
  machine.load(64, (a) => {
    a.label("round").mov("ecx", 20_000).xor("eax", "eax");
    a.label("again").add("eax", "ecx").dec("ecx").jcc("ne", "again");
    a.out(Port.Report, "eax").out(Port.Note, "al").jmp("round");
  });
  machine.startLong();
}

const SUM = 20_000 * 20_001 / 2 % 2 ** 32;

Deno.test({
  name: "hot code is translated on another thread, for one VM after the other",
  ...loose,
  fn: () =>
    withServer((make) => {
      for (let vm = 0; vm < 3; vm++) {
        using rig = make("auto");
        const { machine, stats } = rig;
        loadRounds(machine);
        machine.io.onNote = () => machine.io.done = (stats()["modules"] ?? 0) > 0;
        machine.run();
        const { regions, instructions, elsewhereMilliseconds } = stats();
        assert.ok((regions ?? 0) > 0 && (instructions ?? 0) > 0, JSON.stringify(stats()));
        assert.ok((elsewhereMilliseconds ?? 0) > 0, JSON.stringify(stats()));
        machine.io.onNote = () => machine.io.done = true;
        machine.run();
        assert.ok(machine.io.reports.every((sum) => sum === SUM), `${machine.io.reports}`);
      }
    }),
});

Deno.test({
  name: "where nobody serves yet, the vCPU waits a while before it translates itself",
  ...loose,
  fn: () =>
    withServer((make) => {
      using rig = make("auto", "later");
      const { machine, stats } = rig;
      loadRounds(machine);
      const start = performance.now();
      machine.io.onNote = () => machine.io.done = (stats()["modules"] ?? 0) > 0;
      machine.run();
      const waited = performance.now() - start;
      assert.ok(waited >= 250, `${waited} ms`);
      assert.equal(stats()["elsewhereMilliseconds"], 0);
      machine.io.onNote = () => machine.io.done = true;
      machine.run();
      assert.ok(machine.io.reports.every((sum) => sum === SUM), `${machine.io.reports}`);
    }),
});

/** `mov edx, 200; again: mov eax, imm32; dec edx; jnz again; ret` */
const FUNCTION = Uint8Array.of(0xba, 200, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xff, 0xca, 0x75, 0xf7, 0xc3);
/** Where the number in it is. */
const NUMBER = 6;
const CHANGES = 2000;

Deno.test({
  name: "what another thread translated counts only where the code is still the same",
  ...loose,
  fn: () =>
    withServer((make) => {
      using rig = make("elsewhere");
      const { machine, stats } = rig;
      machine.memory.writeFrom(FREE, FUNCTION);
      // The function's number changes with each call, often while it is being translated.
      machine.load(64, (a) => {
        a.mov("rbx", FREE).mov("ecx", CHANGES).xor("edi", "edi").label("loop");
        a.call("rbx").add("edi", "eax").add(at("rbx", { disp: NUMBER, size: 4 }), 3).dec("ecx");
        a.jcc("ne", "loop").out(Port.Note, "al").mov("eax", "edi").out(Port.Report, "eax");
        a.out(Port.Done, "al");
      });
      machine.startLong();
      machine.run();
      assert.deepEqual(machine.io.reports, [3 * CHANGES * (CHANGES - 1) / 2]);
      const { modules, invalidated } = stats();
      assert.ok((modules ?? 0) > 10 && (invalidated ?? 0) >= CHANGES, JSON.stringify(stats()));
    }),
});

Deno.test({
  name: "where the thread that translates says nothing, the vCPU does without",
  ...loose,
  fn: () =>
    withServer((make) => {
      const said: string[] = [];
      using sink = new DisposableStack();
      setLogSink((line) => said.push(line));
      sink.defer(() => setLogSink(undefined));
      using rig = make("auto", false);
      const { machine, stats } = rig;
      loadRounds(machine);
      machine.io.onNote = () => machine.io.done = (stats()["regions"] ?? 0) > 0;
      machine.run();
      assert.equal(stats()["elsewhereMilliseconds"], 0);
      assert.match(said.join("\n"), /does not answer; vCPUs translate themselves/);
      assert.ok(machine.io.reports.every((sum) => sum === SUM), `${machine.io.reports}`);
    }),
});

Deno.test({
  name: "where the thread that translates is known to have failed, vCPUs do without at once",
  ...loose,
  fn: () =>
    withServer((make) => {
      using rig = make("auto", false);
      const { machine, stats } = rig;
      loadRounds(machine);
      let rounds = 0;
      machine.io.onNote = () => {
        if (++rounds === 20) machine.vm.service?.lost();
        machine.io.done = (stats()["regions"] ?? 0) > 0;
      };
      machine.run();
      assert.ok(rounds >= 20, `${rounds}`);
      assert.equal(stats()["elsewhereMilliseconds"], 0);
    }),
});
