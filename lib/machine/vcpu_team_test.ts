import assert from "node:assert/strict";
import { ExitStatus, setLogSink } from "../base/mod.ts";
import { listOpenFds } from "../host/mod.ts";
import type { Vm } from "../hypervisor/mod.ts";
import type { Outcome } from "./outcome.ts";
import { VcpuTeam } from "./vcpu_team.ts";
import type { VcpuParts } from "./vcpu_team.ts";

/** A worker that plays a vCPU: `body` runs at the boot message, with the board's words in `words`. */
function workerModule(body: string): string {
  const board = new URL("./vcpu_board.ts", import.meta.url);
  const host = new URL("../host/mod.ts", import.meta.url);
  const code = `
    import { gettid } from ${JSON.stringify(host.href)};
    import { commandOf, VcpuBoard, VcpuCommand, VcpuPhase } from ${JSON.stringify(board.href)};
    self.onmessage = ({ data: start }) => {
      const board = VcpuBoard.attach(start.board);
      const id = start.id;
      board.setThread(id, gettid());
      self.onmessage = ({ data: boot }) => { ${body} };
    };`;
  return `data:text/javascript,${encodeURIComponent(code)}`;
}

/** Runs until it is stopped, pausing when it shall; hears of commands without a kick. */
const OBEDIENT = `
  for (;;) {
    const order = board.order;
    const command = commandOf(order);
    if (command === VcpuCommand.Stop) break;
    board.setPhase(id, command === VcpuCommand.Run ? VcpuPhase.Running : VcpuPhase.Parked, order);
    board.waitWhile(order);
  }
  postMessage({ type: "ended", outcome: undefined });
  board.setPhase(id, VcpuPhase.Ended, board.order);
  self.close();`;

interface Rig {
  readonly team: VcpuTeam;
  readonly outcome: Promise<Outcome>;
  readonly kicks: number[];
}

/** Longest that anything may take that ends at all, however busy the host. */
const PATIENCE_MS = 120_000;

function makeTeam(vcpuCount: number, moduleUrl: string, leaveTimeoutMs = PATIENCE_MS): Rig {
  const outcome = Promise.withResolvers<Outcome>();
  const team = new VcpuTeam({
    vcpuCount,
    moduleUrl,
    leaveTimeoutMs,
    watchMs: 20,
    events: { onOutcome: (value) => outcome.resolve(value), onOutputFailed: () => {} },
  });
  const kicks: number[] = [];
  const vm = { kick: (id: number) => kicks.push(id) } as unknown as Vm;
  team.attach(vm, {} as VcpuParts);
  return { team, outcome: outcome.promise, kicks };
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  while (!condition()) {
    assert(performance.now() < deadline);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const entry = { kind: "long64", rip: 0 } as const;

Deno.test("VcpuTeam: start barrier, pause, resume, stop", async () => {
  // The first worker makes what the runtime keeps.
  assert.equal(await makeTeam(1, workerModule(OBEDIENT)).team.stop(), true);
  const before = listOpenFds().length;
  const { team, kicks } = makeTeam(3, workerModule(OBEDIENT));
  await team.boot(entry);
  const phases = () => team.status().map(({ phase }) => phase);
  assert.deepEqual(phases(), ["suspended", "suspended", "suspended"]);
  for (let turn = 0; turn < 20; turn++) {
    team.run();
    await team.pause();
    assert.deepEqual(phases(), ["suspended", "suspended", "suspended"]);
  }
  assert(kicks.length >= 60);
  assert.equal(await team.stop(), true);
  assert.deepEqual(phases(), ["stopped", "stopped", "stopped"]);
  // A worker's thread lets its own descriptors go a moment later.
  await until(() => listOpenFds().length <= before);
});

Deno.test("VcpuTeam: a vCPU that hears late of a run is not paused before it hears of the pause", async () => {
  // Before and after it says so it takes longer than a pause takes otherwise.
  const dawdle = `if (commandOf(order) === VcpuCommand.Run) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
    }`;
  const slow = OBEDIENT
    .replace("const command =", `${dawdle} const command =`)
    .replace("board.waitWhile", `${dawdle} board.waitWhile`);
  const { team } = makeTeam(2, workerModule(slow));
  await team.boot(entry);
  for (let turn = 0; turn < 10; turn++) {
    team.run();
    // Some have heard of it by then.
    await new Promise((resolve) => setTimeout(resolve, turn % 3));
    await team.pause();
    const phases = new Set<string>();
    const end = performance.now() + 50;
    do {
      for (const { phase } of team.status()) phases.add(phase);
      await new Promise((resolve) => setTimeout(resolve, 5));
    } while (performance.now() < end);
    assert.deepEqual([...phases], ["suspended"]);
  }
  assert.equal(await team.stop(), true);
});

Deno.test("VcpuTeam: nothing undoes that vCPUs are to end", async () => {
  // Each hears late of whatever it is told.
  const slow = OBEDIENT.replace(
    "board.waitWhile(order);",
    "board.waitWhile(order); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);",
  );
  const { team } = makeTeam(2, workerModule(slow));
  await team.boot(entry);
  team.run();
  const stopping = team.stop();
  // As a pause does that is given up.
  team.run();
  await assert.rejects(team.pause(), /the vCPUs end/);
  assert.equal(await stopping, true);
  team.run();
});

Deno.test("VcpuTeam: who makes ready what the guest will need sees that it is called", async () => {
  const busy = workerModule(OBEDIENT).replace(
    encodeURIComponent("const id = start.id;"),
    encodeURIComponent("const id = start.id; while (!board.isCalled);"),
  );
  assert.ok(busy.includes("isCalled"));
  const { team } = makeTeam(2, busy);
  await team.boot(entry);
  assert.equal(await team.stop(), true);
  // So do those that end without a boot.
  assert.equal(await makeTeam(1, busy).team.stop(), true);
});

Deno.test("VcpuTeam: stopped before its boot, and before anything attached", async () => {
  const { team } = makeTeam(2, workerModule(OBEDIENT));
  assert.equal(await team.stop(), true);
  const idle = new VcpuTeam({
    vcpuCount: 2,
    moduleUrl: workerModule(OBEDIENT),
    events: { onOutcome: () => assert.fail(), onOutputFailed: () => {} },
  });
  assert.equal(await idle.stop(), true);
});

Deno.test("VcpuTeam: a worker that throws ends the VM as a crash, and the others stop", async () => {
  const body = `if (id === 1) throw new Error("boom in the worker"); ${OBEDIENT}`;
  const { team, outcome } = makeTeam(2, workerModule(body));
  await team.boot(entry);
  team.run();
  const { status, why } = await outcome;
  assert.equal(status, ExitStatus.Crash);
  assert.match(why, /vCPU 1 failed.*boom in the worker/);
  assert.equal(await team.stop(), true);
});

Deno.test("VcpuTeam: a worker that ends without a word ends the VM as a crash", async () => {
  const silent =
    `if (id === 1) { board.setPhase(id, VcpuPhase.Parked, board.order); self.close(); return; }`;
  const { team, outcome } = makeTeam(2, workerModule(`${silent} ${OBEDIENT}`));
  await team.boot(entry);
  team.run();
  const { status, why } = await outcome;
  assert.equal(status, ExitStatus.Crash);
  assert.match(why, /the worker of vCPU 1 ended without/);
  assert.equal(await team.stop(), true);
});

Deno.test("VcpuTeam: a worker that cannot be loaded ends the VM as a crash", async () => {
  const { team, outcome } = makeTeam(1, "data:text/javascript,import 'data:nothing'");
  await team.boot(entry);
  assert.equal((await outcome).status, ExitStatus.Crash);
  assert.equal(await team.stop(), true);
});

Deno.test("VcpuTeam: a vCPU that does not leave is kicked again, then reported", async () => {
  const lines: string[] = [];
  setLogSink((line) => lines.push(line));
  try {
    // It hears nothing until it is terminated.
    const deaf = `const hold = board.order;
      board.setPhase(id, VcpuPhase.Parked, hold); board.waitWhile(hold);
      board.setPhase(id, VcpuPhase.Running, board.order); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);`;
    const { team, kicks } = makeTeam(1, workerModule(deaf), 300);
    await team.boot(entry);
    team.run();
    await until(() => team.status()[0]?.phase === "running");
    await assert.rejects(team.pause(), /did not stop within 300 ms/);
    assert(kicks.length >= 2);
    assert.equal(await team.stop(), false);
    assert.match(lines.join(""), /vCPU 0 did not stop within 300 ms/);
  } finally {
    setLogSink(undefined);
  }
});
