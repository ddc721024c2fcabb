/**
 * Which translator this is, for files that only the same one may use again.
 *
 * @module
 */

import { join } from "node:path";
import { sumWords } from "./cpu/translator/unit.ts";

/** Set by the build, see scripts/build: a hash of the whole program. */
const BUILD = "VMCTL_BUILD";

/** Folders that decide what is translated and how, where the program is not built. */
const SOURCES = ["cpu", "wasm"];

/** At most 31 characters that differ where modules may differ. */
export function translatorVersion(): string {
  return sourceVersion().slice(0, 31);
}

function sourceVersion(): string {
  const built: unknown = Reflect.get(globalThis, BUILD);
  if (typeof built === "string") return built;
  const sums: number[] = [];
  for (const folder of SOURCES) addSums(join(import.meta.dirname ?? ".", folder), sums);
  const words = new Uint32Array(new Float64Array(sums).buffer);
  return `source-${sumWords(words, 0, words.length).toString(16)}`;
}

function addSums(folder: string, sums: number[]): void {
  const entries = [...Deno.readDirSync(folder)].sort((a, b) => a.name < b.name ? -1 : 1);
  for (const { name, isDirectory } of entries) {
    const path = join(folder, name);
    if (isDirectory) addSums(path, sums);
    else if (!name.endsWith("_test.ts")) {
      const text = Deno.readFileSync(path);
      const padded = new Uint8Array(Math.ceil((text.length + 1) / 4) * 4);
      padded.set(text);
      padded[text.length] = 1;
      sums.push(sumWords(new Uint32Array(padded.buffer), 0, padded.length / 4));
    }
  }
}
