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
 * A shared mapping that only one process has counts as private here, as everywhere in smaps. A private
 * mapping of a file counts by what the process wrote: smaps also calls pages dirty that somebody wrote
 * to the file lately and the disk has not got yet (a kernel or a program that was made just before).
 *
 * @param smaps Contents of `/proc/PID/smaps`.
 * @param isGuestMemory Told the name and the length of each mapping.
 */
export function privateDirtyBytes(
  smaps: string,
  isGuestMemory: (name: string, lengthBytes: number) => boolean,
): number {
  let total = 0;
  let counts = false;
  let isPrivate = false;
  let dirtyKib = 0;
  for (const line of smaps.split("\n")) {
    const mapping = /^([0-9a-f]+)-([0-9a-f]+) ...(.) \S+ \S+ \S+ *(.*)$/.exec(line);
    if (mapping !== null) {
      const [, start = "", end = "", sharing, name = ""] = mapping;
      counts = !isGuestMemory(name, parseInt(end, 16) - parseInt(start, 16));
      isPrivate = sharing === "p";
      continue;
    }
    if (!counts) continue;
    const [, field, kib] = /^(Private_Dirty|Anonymous): +(\d+) kB$/.exec(line) ?? [];
    // The kernel prints them in this order.
    if (field === "Private_Dirty") {
      dirtyKib = Number(kib);
      if (!isPrivate) total += dirtyKib * 1024;
    } else if (field === "Anonymous" && isPrivate) {
      total += Math.min(dirtyKib, Number(kib)) * 1024;
    }
  }
  return total;
}
