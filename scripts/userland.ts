/**
 * `deno task userland`: a Debian userland on the software engine runs bash, python3 and its tests,
 * gcc, openssl and dpkg, and says what is right; with `--lockstep`, while its translated code is
 * compared with the interpreter. Takes minutes, so it is no part of `deno task test`.
 *
 * @module
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { build, DEFAULT_OUTPUT, isStale } from "./build/build.ts";
import { fetchGuest, fetchUserland } from "./guest/mod.ts";
import { positive, runTask, vcpuCount } from "./task/run_task.ts";
import { CheckReader, CHECKS, scriptOf } from "./userland/checks.ts";
import { runGuest } from "./userland/guest_run.ts";
import {
  COMPARING,
  comparingOptions,
  readComparison,
  readDifference,
} from "./userland/lockstep.ts";

const USAGE =
  `usage: deno task userland [--cpus N] [--kernel cloud|full] [--mem MIB] [--quick] [--lockstep] [NAME...]

  --cpus N      vCPUs of the guest (default: 1)
  --kernel K    Debian's kernel for virtual machines, or that for all machines (default: cloud)
  --mem MIB     memory of the guest (default: 3000)
  --quick       without the long checks
  --lockstep    compares each translated region with the interpreter, from many states, from the
                first instruction of the boot on; ten times as slow, one vCPU
  NAME          only checks whose name holds this

Needs root and debootstrap. Runs dist/vmctl, built where it is stale, or what VMCTL_BIN names.
`;
const TIMEOUT_MS = 3_600_000;

interface Settings {
  readonly cpus: number;
  readonly kernel: "cloud" | "full";
  readonly memoryMib: number;
  readonly quick: boolean;
  readonly lockstep: boolean;
  /** Parts of the names of the checks; all where there is none. */
  readonly names: readonly string[];
}

function parseCommandLine(): Settings | "help" {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      cpus: { type: "string", default: "1" },
      kernel: { type: "string", default: "cloud" },
      mem: { type: "string", default: "3000" },
      quick: { type: "boolean", default: false },
      lockstep: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return "help";
  const { kernel, quick, lockstep } = values;
  if (kernel !== "cloud" && kernel !== "full") {
    throw new TypeError(`--kernel: expected cloud or full, got "${kernel}"`);
  }
  const cpus = vcpuCount(values.cpus);
  if (lockstep && cpus !== 1) {
    throw new TypeError("--lockstep: with several vCPUs nothing can be compared");
  }
  const memoryMib = positive("mem", values.mem);
  return { cpus, kernel, memoryMib, quick, lockstep, names: positionals };
}

async function userland(settings: Settings): Promise<number> {
  const { cpus, kernel, memoryMib, quick, lockstep, names } = settings;
  const checks = CHECKS.filter(({ name, slow }) =>
    !(quick && slow) && (names.length === 0 || names.some((part) => name.includes(part)))
  );
  const progress = (message: string) => console.error(`userland: ${message}`);
  const given = Deno.env.get("VMCTL_BIN");
  if (!given && await isStale()) await build({ output: DEFAULT_OUTPUT, compile: false });
  const guest = await fetchGuest({ flavour: kernel, progress });
  const image = await fetchUserland({ progress });
  const folder = await mkdtemp(join(tmpdir(), "vmctl-userland-"));
  try {
    progress(`${guest.release} on ${cpus} vCPU(s)`);
    const reader = new CheckReader(checks);
    const counters = join(folder, "counters.json");
    const end = await runGuest({
      vmctl: given || DEFAULT_OUTPUT,
      kernel: guest.kernel,
      image,
      script: scriptOf(checks),
      cpus,
      memoryMib,
      folder,
      timeoutMs: TIMEOUT_MS,
      ...lockstep ? { env: COMPARING, options: comparingOptions(counters) } : {},
      onLine: (line) => {
        const result = reader.line(line);
        if (result === undefined) return;
        const seconds = (result.milliseconds / 1000).toFixed(1);
        console.log(`${result.passed ? "ok    " : "FAILED"} ${result.check.name} (${seconds} s)`);
        if (!result.passed) console.log(result.output);
      },
    });
    const passed = reader.results.filter((result) => result.passed).length;
    if (end.code !== 0) console.log(`vmctl ended with status ${end.code}`);
    const compared = !lockstep || await reportComparison(end.stderr, counters);
    if (end.code !== 0 && compared) console.log(end.stderr);
    console.log(`${passed} passed, ${checks.length - passed} failed (${end.seconds.toFixed(0)} s)`);
    return passed === checks.length && end.code === 0 && compared ? 0 : 1;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Prints what was compared, or the difference that was found; true where there was none. */
async function reportComparison(stderr: string, counters: string): Promise<boolean> {
  const difference = readDifference(stderr);
  if (difference !== undefined) {
    const file = await Deno.makeTempFile({ prefix: "lockstep-", suffix: ".wasm" });
    await Deno.writeFile(file, difference.module);
    console.log(`${difference.text}\nthe region's module: ${file}`);
    return false;
  }
  const compared = await readComparison(counters).catch(() => undefined);
  if (compared === undefined) {
    console.log("nothing was compared");
    return false;
  }
  const { regions, regionsCompared, comparisons, instructions, faults } = compared;
  console.log(
    `${regionsCompared} of ${regions} regions compared, ${comparisons} times, ` +
      `${instructions} instructions, ${faults} faults: no difference`,
  );
  return true;
}

if (import.meta.main) {
  Deno.exit(
    await runTask({ name: "userland", usage: USAGE, parse: parseCommandLine, run: userland }),
  );
}
