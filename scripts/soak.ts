/**
 * `deno task soak`: hours of mixed load in a Debian guest on the software engine, each part of which
 * verifies its own results, while the process is watched for growth. No part of `deno task test`.
 *
 * @module
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { privateDirtyBytes } from "./bench/programs.ts";
import { build, DEFAULT_OUTPUT, isStale } from "./build/build.ts";
import { judgeGrowth, type MemorySample } from "./soak/growth.ts";
import { fetchGuest, fetchUserland } from "./guest/mod.ts";
import { runTask, vcpuCount } from "./task/run_task.ts";
import { runGuest } from "./userland/guest_run.ts";

const USAGE = `usage: deno task soak [--minutes N] [--cpus N] [--log FILE]

  --minutes N   how long (default: 120)
  --cpus N      vCPUs of the guest (default: 1)
  --log FILE    also writes every line of the guest there

Needs root and debootstrap. Runs dist/vmctl, built where it is stale, or what VMCTL_BIN names. Its
status is 0 where no load failed and the process did not grow.
`;
const ROUND_SECONDS = 20;
const WATCH_MS = 20_000;
const MEMORY_MIB = 1536;

/** Loads of stress-ng that verify what they compute, in the groups that run side by side. */
const ROUNDS = [
  "--cpu 1 --vm 1 --vm-bytes 96M --switch 1",
  "--matrix 1 --fork 1 --pipe 1",
  "--qsort 1 --memcpy 1 --futex 1 --mmap 1 --mmap-bytes 64M",
  "--fp 1 --str 1 --sem 1 --poll 1",
  "--malloc 1 --malloc-bytes 64M --timer 1 --sigsegv 1",
  "--vecmath 1 --atomic 1 --mutex 1 --exec 1",
  "--crypt 1 --hash 1 --shm 1 --bsearch 1",
  "--tree 1 --zlib 1 --sigfpe 1 --yield 1",
  "--list 1 --hsearch 1 --clone 1 --mremap 1 --mremap-bytes 16M",
];

function soakScript(seconds: number): string {
  const rounds = ROUNDS.map((round) => `"${round}"`).join(" ");
  return `end=$(($(cut -d. -f1 /proc/uptime) + ${seconds}))
rounds=(${rounds})
n=0
failed=0
while [ $(cut -d. -f1 /proc/uptime) -lt $end ]; do
  round=\${rounds[$((n % \${#rounds[@]}))]}
  stress-ng $round --verify --timeout ${ROUND_SECONDS} > /tmp/output 2>&1
  status=$?
  if [ $status != 0 ] || grep -q 'fail:' /tmp/output; then
    failed=$((failed + 1))
    echo "@failed status $status: $round"
    tail -20 /tmp/output
  fi
  n=$((n + 1))
  echo "@round $n $(cut -d' ' -f1 /proc/uptime) $round"
done
dmesg --level=emerg,alert,crit,err,warn | tail -20
echo "@done $n rounds, $failed failed"
`;
}

/** Private dirty memory beside guest RAM, in MiB. */
function privateMib(pid: number): number | undefined {
  try {
    const smaps = Deno.readTextFileSync(`/proc/${pid}/smaps`);
    const guest = (name: string) => name.includes("memfd:");
    return privateDirtyBytes(smaps, guest) / (1 << 20);
  } catch {
    // It has just ended.
    return undefined;
  }
}

interface Settings {
  readonly minutes: number;
  readonly cpus: number;
  /** File for every line of the guest. */
  readonly logFile: string | undefined;
}

function parseCommandLine(): Settings | "help" {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string", default: "120" },
      cpus: { type: "string", default: "1" },
      log: { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) return "help";
  const minutes = Number(values.minutes);
  if (!(minutes > 0 && minutes < Infinity)) {
    throw new TypeError(`--minutes: expected a positive number, got "${values.minutes}"`);
  }
  return { minutes, cpus: vcpuCount(values.cpus), logFile: values.log };
}

async function soak({ minutes, cpus, logFile }: Settings): Promise<number> {
  const progress = (message: string) => console.error(`soak: ${message}`);
  const given = Deno.env.get("VMCTL_BIN");
  if (!given && await isStale()) await build({ output: DEFAULT_OUTPUT, compile: false });
  const guest = await fetchGuest({ progress });
  const image = await fetchUserland({ progress });
  const folder = await mkdtemp(join(tmpdir(), "vmctl-soak-"));
  const statsFile = join(folder, "stats.json");
  const samples: MemorySample[] = [];
  let timer: ReturnType<typeof setInterval> | undefined;
  let summary = "";
  let failures = 0;
  using log = logFile === undefined
    ? undefined
    : await Deno.open(logFile, { write: true, create: true, truncate: true });
  try {
    const started = performance.now();
    const end = await runGuest({
      vmctl: given || DEFAULT_OUTPUT,
      kernel: guest.kernel,
      image,
      script: soakScript(Math.round(minutes * 60)),
      cpus,
      memoryMib: MEMORY_MIB,
      folder,
      options: ["--engine-stats", statsFile],
      // A guest that hangs is found by this.
      timeoutMs: minutes * 60_000 + 900_000,
      onStart: (pid) => {
        const look = () => {
          const mib = privateMib(pid);
          if (mib === undefined) return;
          samples.push({ minute: (performance.now() - started) / 60_000, mib });
        };
        timer = setInterval(look, WATCH_MS);
      },
      onLine: (line) => {
        log?.writeSync(new TextEncoder().encode(`${line}\n`));
        if (line.startsWith("@done")) summary = line.slice(6);
        else if (line.startsWith("@round")) progress(line.slice(7));
        else {
          if (line.startsWith("@failed")) failures++;
          console.log(line);
        }
      },
    });
    console.log(`guest: ${summary || "did not come to its end"}`);
    console.log(`vmctl: status ${end.code} after ${(end.seconds / 60).toFixed(1)} minutes`);
    if (end.stderr !== "") console.log(end.stderr);
    const growth = judgeGrowth(samples, end.seconds / 60);
    console.log(`private memory beside guest RAM: ${growth.text}`);
    const stats = await Deno.readTextFile(statsFile).catch(() => "none");
    console.log(`engine: ${stats.replaceAll(/\s+/g, " ").trim()}`);
    const failed = !summary.endsWith(" 0 failed") || failures > 0 || end.code !== 0;
    const verdict = growth.grew === undefined ? "passed, growth not judged" : "passed";
    console.log(`soak: ${failed ? "failed" : growth.grew === true ? "grew" : verdict}`);
    return failed || growth.grew === true ? 1 : 0;
  } finally {
    clearInterval(timer);
    await rm(folder, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  Deno.exit(await runTask({ name: "soak", usage: USAGE, parse: parseCommandLine, run: soak }));
}
