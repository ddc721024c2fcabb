/**
 * Runs one test file in a process of its own.
 *
 * @module
 */

import { join } from "node:path";
import { parseJunit, type TestOutcome } from "./junit.ts";

/** How a test file ended. */
export interface FileResult {
  readonly path: string;
  readonly outcomes: readonly TestOutcome[];
  /** What went wrong with the file as a whole, beyond its tests: a crash, an endless one. */
  readonly trouble: string | undefined;
  /** Everything that it printed. */
  readonly output: string;
  readonly seconds: number;
}

/** How to run it. */
export interface FileOptions {
  /** Working directory. */
  readonly root: string;
  /** Folder for the report. */
  readonly folder: string;
  readonly env: Record<string, string>;
  /** After this time the file has failed, in milliseconds. */
  readonly timeoutMs: number;
}

async function collect(stream: ReadableStream<Uint8Array>, into: string[]): Promise<void> {
  const decoder = new TextDecoder();
  for await (const bytes of stream) into.push(decoder.decode(bytes, { stream: true }));
}

function readReport(path: string): TestOutcome[] | undefined {
  try {
    return parseJunit(Deno.readTextFileSync(path));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Why the file counts as failed although none of its tests does. */
function findTrouble(
  status: Deno.CommandStatus,
  outcomes: readonly TestOutcome[] | undefined,
): string | undefined {
  const ending = status.signal === null ? `status ${status.code}` : status.signal;
  if (outcomes === undefined) return `ended with ${ending} before all tests had run`;
  if (!status.success && !outcomes.some(({ result }) => result === "failed")) {
    return `ended with ${ending} outside of any test`;
  }
  if (outcomes.length === 0) return "has no tests";
  return undefined;
}

/** Runs the tests of `path` (relative to `root`). Types are not checked, the check task does that. */
export async function runFile(path: string, options: FileOptions): Promise<FileResult> {
  const started = performance.now();
  const report = join(options.folder, `${path.replaceAll("/", "-")}.xml`);
  const child = new Deno.Command(Deno.execPath(), {
    args: ["test", "--allow-all", "--no-check", `--junit-path=${report}`, path],
    cwd: options.root,
    env: options.env,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const output: string[] = [];
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill("SIGKILL");
  }, options.timeoutMs);
  const streams = [collect(child.stdout, output), collect(child.stderr, output)];
  const status = await child.status;
  clearTimeout(timer);
  // A process that a test has left behind may hold the pipes open.
  const patience = Promise.withResolvers<void>();
  const patienceTimer = setTimeout(patience.resolve, 5_000);
  await Promise.race([Promise.all(streams), patience.promise]);
  clearTimeout(patienceTimer);
  const outcomes = readReport(report);
  return {
    path,
    outcomes: outcomes ?? [],
    trouble: late ? `not done after ${options.timeoutMs / 1000} s` : findTrouble(status, outcomes),
    output: output.join(""),
    seconds: (performance.now() - started) / 1000,
  };
}
