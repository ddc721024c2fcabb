/**
 * What takes the place of the software engine's vCPUs and translator in the bundle of the program, which
 * makes none: its workers do. They are more than a third of all text, and take as much of the time to read it.
 * Nor does it emit what the executable brings along.
 *
 * @module
 */

import { HypervisorError } from "../../lib/hypervisor/mod.ts";

/** Cannot be made. */
export class SoftVcpu {
  constructor() {
    throw new HypervisorError("only workers make vCPUs of the software engine");
  }
}

/** Cannot be done. */
export function serveTranslations(): void {
  throw new HypervisorError("only workers translate");
}

/** Is brought along. */
export function emitLz4(): never {
  throw new HypervisorError("the executable brings the decoder of LZ4 along");
}
