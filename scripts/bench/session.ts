/**
 * Watches a program's output for marks and keeps when each came, in time and in processor time.
 *
 * @module
 */

/** When a mark came. */
export interface MarkTime {
  /** Since the program's start, in milliseconds. */
  readonly ms: number;
  /** Processor time of the program until then, in milliseconds, to 10 ms. */
  readonly cpuMs: number;
}

/** A running program; leaving its scope ends it, with SIGTERM at first. */
export interface Session extends AsyncDisposable {
  readonly pid: number;
  /**
   * Waits for a line that is `text`.
   *
   * @throws {Error} when the program ends or the time is up before.
   */
  mark(text: string): Promise<MarkTime>;
}

/** How to start it. */
export interface SessionOptions {
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** After this time it is killed, in milliseconds. */
  readonly timeoutMs: number;
}

/** Time to end after SIGTERM, in milliseconds. */
const END_MS = 20_000;
/** Clock ticks of /proc/PID/stat a second: USER_HZ on every Linux that runs here. */
const TICKS = 100;

/**
 * Processor time that a process has taken, in milliseconds (proc(5), utime and stime); undefined where it
 * has ended.
 */
function cpuMs(pid: number): number | undefined {
  let stat: string;
  try {
    stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
  } catch (error) {
    // It may also end between the opening of the file and its reading: ESRCH, which has no class.
    const gone = error instanceof Deno.errors.NotFound || `${error}`.includes("os error 3)");
    if (!gone) throw error;
    return undefined;
  }
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 1000 / TICKS;
}

/** Starts `path`. */
export function watchSession(path: string, options: SessionOptions): Session {
  const begin = performance.now();
  const child = new Deno.Command(path, {
    args: [...options.args],
    env: { ...options.env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const seen = new Map<string, MarkTime>();
  let waiting = Promise.withResolvers<void>();
  let ended = false;
  let last = "";
  const wake = () => {
    waiting.resolve();
    waiting = Promise.withResolvers();
  };
  const errors = new Response(child.stderr).text();
  const reading = (async () => {
    const decoder = new TextDecoder();
    let cpu = 0;
    for await (const bytes of child.stdout) {
      // Its last words may be read when it is gone.
      cpu = cpuMs(child.pid) ?? cpu;
      const now = { ms: performance.now() - begin, cpuMs: cpu };
      const lines = (last + decoder.decode(bytes, { stream: true })).split("\n");
      last = lines.pop() ?? "";
      for (const line of lines) seen.set(line.trimEnd(), now);
      wake();
    }
    ended = true;
    wake();
  })();
  const signal = (name: Deno.Signal) => {
    try {
      child.kill(name);
    } catch {
      // It has ended by itself.
    }
  };
  const limit = setTimeout(() => signal("SIGKILL"), options.timeoutMs);
  return {
    pid: child.pid,
    async mark(text) {
      for (;;) {
        const time = seen.get(text);
        if (time !== undefined) return time;
        if (ended) {
          const said = (await errors).slice(-2000);
          const shown = [...seen.keys()].slice(-20).join("\n");
          throw new Error(`${path}: expected "${text}", it ended after:\n${shown}\n${said}`);
        }
        await waiting.promise;
      }
    },
    async [Symbol.asyncDispose]() {
      clearTimeout(limit);
      signal("SIGTERM");
      const force = setTimeout(() => signal("SIGKILL"), END_MS);
      await Promise.all([child.status, reading, errors]);
      clearTimeout(force);
    },
  };
}
