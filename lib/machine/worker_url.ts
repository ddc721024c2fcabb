/**
 * The one module that every worker is: main.ts, or the bundle that main.ts became.
 *
 * @module
 */

/** URL of the module that a worker of this program loads. */
export function workerModuleUrl(): string {
  return Deno.mainModule;
}

/** Where the executable leaves a worker that it started before the program, see scripts/build. */
const EARLY_WORKER = "VMCTL_EARLY_WORKER";

/** The worker for the first vCPU that was started along with the program; undefined where it was not. */
export function takeEarlyWorker(): Worker | undefined {
  const worker: unknown = Reflect.get(globalThis, EARLY_WORKER);
  Reflect.deleteProperty(globalThis, EARLY_WORKER);
  return worker instanceof Worker ? worker : undefined;
}
