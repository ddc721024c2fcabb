import assert from "node:assert/strict";
import { FetchError } from "../guest/mod.ts";
import { positive, runTask, type Task, vcpuCount } from "./run_task.ts";

/** Runs a task; the result is its status and what it printed. */
async function outcome(
  task: Pick<Task<null>, "parse" | "run">,
): Promise<{ status: number; out: string; err: string }> {
  const { log, error } = console;
  let out = "";
  let err = "";
  console.log = (line: string) => out += line;
  console.error = (line: string) => err += line;
  try {
    const status = await runTask({ name: "try", usage: "usage: …", ...task });
    return { status, out, err };
  } finally {
    Object.assign(console, { log, error });
  }
}

Deno.test("a task ends with its status, its usage, or one line of what is wrong", async () => {
  const parse = () => null;
  const run = () => Promise.resolve(7);
  assert.deepEqual(await outcome({ parse, run }), { status: 7, out: "", err: "" });
  const help = await outcome({ parse: () => "help", run });
  assert.deepEqual(help, { status: 0, out: "usage: …", err: "" });
  const wrong = await outcome({
    parse: () => {
      throw new TypeError("--runs: wrong");
    },
    run,
  });
  assert.deepEqual(wrong, { status: 2, out: "", err: "try: --runs: wrong\n\nusage: …" });
  const lacking = await outcome({ parse, run: () => Promise.reject(new FetchError("no network")) });
  assert.deepEqual(lacking, { status: 1, out: "", err: "try: no network" });
  // A fault of the task is none of its user.
  const fault = outcome({ parse, run: () => Promise.reject(new TypeError("x is undefined")) });
  await assert.rejects(fault, /x is undefined/);
});

Deno.test("numbers on the command line are whole and positive, vCPUs as many as there can be", () => {
  assert.equal(positive("runs", "12"), 12);
  for (const text of ["", "0", "-1", "1.5", "x", "1e3", "0x10", " 1", "Infinity"]) {
    assert.throws(() => positive("runs", text), {
      name: "TypeError",
      message: `--runs: expected a positive whole number, got "${text}"`,
    });
  }
  assert.deepEqual([vcpuCount("1"), vcpuCount("32")], [1, 32]);
  assert.throws(() => vcpuCount("33"), /^TypeError: --cpus: expected 1 to 32 vCPUs, got 33$/);
  assert.throws(() => vcpuCount("none"), /--cpus: expected a positive whole number, got "none"/);
});
