/**
 * What the jails of all devices of a VM have in common.
 *
 * @module
 */

import { describeFileError } from "../../base/mod.ts";
import { DEFAULT_PIVOT_ROOT, type SandboxConfig } from "../../config/mod.ts";
import { Fd, getegid, geteuid, memfdCreate, MemfdFlag, writeAll } from "../../host/mod.ts";
import {
  compilePolicy,
  encodeProgram,
  type IdMapping,
  type JailSpec,
  loadDevicePolicy,
} from "../../jail/mod.ts";
import { MachineError } from "../errors.ts";

/** Nobody, the user and group that own nothing. */
const NOBODY = 65534;
/** Covered instead of the default where only root could make that: it is everywhere, and no jail needs it. */
const STAND_IN = "/sys";

/**
 * Namespaces, root and ids of a device's jail. Whoever runs the VMM is nobody there.
 *
 * @throws {MachineError} where there is no folder to become the root.
 */
export function commonJail(
  config: SandboxConfig,
): Pick<JailSpec, "pivotRoot" | "uidMap" | "gidMap" | "uid" | "gid"> {
  const pivotRoot = rootFolder(config.pivotRoot);
  const map = (outside: number): IdMapping[] => [{ inside: NOBODY, outside, count: 1 }];
  return {
    pivotRoot,
    uidMap: map(geteuid()),
    gidMap: map(getegid()),
    uid: NOBODY,
    gid: NOBODY,
  };
}

/** The folder is covered by the jail's own root, so only its being there matters. */
function rootFolder(path: string): string {
  if (isFolder(path)) return path;
  if (path !== DEFAULT_PIVOT_ROOT) {
    throw new MachineError(
      `${path}: expected a folder to be the root of jails, found nothing there`,
    );
  }
  try {
    Deno.mkdirSync(path, { recursive: true, mode: 0o755 });
    return path;
  } catch (cause) {
    if (isFolder(STAND_IN)) return STAND_IN;
    throw new MachineError(
      `${path}: the folder that is the root of jails is missing and cannot be made ` +
        `(${describeFileError(cause)}); --pivot-root names another one`,
    );
  }
}

/** @throws {MachineError} where something else is there. */
function isFolder(path: string): boolean {
  try {
    if (Deno.statSync(path).isDirectory) return true;
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound) return false;
    throw new MachineError(`${path}: cannot be the root of jails: ${describeFileError(cause)}`);
  }
  throw new MachineError(`${path}: expected a folder to be the root of jails, got something else`);
}

/**
 * The filter of devices of a kind, in a file for them. The program's own policies, which are right, are
 * compiled when the first of them starts: a guest does not wait for that.
 */
export class DeviceFilter implements Disposable {
  /** The file, which is whole after {@link complete}. */
  readonly fd: Fd;
  readonly #kind: string;
  readonly #config: SandboxConfig;
  #complete = false;

  /** @throws {PolicyError} where the user's policy is wrong. */
  constructor(kind: string, config: SandboxConfig) {
    this.#kind = kind;
    this.#config = config;
    using file = memfdCreate(`vmctl-${kind}-filter`, MemfdFlag.CloseOnExec);
    this.fd = file.dup();
    if (config.seccompPolicyDir !== undefined) this.complete();
  }

  /** Puts the filter into the file. */
  complete(): void {
    if (this.#complete) return;
    const { seccompPolicyDir, seccompLogFailures } = this.#config;
    const policy = loadDevicePolicy(`${this.#kind}_device`, { folder: seccompPolicyDir });
    const violation = seccompLogFailures ? "log" : "user-notify";
    writeAll(this.fd, encodeProgram(compilePolicy(policy, { violation })));
    this.#complete = true;
  }

  [Symbol.dispose](): void {
    this.fd.close();
  }
}
