/**
 * Runs a guest on the software engine, such as a script in a Debian userland, and hands its lines on as they
 * come.
 *
 * @module
 */

import { join } from "node:path";
import { writeUserlandInitrd } from "../guest/mod.ts";

/** A VM to run. */
export interface VmRun {
  /** The executable. */
  readonly vmctl: string;
  readonly cpus: number;
  readonly memoryMib: number;
  readonly initrd: string;
  readonly kernel: string;
  /** Further options of `vmctl run`. */
  readonly options?: readonly string[] | undefined;
  /** Set in its environment. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly timeoutMs: number;
  /** Told each line that the guest prints. */
  readonly onLine: (line: string) => void;
  /** Told the process id once it runs. */
  readonly onStart?: ((pid: number) => void) | undefined;
}

/** A script to run in a userland. */
export interface GuestRun extends Omit<VmRun, "initrd"> {
  /** The userland's archive. */
  readonly image: string;
  /** For bash in the guest. */
  readonly script: string;
  /** Folder for files of the run. */
  readonly folder: string;
}

/** How a guest ended. */
export interface GuestEnd {
  /** Exit status of vmctl with `--extended-status`. */
  readonly code: number;
  readonly stderr: string;
  readonly seconds: number;
}

/** Runs the script to its end. */
export async function runGuest(run: GuestRun): Promise<GuestEnd> {
  const initrd = join(run.folder, "initrd");
  await writeUserlandInitrd(initrd, { image: run.image, script: run.script });
  return await runVm({ ...run, initrd });
}

/** Runs the VM to its end. */
export async function runVm(run: VmRun): Promise<GuestEnd> {
  const started = performance.now();
  const child = new Deno.Command(run.vmctl, {
    args: [
      ...["run", "--hypervisor", "soft", "--extended-status"],
      ...["--cpus", `${run.cpus}`, "--mem", `${run.memoryMib}`, "--initrd", run.initrd],
      ...["--params", "console=ttyS0 quiet panic=-1", ...run.options ?? [], run.kernel],
    ],
    env: run.env ?? {},
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  run.onStart?.(child.pid);
  const timer = setTimeout(() => child.kill("SIGKILL"), run.timeoutMs);
  try {
    const stderr = new Response(child.stderr).text();
    let rest = "";
    for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) run.onLine(line.trimEnd());
    }
    if (rest !== "") run.onLine(rest);
    const { code } = await child.status;
    return { code, stderr: await stderr, seconds: (performance.now() - started) / 1000 };
  } finally {
    clearTimeout(timer);
  }
}
