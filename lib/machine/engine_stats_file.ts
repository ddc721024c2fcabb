/**
 * The file of `--engine-stats`.
 *
 * @module
 */

import { describeFileError, Logger } from "../base/mod.ts";
import type { Vm } from "../hypervisor/mod.ts";
import { MachineError } from "./errors.ts";

const log = new Logger("machine");

/** Holds the file open from before the guest's first instruction, so that a bad path is told before it too. */
export class EngineStatsFile implements Disposable {
  readonly #path: string;
  readonly #file: Deno.FsFile;

  /**
   * Makes the file, or empties it.
   *
   * @throws {MachineError} when it cannot be written.
   */
  constructor(path: string) {
    this.#path = path;
    try {
      this.#file = Deno.openSync(path, { write: true, create: true, truncate: true });
    } catch (error) {
      throw new MachineError(
        `--engine-stats ${path}: cannot be opened for writing: ${describeFileError(error)}`,
      );
    }
  }

  /** Writes the counters of `vm`; what fails now is only warned of, as the VM has ended. */
  write(vm: Vm): void {
    const stats = vm.engineStats?.() ?? { engine: vm.kind };
    const text = new TextEncoder().encode(JSON.stringify(stats, null, 2) + "\n");
    try {
      for (let at = 0; at < text.length;) at += this.#file.writeSync(text.subarray(at));
    } catch (error) {
      log.warn(`${this.#path}: cannot write the engine's counters: ${describeFileError(error)}`);
    }
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}
