/**
 * Where translated code is kept for the next run.
 *
 * @module
 */

import { cpuLayout, holdsRam } from "./cpu/cpu_memory.ts";
import type { StoreOptions } from "./cpu/translator/store.ts";
import { translatorVersion } from "./version.ts";

/** What is kept of translated code. */
export interface TranslationSettings {
  /** Folder where it is kept for the next run; undefined for nowhere. */
  readonly cacheFolder?: string | undefined;
  /** How large its file may become, and what is kept of it in memory, in bytes. */
  readonly cacheLimitBytes?: number | undefined;
  /** About how much memory modules in use may take, in bytes; 256 MiB where it is absent. */
  readonly codeLimitBytes?: number | undefined;
}

/**
 * Where translations are kept. Locked instructions of several vCPUs are other ones than those of one, and
 * RAM that does not lie in the state memory is another memory.
 */
export function storeOptions(
  settings: TranslationSettings,
  of: { several: boolean; ramBytes: number },
): StoreOptions {
  const { cacheFolder: folder, cacheLimitBytes: limitBytes } = settings;
  const kind = `${of.several ? "+" : ""}${holdsRam(cpuLayout(), of.ramBytes) ? "" : "-"}`;
  const version = folder === undefined ? "" : `${translatorVersion()}${kind}`;
  return { folder, version, limitBytes };
}
