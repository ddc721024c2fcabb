/**
 * Devices of every kind, opened and started as a VM starts them, for tests of their jails.
 *
 * @module
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { MIB } from "../../../base/mod.ts";
import { diskConfig } from "../../../config/mod.ts";
import { deviceKind, type DeviceKindName, type OpenedDevice } from "../../../devices/mod.ts";
import { getuid, pipe } from "../../../host/mod.ts";
import { closedSwitches } from "../../../jail/mod.ts";
import { DeviceLauncher } from "../device_launcher.ts";
import { type DeviceProgram, ownProgram } from "../device_program.ts";

/** The program that serves devices, from its sources. */
export const SOURCES_PROGRAM: DeviceProgram = ownProgram(
  new URL("../../../../main.ts", import.meta.url).href,
);

/** Opens a device of `kind` with all that it can have; files are made in `folder`. */
export async function openKind(kind: DeviceKindName, folder: string): Promise<OpenedDevice> {
  switch (kind) {
    case "block": {
      const path = join(folder, "disk");
      await Deno.writeFile(path, new Uint8Array(0));
      await Deno.truncate(path, 8 * MIB);
      const disk = diskConfig({ path }, (key, message) => assert.fail(`${key}: ${message}`));
      assert.ok(disk !== undefined);
      return (await deviceKind(kind)).open(disk);
    }
    case "console": {
      const { reader, writer } = pipe();
      return (await deviceKind(kind)).open({ ports: [{ input: reader, output: writer }] });
    }
    case "balloon":
      return (await deviceKind(kind)).open({ pageReporting: true });
    case "rng":
      return (await deviceKind(kind)).open(null);
  }
}

/** What a test of jails has. */
export interface JailPlace {
  /** A folder of its own. */
  readonly folder: string;
  /** Starts jailed devices. */
  readonly launcher: DeviceLauncher;
}

/** How to run a test in jails. */
export interface JailTestOptions {
  /** What serves the devices. */
  readonly program: DeviceProgram;
  /** Why it cannot run here, besides the reasons that all such tests have. */
  readonly skip?: string | undefined;
}

/** A test on a host that lets whoever runs it make jails. */
export function jailTest(
  name: string,
  { program, skip }: JailTestOptions,
  fn: (place: JailPlace) => Promise<void>,
): void {
  const isClosed = closedSwitches().length > 0 && getuid() !== 0;
  const reason = isClosed ? "no user namespaces" : skip;
  Deno.test({
    name: reason === undefined ? name : `${name} (skipped: ${reason})`,
    ignore: reason !== undefined,
    async fn() {
      const folder = await Deno.makeTempDir({ prefix: "vmctl-jails-" });
      await Deno.mkdir(join(folder, "root"));
      try {
        using launcher = new DeviceLauncher({
          sandbox: {
            pivotRoot: join(folder, "root"),
            seccompPolicyDir: undefined,
            seccompLogFailures: false,
          },
          program,
        });
        await fn({ folder, launcher });
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}
