/**
 * A control group with limited memory, of version 1 or 2, whichever the host has.
 *
 * @module
 */

import { join } from "node:path";
import { PATIENCE_MS } from "./vm_bench.ts";

interface Version {
  /** Where groups are made. */
  readonly root: string;
  readonly limit: string;
  readonly usage: string;
  /** File with the number of kills in a line `oom_kill N`. */
  readonly events: string;
}

const VERSIONS: readonly Version[] = [
  {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    events: "memory.oom_control",
  },
  {
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    usage: "memory.current",
    events: "memory.events",
  },
];

/** A group of its own; removed when disposed, for which its processes must have ended. */
export class MemoryCgroup implements AsyncDisposable {
  /** Its folder. */
  readonly path: string;
  readonly #version: Version;

  private constructor(path: string, version: Version) {
    this.path = path;
    this.#version = version;
  }

  /** Makes a group; a string tells why that is not possible. */
  static make(): MemoryCgroup | string {
    for (const version of VERSIONS) {
      const path = join(version.root, `vmctl-test-${Deno.pid}-${crypto.randomUUID().slice(0, 8)}`);
      try {
        Deno.mkdirSync(path);
      } catch {
        continue;
      }
      try {
        Deno.statSync(join(path, version.limit));
        return new MemoryCgroup(path, version);
      } catch {
        Deno.removeSync(path);
      }
    }
    return "no control group with memory can be made";
  }

  /** Limits it. */
  limit(bytes: number): void {
    Deno.writeTextFileSync(join(this.path, this.#version.limit), String(Math.floor(bytes)));
  }

  /** Bytes that it uses. */
  get usageBytes(): number {
    return Number(Deno.readTextFileSync(join(this.path, this.#version.usage)));
  }

  /** Bytes that it may still use. */
  get roomBytes(): number {
    const limit = Deno.readTextFileSync(join(this.path, this.#version.limit));
    return Number(limit) - this.usageBytes;
  }

  /** How many of its processes were killed because it was full. */
  get kills(): number {
    const text = Deno.readTextFileSync(join(this.path, this.#version.events));
    return Number(/^oom_kill (\d+)$/m.exec(text)?.[1]);
  }

  /** Words of a command that runs `words` in the group. */
  command(...words: string[]): string[] {
    const join_ = 'echo $$ >"$0/cgroup.procs" && exec "$@"';
    return ["sh", "-c", join_, this.path, ...words];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The kernel takes a moment to forget those that have just ended, on a busy host a long one.
    const deadline = performance.now() + PATIENCE_MS;
    for (;;) {
      try {
        Deno.removeSync(this.path);
        return;
      } catch (error) {
        if (performance.now() > deadline) throw error;
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    }
  }
}
