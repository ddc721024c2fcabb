/**
 * `deno task test`: everything that can be tested here, in one command. The last line of its output
 * is `N passed, N failed`; what this host cannot run is listed with the reason and counted above it.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { join, relative } from "node:path";
import { build, BuildError, DEFAULT_OUTPUT, isStale } from "./build/build.ts";
import { positive, runTask } from "./task/run_task.ts";
import { type FileOptions, runFile } from "./test/run_file.ts";
import { fileReport, Tally } from "./test/tally.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const FOLDERS = ["lib", "scripts", "tests"];
const HEARTBEAT_MS = 30_000;
/** Whole-program tests that mostly wait for a time to pass: they run beside the others. */
const WAITING: readonly string[] = ["tests/memory_pressure_test.ts"];

const USAGE = `usage: deno task test [--jobs N] [--timeout SECONDS] [PATH...]

Builds dist/vmctl where it is stale, checks format, lint and types, then runs all tests, the
whole-program ones against dist/vmctl (or the executable that VMCTL_BIN names).

  PATH               only test files and folders that begin so, and no checks
  -j, --jobs N       test files at a time (default: the number of CPUs; whole-program tests: half)
  --timeout SECONDS  for each test file (default: 1200)
`;

interface Settings {
  readonly filters: readonly string[];
  readonly jobs: number;
  readonly timeoutMs: number;
}

function say(text: string): void {
  console.log(text);
}

async function* testFiles(folder: string): AsyncGenerator<string> {
  let entries: Deno.DirEntry[];
  try {
    entries = await Array.fromAsync(Deno.readDir(join(ROOT, folder)));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) yield* testFiles(path);
    else if (entry.name.endsWith("_test.ts")) yield path;
  }
}

async function selectFiles(filters: readonly string[]): Promise<string[]> {
  const wanted = filters.map((filter) => relative(ROOT, filter));
  const files: string[] = [];
  for (const folder of FOLDERS) {
    for await (const path of testFiles(folder)) {
      if (wanted.length === 0 || wanted.some((prefix) => path.startsWith(prefix))) files.push(path);
    }
  }
  return files;
}

async function runFiles(
  files: readonly string[],
  options: FileOptions & { jobs: number; tally: Tally },
): Promise<void> {
  const waiting = [...files];
  const running = new Map<string, number>();
  const heartbeat = setInterval(() => {
    for (const [path, since] of running) {
      const seconds = Math.round((performance.now() - since) / 1000);
      if (seconds >= 30) say(`       ${path} is running (${seconds} s)`);
    }
  }, HEARTBEAT_MS);
  const work = async () => {
    for (let path = waiting.shift(); path !== undefined; path = waiting.shift()) {
      running.set(path, performance.now());
      const result = await runFile(path, options);
      running.delete(path);
      options.tally.addFile(result);
      say(fileReport(result));
    }
  };
  await Promise.all(Array.from({ length: options.jobs }, work));
  clearInterval(heartbeat);
}

async function runDenoStep(name: string, args: string[], tally: Tally): Promise<void> {
  const started = performance.now();
  const { success } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd: ROOT,
    stdin: "null",
    stdout: "inherit",
    stderr: "inherit",
  }).spawn().status;
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  say(`${success ? "ok    " : "FAILED"} ${name} (${seconds} s)`);
  tally.addStep(name, success);
}

async function buildExecutable(tally: Tally): Promise<void> {
  if (!(await isStale())) return;
  const started = performance.now();
  let trouble = "";
  try {
    await build({ output: DEFAULT_OUTPUT, compile: false });
  } catch (error) {
    if (!(error instanceof BuildError)) throw error;
    trouble = `\n${error.message}`;
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  say(`${trouble === "" ? "ok    " : "FAILED"} build (${seconds} s)${trouble}`);
  tally.addStep("build", trouble === "");
}

async function testAll(settings: Settings, tally: Tally): Promise<void> {
  const files = await selectFiles(settings.filters);
  const programs = files.filter((path) => path.startsWith("tests/"));
  const units = files.filter((path) => !path.startsWith("tests/"));
  if (files.length === 0) tally.addStep(`no test file begins with ${settings.filters}`, false);

  const env: Record<string, string> = { NO_COLOR: "1" };
  if (programs.length > 0 && !Deno.env.get("VMCTL_BIN")) {
    await buildExecutable(tally);
    env["VMCTL_BIN"] = DEFAULT_OUTPUT;
  }
  if (settings.filters.length === 0) {
    await runDenoStep("check", ["run", "-A", "scripts/check.ts"], tally);
  }
  const folder = await Deno.makeTempDir({ prefix: "vmctl-test-" });
  try {
    const options = { root: ROOT, folder, env, timeoutMs: settings.timeoutMs, tally };
    const isWaiting = (path: string) => WAITING.includes(path);
    await runFiles(units, { ...options, jobs: settings.jobs });
    await Promise.all([
      runFiles(programs.filter((path) => !isWaiting(path)), {
        ...options,
        jobs: Math.ceil(settings.jobs / 2),
      }),
      runFiles(programs.filter(isWaiting), { ...options, jobs: 1 }),
    ]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function test(settings: Settings): Promise<number> {
  const tally = new Tally();
  try {
    await testAll(settings, tally);
  } catch (error) {
    console.error(error);
    tally.addStep("the test runner itself", false);
  }
  for (const line of tally.summary()) say(line);
  return tally.ok ? 0 : 1;
}

function parseCommandLine(): Settings | "help" {
  const { values, positionals } = parseArgs({
    args: Deno.args,
    allowPositionals: true,
    options: {
      jobs: { type: "string", short: "j", default: `${navigator.hardwareConcurrency}` },
      timeout: { type: "string", default: "1200" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return "help";
  return {
    filters: positionals,
    jobs: positive("jobs", values.jobs),
    timeoutMs: positive("timeout", values.timeout) * 1000,
  };
}

if (import.meta.main) {
  Deno.exit(await runTask({ name: "test", usage: USAGE, parse: parseCommandLine, run: test }));
}
