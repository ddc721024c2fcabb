/**
 * A process that jails another one, for tests that end the first one, or make it an ordinary user's.
 *
 * Its first argument is JSON: {@link JailChildJob}.
 *
 * @module
 */

import { openFile, OpenFlag } from "../../host/mod.ts";
import type { JailSpec } from "../jail.ts";
import { spawnJailed } from "../spawn.ts";

/** What the process does. */
export interface JailChildJob {
  readonly spec: Omit<JailSpec, "fds" | "filter">;
  /** Whether it waits for the end of its jailed program; otherwise it waits to be killed. */
  readonly wait: boolean;
}

const encoder = new TextEncoder();

function tell(line: string): void {
  Deno.stdout.writeSync(encoder.encode(`${line}\n`));
}

async function main(): Promise<void> {
  const job: JailChildJob = JSON.parse(Deno.args[0]!);
  // A descriptor that is no business of the jail's, and does not close by itself.
  using _secret = openFile("/dev/zero", OpenFlag.ReadOnly);
  try {
    using jailed = spawnJailed({ ...job.spec, fds: [{ fd: 1, as: 1 }, { fd: 2, as: 2 }] });
    if (!job.wait) {
      tell(`pid ${jailed.pid}`);
      await new Promise(() => setInterval(() => {}, 1000));
    }
    tell(JSON.stringify(await jailed.wait()));
  } catch (error) {
    tell(String(error));
  }
}

if (import.meta.main) await main();
