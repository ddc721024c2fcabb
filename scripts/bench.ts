/**
 * `deno task bench`: figures next to those of QEMU or of a C program, taken in the same run.
 *
 * @module
 */

import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { build, DEFAULT_OUTPUT, isStale } from "./build/build.ts";
import type { Bench } from "./bench/bench.ts";
import { bootBench } from "./bench/boot.ts";
import { devicesBench } from "./bench/devices.ts";
import { engineBench } from "./bench/engine.ts";
import { portExitBench } from "./bench/port_exit.ts";
import { json, type NamedResult, ratio, table } from "./bench/report.ts";
import { startBench } from "./bench/start.ts";
import { positive, runTask } from "./task/run_task.ts";

const BENCHES: readonly Bench[] = [bootBench, devicesBench, engineBench, portExitBench, startBench];

const USAGE = `usage: deno task bench [--json] [--runs N] [--strict] [NAME [PART...]]...

${BENCHES.map(({ name, summary }) => `  ${name.padEnd(10)} ${summary}`).join("\n")}

  --json     print JSON instead of a table
  --runs N   repeat each measurement N times
  --strict   status 1 when a figure is over its limit

What is measured is dist/vmctl, built where it is stale, or the executable that VMCTL_BIN names.
`;

interface Settings {
  /** With the parts that are asked for, none for all. */
  readonly benches: ReadonlyMap<Bench, ReadonlySet<string>>;
  readonly runs: number | undefined;
  readonly json: boolean;
  readonly strict: boolean;
}

function parseCommandLine(): Settings | "help" {
  const { values, positionals } = parseArgs({
    args: Deno.args,
    allowPositionals: true,
    options: {
      json: { type: "boolean", default: false },
      runs: { type: "string" },
      strict: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return "help";
  const runs = values.runs === undefined ? undefined : positive("runs", values.runs);
  const benches = chooseBenches(positionals);
  return { benches, runs, json: values.json, strict: values.strict };
}

/** Benchmarks and their parts, by the names on the command line; all where there is none. */
function chooseBenches(names: readonly string[]): Map<Bench, Set<string>> {
  const chosen = new Map<Bench, Set<string>>();
  let last: Bench | undefined;
  for (const name of names) {
    const bench = BENCHES.find((bench) => bench.name === name);
    // A name after a benchmark that has such a part means the part.
    if (last?.parts?.includes(name)) chosen.get(last)?.add(name);
    else if (bench !== undefined) chosen.set(last = bench, new Set());
    else {
      const expected = [...BENCHES.map(({ name }) => name), ...last?.parts ?? []];
      throw new TypeError(`"${name}": expected one of ${expected.join(", ")}`);
    }
  }
  return chosen.size > 0 ? chosen : new Map(BENCHES.map((bench) => [bench, new Set()]));
}

function hostFacts(): Record<string, unknown> {
  return {
    cpu: cpus()[0]?.model,
    cpus: navigator.hardwareConcurrency,
    kernel: Deno.osRelease(),
    deno: Deno.version.deno,
    v8: Deno.version.v8,
  };
}

async function bench(settings: Settings): Promise<number> {
  let vmctl = Deno.env.get("VMCTL_BIN");
  if (!vmctl) {
    vmctl = DEFAULT_OUTPUT;
    if (await isStale()) await build({ output: vmctl, compile: false });
  }
  const folder = await Deno.makeTempDir({ prefix: "vmctl-bench-" });
  const results: NamedResult[] = [];
  let failed = false;
  try {
    for (const [{ name, run }, parts] of settings.benches) {
      const { runs } = settings;
      const progress = (message: string) => console.error(message);
      try {
        results.push({ name, ...(await run({ vmctl, runs, parts, folder, progress })) });
      } catch (error) {
        failed = true;
        console.error(error);
        results.push({ name, measures: [], notes: ["failed, see above"] });
      }
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  console.log(settings.json ? json(results, hostFacts()) : table(results));
  const over = results.some(({ measures }) =>
    measures.some((measure) => (ratio(measure) ?? 0) > (measure.limit ?? Infinity))
  );
  return failed || settings.strict && over ? 1 : 0;
}

if (import.meta.main) {
  Deno.exit(await runTask({ name: "bench", usage: USAGE, parse: parseCommandLine, run: bench }));
}
