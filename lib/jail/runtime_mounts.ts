/**
 * What this very program needs to start in a jail.
 *
 * @module
 */

import type { JailMount } from "./jail.ts";

/**
 * Mounts of the shared libraries of the running program, and of the dynamic linker, at the places where
 * they are: all that is mapped as code, except the program itself.
 */
export function runtimeMounts(): JailMount[] {
  const program = Deno.execPath();
  const paths = new Set<string>();
  for (const line of Deno.readTextFileSync("/proc/self/maps").split("\n")) {
    // address permissions offset device inode path (proc_pid_maps(5)).
    const match = /^\S+ ..x. \S+ \S+ [1-9][0-9]* +(\/.*)$/.exec(line);
    const path = match?.[1];
    if (path !== undefined && path !== program && isFile(path)) paths.add(path);
  }
  const mounts = [...paths].toSorted().map((path) => bind(path, path));
  const linker = [...paths].find((path) => /\/ld-linux-x86-64\.so\.2$/.test(path));
  // The program names its linker by this path, which is often a link (System V x86-64 ABI, 5.2.1).
  if (linker !== undefined && linker !== LINKER) mounts.push(bind(linker, LINKER));
  return mounts;
}

const LINKER = "/lib64/ld-linux-x86-64.so.2";

function bind(source: string, target: string): JailMount {
  return { kind: "bind", source, target };
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}
