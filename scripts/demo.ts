/**
 * `deno task demo`: boots a stock Debian kernel to a shell on this terminal. Without a terminal on
 * stdin, the guest says what it is and powers off.
 *
 * Arguments go on to `vmctl run`, but for `--refresh`, which looks for a newer kernel.
 *
 * @module
 */

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildInitramfs, FetchError, fetchGuest, type InitramfsOptions } from "./guest/mod.ts";

const SCRIPT = "uname -a\ncat /proc/cpuinfo\n";
const MAIN = fileURLToPath(new URL("../main.ts", import.meta.url));

async function demo(args: readonly string[]): Promise<number> {
  const refresh = args.includes("--refresh");
  const guest = await fetchGuest({ refresh, progress: say });
  const interactive = Deno.stdin.isTerminal();
  const initramfs = await buildInitramfs({
    busybox: guest.busybox,
    ...interactive ? { interactive: terminal() } : { script: SCRIPT },
  });
  const work = await mkdtemp(join(tmpdir(), "vmctl-demo-"));
  try {
    const initrd = join(work, "initramfs.cpio");
    await writeFile(initrd, initramfs);
    say(
      `booting ${guest.release}` +
        (interactive ? "; leave the shell, or press Ctrl-a x, to end" : ""),
    );
    return await runVmctl([
      "run",
      "--extended-status",
      "--initrd",
      initrd,
      // Messages of the kernel would mix with what the script prints.
      ...interactive ? [] : ["--params", "quiet"],
      ...args.filter((arg) => arg !== "--refresh"),
      guest.kernel,
    ], { interactive });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Size and kind of the terminal on stdin. */
function terminal(): InitramfsOptions["interactive"] {
  const term = Deno.env.get("TERM");
  try {
    const { rows, columns } = Deno.consoleSize();
    return { term, rows, columns };
  } catch {
    return { term };
  }
}

/** Runs vmctl on this process's stdio and gives its exit status. */
async function runVmctl(
  args: readonly string[],
  { interactive }: { readonly interactive: boolean },
): Promise<number> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--allow-all", MAIN, ...args],
    stdin: interactive ? "inherit" : "null",
    stdout: "inherit",
    stderr: "inherit",
  }).spawn();
  // The child restores the terminal and ends by itself: this process waits for it.
  const listeners = (["SIGINT", "SIGTERM", "SIGHUP"] as const).map((signal) => {
    const listener = () => {
      // A terminal sends Ctrl-C to both.
      if (signal === "SIGINT" && interactive) return;
      try {
        child.kill(signal);
      } catch {
        // It has ended already.
      }
    };
    Deno.addSignalListener(signal, listener);
    return { signal, listener };
  });
  try {
    return (await child.status).code;
  } finally {
    for (const { signal, listener } of listeners) Deno.removeSignalListener(signal, listener);
  }
}

/** Progress, for people only. */
function say(message: string): void {
  if (Deno.stderr.isTerminal()) console.error(`demo: ${message}`);
}

if (import.meta.main) {
  try {
    Deno.exit(await demo(Deno.args));
  } catch (error) {
    if (!(error instanceof FetchError)) throw error;
    console.error(`demo: ${error.message}`);
    Deno.exit(1);
  }
}
