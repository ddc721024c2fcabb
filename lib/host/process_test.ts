import assert from "node:assert/strict";
import { join } from "node:path";
import { type ProcessStat, readProcessStat } from "./process.ts";

Deno.test("a process is told of, whatever it is called", async () => {
  const own = readProcessStat("/proc/self/stat");
  assert.ok(own.cpuTimeMs > 0, "the runtime has been loaded");
  const folder = await Deno.makeTempDir();
  // Its name has what follows names, too.
  const program = join(folder, "a) R 9 9");
  await Deno.copyFile("/bin/sleep", program);
  await Deno.chmod(program, 0o755);
  const child = new Deno.Command(program, { args: ["600"] }).spawn();
  try {
    const path = `/proc/${child.pid}/stat`;
    const sleeps = ({ name, state }: ProcessStat) => name === "a) R 9 9" && state === "S";
    while (!sleeps(readProcessStat(path))) await new Promise((done) => setTimeout(done, 1));
    const { group, foregroundGroup, cpuTimeMs } = readProcessStat(path);
    assert.deepEqual({ group, foregroundGroup }, {
      group: own.group,
      foregroundGroup: own.foregroundGroup,
    });
    assert.ok(cpuTimeMs >= 0 && cpuTimeMs < 100_000, `${cpuTimeMs}`);
  } finally {
    child.kill("SIGKILL");
    await child.status;
    await Deno.remove(folder, { recursive: true });
  }
  assert.throws(() => readProcessStat(`/proc/${child.pid}/stat`), Deno.errors.NotFound);
});
