/**
 * Where what can be made again is kept for the user.
 *
 * @module
 */

import { join } from "node:path";

/**
 * `vmctl` in XDG_CACHE_HOME, or in `.cache` in HOME; undefined where neither is an absolute path (XDG Base
 * Directory Specification 0.8). It need not be there yet.
 */
export function userCacheFolder(): string | undefined {
  const cache = Deno.env.get("XDG_CACHE_HOME");
  if (cache?.startsWith("/") === true) return join(cache, "vmctl");
  const home = Deno.env.get("HOME");
  return home?.startsWith("/") === true ? join(home, ".cache", "vmctl") : undefined;
}
