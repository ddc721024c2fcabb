/**
 * Where the control sockets of a user's VMs are, and how a name becomes a path.
 *
 * @module
 */

import { join } from "node:path";
import { getuid } from "../host/mod.ts";
import { ControlError } from "./errors.ts";

const SUFFIX = ".sock";
/** With folder and suffix a name must fit into the 107 bytes of a socket's path. */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$/;

/** What decides about the folder; the process's own where absent. */
export interface RunDirectoryFacts {
  /** `XDG_RUNTIME_DIR`. */
  readonly xdgRuntimeDir: string | undefined;
  /** Real user id. */
  readonly uid: number;
}

/**
 * The folder of the user's control sockets: `vmctl` in `XDG_RUNTIME_DIR`, otherwise `/run/vmctl` for
 * root and `/tmp/vmctl-UID` for anybody else. It may not exist.
 */
export function runDirectory(facts: RunDirectoryFacts = ownFacts()): string {
  const { xdgRuntimeDir, uid } = facts;
  if (xdgRuntimeDir?.startsWith("/") && isDirectory(xdgRuntimeDir)) {
    return join(xdgRuntimeDir, "vmctl");
  }
  return uid === 0 ? "/run/vmctl" : `/tmp/vmctl-${uid}`;
}

/**
 * {@link runDirectory}, made if missing, and checked: nobody else may be able to put a socket there.
 *
 * @throws {ControlError} when it cannot be made, is no folder, or belongs or is open to others.
 */
export function ensureRunDirectory(facts: RunDirectoryFacts = ownFacts()): string {
  const path = runDirectory(facts);
  try {
    Deno.mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) {
      throw new ControlError(`cannot make the folder of control sockets ${path}`, { cause: error });
    }
  }
  const status = Deno.lstatSync(path);
  if (!status.isDirectory) {
    throw new ControlError(`${path}: expected a folder for control sockets, found something else`);
  }
  if (status.uid !== facts.uid || ((status.mode ?? 0) & 0o022) !== 0) {
    throw new ControlError(
      `${path}: expected a folder that only user ${facts.uid} can write to, found one of user ` +
        `${status.uid} with mode ${((status.mode ?? 0) & 0o7777).toString(8)}`,
    );
  }
  return path;
}

/** Whether `name` may name a VM: letters, digits, `_`, `.`, `-`, at most 64. */
export function isVmName(name: string): boolean {
  return NAME.test(name);
}

/**
 * The path of the control socket of VM `name` in `directory`.
 *
 * @throws {ControlError} when it is not a name.
 */
export function socketPathOfName(name: string, directory: string = runDirectory()): string {
  if (!isVmName(name)) {
    throw new ControlError(
      `VM name: expected up to 64 letters, digits, "_", "." or "-", got ${JSON.stringify(name)}`,
    );
  }
  return join(directory, name + SUFFIX);
}

/** The path of a control socket that is given by path (it has a `/`) or by the VM's name. */
export function socketPathOf(nameOrPath: string): string {
  return nameOrPath.includes("/") ? nameOrPath : socketPathOfName(nameOrPath);
}

/** Names and paths of the sockets in `directory`, sorted; of dead VMs too. */
export function socketsIn(directory: string): { readonly name: string; readonly path: string }[] {
  let entries: Deno.DirEntry[];
  try {
    entries = [...Deno.readDirSync(directory)];
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw new ControlError(`cannot read ${directory}`, { cause: error });
  }
  return entries
    .filter((entry) => entry.name.endsWith(SUFFIX) && !entry.isFile && !entry.isDirectory)
    .map((entry) => ({
      name: entry.name.slice(0, -SUFFIX.length),
      path: join(directory, entry.name),
    }))
    .sort((a, b) => a.name < b.name ? -1 : 1);
}

function ownFacts(): RunDirectoryFacts {
  return { xdgRuntimeDir: Deno.env.get("XDG_RUNTIME_DIR"), uid: getuid() };
}

function isDirectory(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}
