/**
 * The one module that everything is: the program, and each of its workers in another role.
 *
 * @module
 */

if ("WorkerGlobalScope" in globalThis) {
  // Messages that come before the role's code is loaded stay queued behind this one.
  const { startWorker } = await import("./lib/machine/mod.ts");
  startWorker();
} else if (Deno.args[0] === "--device-process") {
  const { runDeviceProcess } = await import("./lib/devices/mod.ts");
  Deno.exit(await runDeviceProcess(Deno.args[1] ?? ""));
} else {
  const { main } = await import("./lib/cli/mod.ts");
  Deno.exit(await main(Deno.args));
}

export {};
