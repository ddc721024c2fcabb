import assert from "node:assert/strict";

/** In a process of its own, as the threads are for all: nice values of threads by their names. */
const PROGRAM = `
  import { lowerPriority, lowerPriorityOfLast } from ${
  JSON.stringify(new URL("./mod.ts", import.meta.url).href)
};
  const look = () => [...Deno.readDirSync("/proc/self/task")].flatMap(({ name }) => {
    let stat;
    try {
      stat = Deno.readTextFileSync("/proc/self/task/" + name + "/stat");
    } catch {
      // The runtime ends idle threads.
      return [];
    }
    const end = stat.lastIndexOf(")");
    const nice = Number(stat.slice(end + 2).split(" ")[16]);
    return [[stat.slice(stat.indexOf("(") + 1, end), nice]];
  });
  // A thread has its parent's name until it has taken its own.
  const [main] = look()[0];
  while (look().filter(([name]) => name === main).length > 1);
  const before = look();
  const counts = [lowerPriority("V8 DefaultWorke", 3), lowerPriority("no such thread", 3)];
  const rest = look();
  const workers = [0, 1].map(() => new Worker("data:text/javascript,", { type: "module" }));
  const last = [lowerPriorityOfLast("worker-", 2), lowerPriorityOfLast("no such thread-", 2)];
  const withWorkers = look();
  for (const worker of workers) worker.terminate();
  console.log(JSON.stringify({ before, counts, after: rest, last, withWorkers }));`;

type Threads = [string, number][];

interface Said {
  readonly before: Threads;
  readonly counts: number[];
  readonly after: Threads;
  readonly last: boolean[];
  readonly withWorkers: Threads;
}

Deno.test("threads of a name go behind the others, or the last one of several", async () => {
  const { stdout, success } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", `data:text/javascript,${encodeURIComponent(PROGRAM)}`],
    stderr: "inherit",
  }).output();
  assert.ok(success);
  const { before, counts, after, last, withWorkers }: Said = JSON.parse(
    new TextDecoder().decode(stdout),
  );
  const nices = (threads: Threads, compiler: boolean) =>
    threads.filter(([name]) => (name === "V8 DefaultWorke") === compiler).map(([, nice]) => nice);
  const own = nices(before, false)[0] ?? 0;
  assert.ok(nices(after, true).length > 0);
  assert.deepEqual(counts, [nices(after, true).length, 0]);
  assert.ok(nices(after, true).every((nice) => nice === Math.min(own + 3, 19)), `${after}`);
  assert.ok(nices(after, false).every((nice) => nice === own), `${after}`);
  assert.deepEqual(last, [true, false]);
  const workers = withWorkers.filter(([name]) => /^worker-\d+$/.test(name)).map(([name, nice]) => ({
    number: Number(name.slice("worker-".length)),
    nice,
  })).sort((a, b) => a.number - b.number);
  assert.deepEqual(workers.map(({ nice }) => nice), [own, Math.min(own + 2, 19)]);
});
