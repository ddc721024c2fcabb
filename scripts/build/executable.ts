/**
 * Puts the JavaScript runtime and the bundle into one file.
 *
 * @module
 */

import { concatBytes } from "../../lib/base/mod.ts";
import { addSegment } from "./elf.ts";
import { makeLauncher } from "./launcher.ts";

/** Where in the memfd a bundle begins, and its bytes. */
type Place = readonly [number, number];

/** The bundles' places. */
interface Places {
  readonly script: Place;
  readonly worker: Place;
  /** By patterns of the names of the workers that choose them. */
  readonly namedWorkers: Readonly<Record<string, Place>>;
  /** By the first argument that chooses them. */
  readonly others: Readonly<Record<string, Place>>;
  /** Data, by names. */
  readonly data: Readonly<Record<string, Place>>;
}

/** The global function that gives data by its name. */
const PART = "VMCTL_PART";

/** The global variable in which the program finds a worker that was started before it. */
const EARLY_WORKER = "VMCTL_EARLY_WORKER";

/**
 * The main module, also of every worker. It evaluates one of the bundles, which are scripts, because the
 * runtime parses each module a second time to find its imports, and once more where it has no cache
 * to note them in: that takes longer than all the rest of a start.
 */
function mainModule(
  { script, worker, namedWorkers, others, data }: Places,
  early: ExecutableParts["earlyWorker"],
): string {
  return `const [path, home, ...args] = Deno.args;
const isWorker = "WorkerGlobalScope" in globalThis;
if (!isWorker) {
  if (home === "") Deno.env.delete("HOME");
  else Deno.env.set("HOME", home.slice(5));
}
Object.defineProperty(Deno, "args", { value: args });
if (!isWorker && args[0] === ${JSON.stringify(early?.argument ?? null)}) {
  globalThis.${EARLY_WORKER} = new Worker(Deno.mainModule, ${
    JSON.stringify({ type: "module", name: early?.name })
  });
}
const others = ${JSON.stringify(others)};
const read = ([at, bytes]) => {
  const part = new Uint8Array(bytes);
  const file = Deno.openSync(path);
  file.seekSync(at, 0);
  for (let done = 0; done < bytes;) done += file.readSync(part.subarray(done)) ?? bytes;
  file.close();
  return part;
};
const data = ${JSON.stringify(data)};
globalThis.${PART} = (name) => Object.hasOwn(data, name) ? read(data[name]) : undefined;
const namedWorkers = ${JSON.stringify(Object.entries(namedWorkers))};
const script = read(isWorker
  ? namedWorkers.find(([names]) => new RegExp(names).test(self.name))?.[1] ?? ${
    JSON.stringify(worker)
  }
  : Object.hasOwn(others, args[0] ?? "") ? others[args[0]] : ${JSON.stringify(script)});
const load = (name) => process.getBuiltinModule(name);
(0, eval)(new TextDecoder().decode(script))(load, {}, {});
`;
}

/** Makes a CommonJS script one expression: a function for {@link mainModule} to call. */
const SCRIPT_HEAD = "(function (require, exports, module) {";
const SCRIPT_TAIL = "\n})\n//# sourceURL=vmctl.js\n";

/**
 * Counting calls for inlining costs more than that gives, and what accesses could reach is guarded (see
 * memory/guarded_memory.ts), so they are not checked in code. No `--experimental-wasm-wide-arithmetic`: where
 * V8 15.0 takes an operand of `i64.mul_wide_*` from memory, its allocator may give the register of the
 * address to what was in RDX, so another address is read (`tests/optimized_code_test.ts` then fails).
 */
export const WASM_FLAGS: readonly string[] = [
  "--no-wasm-inlining",
  "--no-wasm-bounds-checks",
  // What the last run found hot is compiled before it is called (see soft/cpu/translator/ahead.ts).
  "--experimental-wasm-compilation-hints",
];

/** `vmctl ARG…` becomes `vmctl run` with these, the bundle's path and `ARG…`. */
const RUNTIME_ARGUMENTS = [
  "vmctl",
  "run",
  "--allow-all",
  "--no-config",
  "--no-lock",
  "--no-remote",
  "--no-npm",
  "--node-modules-dir=none",
  "--no-code-cache",
  // Young objects are few here, and each worker would keep 32 MiB for them: half of what a VM takes. With 4
  // MiB a disk at work had up to 1.8 MiB more than with 1, and nothing was faster.
  // Collecting can be asked for (see soft/cpu/collector.ts). A copy of V8's own functions beside optimized
  // code would be 2 MiB for each process, where all share those of the file.
  `--v8-flags=--max-semi-space-size=1,--no-short-builtin-calls,--expose-gc,${WASM_FLAGS.join(",")}`,
];

/**
 * Keeps the runtime from reading or writing anything of the user's: a cache, settings in the home
 * folder, of which a broken one would end it. There can never be such folders, whoever runs this.
 */
const RUNTIME_ENVIRONMENT = [
  "DENO_DIR=/dev/null/vmctl",
  // The missing cache is no news, on a terminal neither; any other error is.
  "DENO_LOG=error,deno::cache=off",
  "DENO_NO_PACKAGE_JSON=1",
  "DENO_NO_UPDATE_CHECK=1",
  "HOME=/proc/self/vmctl",
];

/** What a developer has set for a runtime of their own is not meant for the one inside vmctl. */
const DROPPED_PREFIXES = ["DENO_", "NODE_", "OTEL_", "HOME="];

/** What goes into an executable. Scripts are CommonJS; they can load what is built into the runtime. */
export interface ExecutableParts {
  /** What runs; it can start workers with `Deno.mainModule`. */
  readonly script: string;
  /** What runs in workers, `script` where absent. */
  readonly worker?: string;
  /** What runs in workers instead whose names match these regular expressions. */
  readonly namedWorkers?: Readonly<Record<string, string>>;
  /** Scripts that run instead, by the first argument that chooses them. */
  readonly others?: Readonly<Record<string, string>>;
  /** Data that the scripts get from `globalThis.VMCTL_PART(name)`. */
  readonly data?: Readonly<Record<string, Uint8Array>>;
  /**
   * With this first argument, a worker of this name starts along with the program, which finds it as
   * `globalThis.VMCTL_EARLY_WORKER`.
   */
  readonly earlyWorker?: { readonly argument: string; readonly name: string };
  /** Path of the Deno program that goes in, by default the one that runs this. */
  readonly runtime?: string;
}

/**
 * Writes an executable.
 *
 * @param output Path of the file; must not be a running program.
 * @throws {ElfError} when `runtime` cannot be extended.
 */
export function writeExecutable(output: string, options: ExecutableParts): void {
  const parts: Uint8Array[] = [];
  let length = 0;
  const put = (bytes: Uint8Array): Place => {
    const at = length;
    parts.push(bytes);
    length += bytes.length;
    return [at, bytes.length];
  };
  const putAll = (parts: Readonly<Record<string, Uint8Array>>) =>
    Object.fromEntries(Object.entries(parts).map(([name, bytes]) => [name, put(bytes)]));
  const encode = (script: string) => new TextEncoder().encode(SCRIPT_HEAD + script + SCRIPT_TAIL);
  const script = put(encode(options.script));
  const worker = options.worker === undefined ? script : put(encode(options.worker));
  const putScripts = (scripts: Readonly<Record<string, string>> = {}) =>
    putAll(
      Object.fromEntries(Object.entries(scripts).map(([key, text]) => [key, encode(text)])),
    );
  const namedWorkers = putScripts(options.namedWorkers);
  const others = putScripts(options.others);
  const data = putAll(options.data ?? {});
  const main = mainModule({ script, worker, namedWorkers, others, data }, options.earlyWorker);
  const module = encodeURIComponent(main);
  const runtime = Deno.readFileSync(options.runtime ?? Deno.execPath());
  const patch = addSegment(runtime, (placement) =>
    makeLauncher(
      {
        bundle: concatBytes(parts),
        argv: [...RUNTIME_ARGUMENTS, `data:text/javascript,${module}`],
        environment: RUNTIME_ENVIRONMENT,
        droppedPrefixes: DROPPED_PREFIXES,
      },
      placement,
    ));
  const image = new Uint8Array(patch.segmentOffset + patch.segment.length);
  image.set(runtime);
  image.set(patch.head);
  image.set(patch.segment, patch.segmentOffset);
  Deno.writeFileSync(output, image, { mode: 0o755 });
}
