/**
 * The program that serves a device in a process of its own: this very one.
 *
 * @module
 */

import { dirname, join } from "node:path";
import { type JailMount, runtimeMounts } from "../../jail/mod.ts";
import { MachineError } from "../errors.ts";

/** A program and what it needs in its jail. */
export interface DeviceProgram {
  /** Path of the program. */
  readonly path: string;
  /** Its arguments in front of those that name the device, its own name first. */
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly mounts: readonly JailMount[];
}

/** One heap of the C library: each thread of the runtime would keep what it freed for itself. */
const ENVIRONMENT: Readonly<Record<string, string>> = { MALLOC_ARENA_MAX: "1" };

/** The running executable may have been replaced by another version; this is still the same one. */
const OWN_PROGRAM = "/proc/self/exe";

/**
 * The executable itself, or, where the runtime runs the sources, the runtime with the sources.
 *
 * @param mainModule URL of main.ts, or of what it became
 * @throws {MachineError} where the sources are not files.
 */
export function ownProgram(mainModule: string = Deno.mainModule): DeviceProgram {
  // Its beginning finds the program's text by descriptor.
  const mounts: JailMount[] = [...runtimeMounts(), { kind: "proc", target: "/proc" }];
  if (mainModule.startsWith("data:")) {
    return { path: OWN_PROGRAM, argv: ["vmctl"], env: ENVIRONMENT, mounts };
  }
  if (!mainModule.startsWith("file:")) {
    throw new MachineError(`expected the program's sources in files, got ${mainModule}`);
  }
  const main = decodeURIComponent(new URL(mainModule).pathname);
  const sources = dirname(main);
  const cache = runtimeCache();
  return {
    path: OWN_PROGRAM,
    argv: [
      ...["deno", "run", "--quiet", "--allow-all", "--cached-only", "--no-lock"],
      ...["--config", join(sources, "deno.json"), main],
    ],
    env: { ...ENVIRONMENT, DENO_DIR: cache, DENO_NO_UPDATE_CHECK: "1" },
    mounts: [
      ...mounts,
      { kind: "bind", source: sources, target: sources },
      { kind: "bind", source: cache, target: cache },
    ],
  };
}

/** The folder in which the runtime keeps what it made of sources. */
function runtimeCache(): string {
  const { DENO_DIR, XDG_CACHE_HOME, HOME } = Deno.env.toObject();
  if (DENO_DIR !== undefined) return DENO_DIR;
  return join(XDG_CACHE_HOME ?? join(HOME ?? "/", ".cache"), "deno");
}
