/**
 * What is bundled: main.ts over again, without the top-level `await` that a script cannot have. It
 * can do without, for in the bundle nothing is loaded: `import()` is done before the next message.
 *
 * @module
 */

if ("WorkerGlobalScope" in globalThis) {
  import("../../lib/machine/mod.ts").then(({ startWorker }) => startWorker());
} else if (Deno.args[0] === "--device-process") {
  // Where the executable has no bundle of its own for it.
  import("../../lib/devices/mod.ts")
    .then(({ runDeviceProcess }) => runDeviceProcess(Deno.args[1] ?? "")).then(Deno.exit);
} else {
  import("../../lib/cli/mod.ts").then(({ main }) => main(Deno.args)).then(Deno.exit);
}
