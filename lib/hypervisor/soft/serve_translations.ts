/**
 * The thread that translates for the vCPUs of a VM.
 *
 * @module
 */

import { cpuLayout, holdsRam } from "./cpu/cpu_memory.ts";
import { interpreterFor } from "./cpu/processor.ts";
import { Ahead } from "./cpu/translator/ahead.ts";
import type { TranslationDesk } from "./cpu/translator/desk.ts";
import { TranslationService } from "./cpu/translator/service.ts";
import { TranslationStore } from "./cpu/translator/store.ts";
import { storeOptions, type TranslationSettings } from "./translations.ts";

/** Serves `desk` until it ends; whatever goes wrong, vCPUs translate themselves from then on. */
export function serveTranslations(options: {
  desk: TranslationDesk;
  cpus: readonly WebAssembly.Memory[];
  ram: WebAssembly.Memory;
  ramBytes: number;
  lowBytes: number;
  team: WebAssembly.Memory | undefined;
  translations: TranslationSettings;
}): void {
  const { desk, cpus, ram, ramBytes, lowBytes, translations } = options;
  const several = options.team !== undefined;
  try {
    const kept = storeOptions(translations, { several, ramBytes });
    const { folder, version } = kept;
    const interpreter = interpreterFor(
      { smp: several, holdsRam: holdsRam(cpuLayout(), ramBytes) },
      folder === undefined ? undefined : { folder, version },
    );
    const ahead = new Ahead(new TranslationStore(kept).units(), desk.used);
    new TranslationService({ desk, cpus, ram, ramBytes, lowBytes, interpreter, ahead }).serve();
  } finally {
    desk.lose();
  }
}
