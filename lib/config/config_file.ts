/**
 * Config files: JSON or TOML, with includes.
 *
 * @module
 */

import { basename, dirname, extname, resolve } from "node:path";
import { describeFileError } from "../base/mod.ts";
import { Decoder, inheritedFd } from "./decode.ts";
import { RUN_OPTIONS, type RunOptions } from "./options.ts";
import type { ConfigProblem } from "./problem.ts";

/** Options of one source, in the order of their precedence: later ones win. */
export interface ConfigLayer {
  /** File, as messages name it; undefined for the command line. */
  readonly file: string | undefined;
  /** What it says, without its includes. */
  readonly options: RunOptions;
}

/** A larger file is no config. */
const MAX_FILE_BYTES = 1024 * 1024;
const MAX_DEPTH = 16;
/** Includes may fan out, and would do so exponentially in a hostile set of files. */
const MAX_FILES = 256;

/** Reads config files and what they include. */
export class ConfigLoader {
  readonly #problems: ConfigProblem[];
  readonly #layers: ConfigLayer[] = [];
  #fileCount = 0;

  /** Whatever is found wrong is pushed to `problems`. */
  constructor(problems: ConfigProblem[]) {
    this.#problems = problems;
  }

  /** The layers of all files loaded so far, includes before the files that name them. */
  get layers(): readonly ConfigLayer[] {
    return this.#layers;
  }

  /** Loads `path`, which the command line names. */
  async load(path: string): Promise<void> {
    await this.#load(path, { chain: [], namedBy: { key: "--cfg" } });
  }

  async #load(path: string, from: {
    chain: readonly string[];
    namedBy: { readonly file?: string; readonly key: string };
  }): Promise<void> {
    const { chain, namedBy } = from;
    const refuse = (message: string) => void this.#problems.push({ ...namedBy, message });
    const shown = displayPath(path);
    if (this.#fileCount >= MAX_FILES) {
      if (this.#fileCount++ === MAX_FILES) refuse(`expected at most ${MAX_FILES} files in all`);
      return;
    }
    this.#fileCount++;
    let identity: string;
    let text: string;
    try {
      // A pipe has no real path.
      identity = isHandedDown(path) ? path : Deno.realPathSync(path);
      if (chain.includes(identity)) {
        return refuse(
          `${shown} includes itself: ${[...chain, identity].map(displayPath).join(" -> ")}`,
        );
      }
      if (chain.length >= MAX_DEPTH) {
        return refuse(`expected includes at most ${MAX_DEPTH} deep`);
      }
      text = readText(path);
    } catch (error) {
      return refuse(`cannot read ${shown}: ${describeFileError(error)}`);
    }
    const before = this.#problems.length;
    const value = await this.#parse(text, { path, shown });
    if (this.#problems.length > before) return;
    const baseDir = isHandedDown(path) ? Deno.cwd() : dirname(path);
    const { cfg, ...options } = new Decoder({ file: shown, baseDir }, this.#problems)
      .options(RUN_OPTIONS, value);
    for (const [index, include] of (cfg ?? []).entries()) {
      await this.#load(include, {
        chain: [...chain, identity],
        namedBy: { file: shown, key: `cfg[${index}]` },
      });
    }
    this.#layers.push({ file: shown, options });
  }

  async #parse(text: string, file: { path: string; shown: string }): Promise<unknown> {
    const isJson = formatOf(file.path, text) === "JSON";
    try {
      if (isJson) return JSON.parse(text);
      // Loaded here because most runs need no TOML.
      const { parse } = await import("smol-toml");
      return parse(text);
    } catch (error) {
      const reason = error instanceof Error ? error.message.trimEnd() : String(error);
      const format = isJson ? "JSON" : "TOML";
      this.#problems.push({
        file: file.shown,
        key: "",
        message: `expected valid ${format}: ${tidied(reason)}`,
      });
      return undefined;
    }
  }
}

/** A parser's message without its preface; what it shows of the text stays below it. */
function tidied(message: string): string {
  const [first = "", ...rest] = message.replace(/^Invalid TOML document: /, "").split("\n");
  const shown = rest.filter((line) => line.trim() !== "").map((line) => `\n  ${line}`);
  return first + shown.join("");
}

/** Whether the caller opened it: it has no folder of its own. */
function isHandedDown(path: string): boolean {
  return path === "/dev/stdin" || inheritedFd(path) !== undefined;
}

/** By the name's ending, else by how the text begins. */
function formatOf(path: string, text: string): "JSON" | "TOML" {
  const ending = extname(basename(path)).toLowerCase();
  if (ending === ".json") return "JSON";
  if (ending === ".toml") return "TOML";
  return /^\s*[{[]\s*(?:["}{]|$)/.test(text) ? "JSON" : "TOML";
}

function readText(path: string): string {
  using file = Deno.openSync(path);
  if (file.statSync().isDirectory) throw new Error("it is a folder");
  const chunks: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const chunk = new Uint8Array(64 * 1024);
    const count = file.readSync(chunk);
    if (count === null) break;
    length += count;
    if (length > MAX_FILE_BYTES) {
      throw new Error(`expected at most ${MAX_FILE_BYTES / 1024 / 1024} MiB`);
    }
    chunks.push(chunk.subarray(0, count));
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Error("expected UTF-8 text");
  }
}

/** Relative to the current folder where that is shorter. */
export function displayPath(path: string): string {
  let cwd: string;
  try {
    cwd = Deno.cwd();
  } catch {
    return path;
  }
  const absolute = resolve(cwd, path);
  return cwd !== "/" && absolute.startsWith(`${cwd}/`) ? absolute.slice(cwd.length + 1) : absolute;
}
