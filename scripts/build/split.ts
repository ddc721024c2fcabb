/**
 * Makes scripts of the modules into which `deno bundle --code-splitting` divides the program: one with all
 * that `vmctl run` comes to, and parts that are read and parsed when something wants them.
 *
 * @module
 */

import { join } from "node:path";
import { NEED } from "./late.ts";

/** What {@link splitScripts} makes. */
export interface SplitScripts {
  /** The beginning, and all modules that belong to it. */
  readonly script: string;
  /** Its source map. */
  readonly map: string;
  /** Other modules by their names, each an expression. */
  readonly parts: Readonly<Record<string, string>>;
}

/** A module of the bundler's. It exports nothing that changes later. */
interface Chunk {
  /** What runs it, an expression: a function that is given {@link REQUIRE} and an object for what it exports. */
  readonly script: string;
  /** Names of modules that it imports. */
  readonly imports: readonly string[];
  /** Names of modules that it loads some time. */
  readonly loads: readonly string[];
  readonly exports: readonly string[];
}

const NAME = String.raw`"(\./[\w.-]+\.js)"`;
const IMPORT = new RegExp(String.raw`import(?:(\{[^}]*\}|\*as [\w$]+ )from)?${NAME};`, "y");
const LOAD = new RegExp(String.raw`\bimport\(${NAME}\)`, "g");
/** At the end, but for licences. */
const EXPORT = /\bexport\{([^}]*)\};(\s*(?:\/\*.*?\*\/\s*)*)$/s;
/** What is not expected of the bundler. */
const OTHERS =
  /(?:^|[;}])(?:import["{*]|export[{*]|import [\w$]+(?:,|from| from)|export (?:default|var|let|const|class|function)\b)/;
const REQUIRE = "$need";

/** `a as b,c` of an import or export with a colon, turned round where it is an export. */
function bindings(list: string, turned: boolean): string {
  return list.split(",").filter((item) => item !== "").map((item) => {
    const [from, to] = item.split(" as ");
    return to === undefined ? item : turned ? `${to}:${from}` : `${from}:${to}`;
  }).join(",");
}

/** The same length, so that a source map's columns stay right. */
const blank = (text: string) => " ".repeat(text.length);

/** Makes a script of a module as the bundler minifies it. */
export function readChunk(text: string): Chunk {
  const imports: string[] = [];
  const takes: string[] = [];
  IMPORT.lastIndex = 0;
  let end = 0;
  for (let found; (found = IMPORT.exec(text)) !== null; end = IMPORT.lastIndex) {
    const [, what, name] = found;
    imports.push(name!);
    const take = `${REQUIRE}("${name}");`;
    if (what === undefined) takes.push(take);
    else if (what.startsWith("*")) takes.push(`const ${what.slice(4).trim()}=${take}`);
    else takes.push(`const{${bindings(what.slice(1, -1), false)}}=${take}`);
  }
  const loads: string[] = [];
  let exported = "";
  const body = (blank(text.slice(0, end)) + text.slice(end))
    .replace(LOAD, (_, name: string) => {
      loads.push(name);
      // As long as `import`.
      return `$loads("${name}")`;
    })
    .replace(EXPORT, (_, list: string, rest: string) => {
      exported = bindings(list, true);
      return `Object.assign($exports,{${exported}});${rest}`;
    });
  if (OTHERS.test(body)) {
    throw new TypeError("expected a bundler's imports and exports, found others");
  }
  return {
    script: `(function(${REQUIRE},$exports,$loads){"use strict";${takes.join("")}\n${body}\n})`,
    imports,
    loads,
    exports: exported.split(",").map((item) => item.split(":")[0]!),
  };
}

/** The names of `roots` and of all that is imported for them. */
function closure(chunks: ReadonlyMap<string, Chunk>, roots: readonly string[]): Set<string> {
  const names = new Set(roots);
  for (const name of names) for (const other of chunks.get(name)!.imports) names.add(other);
  return names;
}

/**
 * Makes scripts of what the bundler put into `folder`.
 *
 * @param options.entry the module that begins
 * @param options.eager names that modules export which are loaded soon, each by one of them
 */
export async function splitScripts(
  folder: string,
  { entry, eager }: { readonly entry: string; readonly eager: readonly string[] },
): Promise<SplitScripts> {
  const chunks = new Map<string, Chunk>();
  for await (const { name } of Deno.readDir(folder)) {
    if (!name.endsWith(".js")) continue;
    chunks.set(`./${name}`, readChunk(await Deno.readTextFile(join(folder, name))));
  }
  const loaded = new Set([...chunks.values()].flatMap(({ loads }) => loads));
  const roots = eager.map((exported) => {
    const found = [...loaded].filter((name) => chunks.get(name)!.exports.includes(exported));
    if (found.length !== 1) throw new TypeError(`expected one module with ${exported}: ${found}`);
    return found[0]!;
  });
  const together = closure(chunks, [entry, ...roots]);
  const sections: { offset: { line: number; column: number }; map: unknown }[] = [];
  let script = `const $modules={`;
  for (const name of together) {
    script += `${JSON.stringify(name)}:`;
    sections.push({
      offset: { line: script.split("\n").length, column: 0 },
      map: JSON.parse(await Deno.readTextFile(join(folder, `${name}.map`))),
    });
    script += `${chunks.get(name)!.script},\n`;
  }
  script += `};
const $done=new Map();
const $part=(name)=>(0,eval)(new TextDecoder().decode(globalThis.VMCTL_PART(name)));
const ${REQUIRE}=(name)=>{
  let exports=$done.get(name);
  if(exports===undefined){
    $done.set(name,exports={});
    ($modules[name]??$part(name))(${REQUIRE},exports,$loads);
  }
  return exports;
};
const $loads=async(name)=>${REQUIRE}(name);
globalThis.${NEED}=${REQUIRE};
${REQUIRE}(${JSON.stringify(entry)});
`;
  const parts = [...chunks].filter(([name]) => !together.has(name));
  return {
    script,
    map: JSON.stringify({ version: 3, file: "vmctl.js", sections }),
    parts: Object.fromEntries(parts.map(([name, chunk]) => [
      name,
      `${chunk.script}\n//# sourceURL=vmctl/${name.slice(2)}\n`,
    ])),
  };
}
