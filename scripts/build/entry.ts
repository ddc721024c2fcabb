/**
 * What is bundled: main.ts over again, without the top-level `await` that a script cannot have. It
 * can do without, for in the bundle nothing is loaded: `import()` is done before the next message.
 *
 * @module
 */

if ("WorkerGlobalScope" in globalThis) {
  import("../../lib/machine/mod.ts").then(({ startWorker }) => startWorker());
} else {
  import("../../lib/cli/mod.ts").then(({ main }) => main(Deno.args)).then(Deno.exit);
}
