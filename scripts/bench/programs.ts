/**
 * Starts programs and watches them from outside.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { join } from "node:path";

/** How to start a program and wait for it to print something. */
export interface StartOptions {
  readonly args: readonly string[];
  /** What it will print on its standard output. */
  readonly marker: string;
  /** After this time the measurement has failed, in milliseconds. */
  readonly timeoutMs: number;
}

/** A program that has printed its marker and still runs; leaving its scope kills it. */
export interface StartedProgram extends AsyncDisposable {
  readonly pid: number;
  /** From just before its start to its marker, in milliseconds. */
  readonly startMs: number;
}

/** Where `name` is on PATH, or undefined. */
export function findProgram(name: string): string | undefined {
  const folders = (Deno.env.get("PATH") ?? "").split(":").filter((folder) => folder !== "");
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

async function findMarker(stream: ReadableStream<Uint8Array>, marker: string): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const bytes of stream.values({ preventCancel: true })) {
    text += decoder.decode(bytes, { stream: true });
    if (text.includes(marker)) return text;
  }
  throw new Error(`expected "${marker}", got its end after:\n${text.slice(-2000)}`);
}

/**
 * Starts a program and waits for its marker.
 *
 * @throws {Error} when it ends or the time is up before the marker is there.
 */
export async function startProgram(path: string, options: StartOptions): Promise<StartedProgram> {
  const begin = performance.now();
  const child = new Deno.Command(path, {
    args: [...options.args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const errors = new Response(child.stderr).text();
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill("SIGKILL");
  }, options.timeoutMs);
  const end = async () => {
    try {
      child.kill("SIGKILL");
    } catch {
      // It has ended by itself.
    }
    await child.status;
    await child.stdout.cancel();
  };
  try {
    await findMarker(child.stdout, options.marker);
    const startMs = performance.now() - begin;
    return { pid: child.pid, startMs, [Symbol.asyncDispose]: end };
  } catch (cause) {
    await end();
    const why = late ? `not there after ${options.timeoutMs / 1000} s` : "ended";
    // A process that it left behind may hold the stream open.
    const said = await Promise.race([
      errors,
      new Promise<string>((resolve) => setTimeout(resolve, 1_000, "")),
    ]);
    const message = `${path} ${options.args.join(" ")}: ${why}\n${said.slice(-2000)}`;
    throw new Error(message, { cause });
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Private dirty memory of a process without that which `isGuestMemory` says is the guest's, in bytes.
 * A shared mapping that only one process has counts as private here, as everywhere in smaps.
 *
 * @param smaps Contents of `/proc/PID/smaps`.
 * @param isGuestMemory Told the name and the length of each mapping.
 */
export function privateDirtyBytes(
  smaps: string,
  isGuestMemory: (name: string, lengthBytes: number) => boolean,
): number {
  let counts = false;
  let total = 0;
  for (const line of smaps.split("\n")) {
    const mapping = /^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)$/.exec(line);
    if (mapping !== null) {
      const length = parseInt(mapping[2] ?? "", 16) - parseInt(mapping[1] ?? "", 16);
      counts = !isGuestMemory(mapping[3] ?? "", length);
      continue;
    }
    const dirty = /^Private_Dirty: +(\d+) kB$/.exec(line);
    if (dirty !== null && counts) total += Number(dirty[1]) * 1024;
  }
  return total;
}
