/**
 * The one module that every worker is: main.ts, or the bundle that main.ts became.
 *
 * @module
 */

/** URL of the module that a worker of this program loads. */
export function workerModuleUrl(): string {
  return Deno.mainModule;
}
