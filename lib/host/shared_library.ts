/**
 * Shared libraries besides the C library, which a host has or has not.
 *
 * @module
 */

import { Fd, type FdLike, rawFd } from "./fd.ts";
import { openFile, OpenFlag } from "./file.ts";
import { isHostError } from "./errno.ts";
import type { Symbols } from "./libc.ts";

/** What processes need of a library that may not be there for them. */
export interface LoadableLibrary {
  /**
   * Opens its file, for {@link load} in a process that cannot look for it; undefined where the host has none.
   */
  openFile(): Fd | undefined;
  /** Loads it for this thread from a file of {@link openFile}, which stays the caller's, unless it is. */
  load(file: FdLike): void;
}

/** A library by the name that it is linked by. */
export class SharedLibrary<const S extends Symbols> implements LoadableLibrary {
  readonly #name: string;
  readonly #definitions: S;
  #bound: Deno.StaticForeignLibraryInterface<S> | undefined;
  #tried = false;

  /** @param definitions What is bound of it, all of it when it is loaded. */
  constructor(name: string, definitions: S) {
    this.#name = name;
    this.#definitions = definitions;
  }

  /** Its functions; it is loaded at the first call. Undefined where the host has none that has them all. */
  get functions(): Deno.StaticForeignLibraryInterface<S> | undefined {
    if (this.#bound === undefined && !this.#tried) {
      this.#tried = true;
      this.#bound = tryOpen(this.#name, this.#definitions)?.symbols;
    }
    return this.#bound;
  }

  load(file: FdLike): void {
    // It is there in jails, too, for the runtime.
    this.#bound ??= tryOpen(`/proc/self/fd/${rawFd(file)}`, this.#definitions)?.symbols;
  }

  openFile(): Fd | undefined {
    const path = this.#findFile();
    if (path === undefined) return undefined;
    try {
      return openFile(path, OpenFlag.ReadOnly);
    } catch (error) {
      // It has been replaced meanwhile.
      if (isHostError(error)) return undefined;
      throw error;
    }
  }

  /** The path of the file that the linker finds, by where one of its functions is. */
  #findFile(): string | undefined {
    const [name] = Object.keys(this.#definitions);
    if (name === undefined) return undefined;
    // Safe: an address is asked for, and nothing is called.
    const library = tryOpen(this.#name, { [name]: { type: "pointer" } });
    if (library === undefined) return undefined;
    try {
      const address = Deno.UnsafePointer.value(library.symbols[name] ?? null);
      for (const line of Deno.readTextFileSync("/proc/self/maps").split("\n")) {
        // address permissions offset device inode path (proc_pid_maps(5)).
        const match = /^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ [1-9][0-9]* +(\/.*)$/.exec(line);
        if (match === null) continue;
        const [, from, to, path] = match;
        if (address >= BigInt(`0x${from}`) && address < BigInt(`0x${to}`)) return path;
      }
      return undefined;
    } finally {
      library.close();
    }
  }
}

function tryOpen<const S extends Symbols>(
  path: string,
  definitions: S,
): Deno.DynamicLibrary<S> | undefined {
  try {
    return Deno.dlopen(path, definitions);
  } catch (error) {
    if (error instanceof Error) return undefined;
    throw error;
  }
}
