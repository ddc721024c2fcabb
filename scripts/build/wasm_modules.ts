/**
 * Writes the WebAssembly modules that the executable brings along, interpreters above all, into the folder that its argument names. It runs
 * with the executable's V8 flags, for they decide what is emitted.
 *
 * @module
 */

import { join } from "node:path";
import { emitLz4 } from "../../lib/boot/lz4_emit.ts";
import { LZ4_PART } from "../../lib/boot/lz4_module.ts";
import { emitInterpreter } from "../../lib/hypervisor/soft/cpu/interpreter.ts";
import { encodeImage, imagePart } from "../../lib/hypervisor/soft/cpu/interpreter_image.ts";
import { allRows, registerHelpers } from "../../lib/hypervisor/soft/cpu/table.ts";

const [folder] = Deno.args;
if (folder === undefined) throw new TypeError("expected a folder, got nothing");
await Deno.mkdir(folder, { recursive: true });
await Deno.writeFile(join(folder, LZ4_PART), emitLz4());
for (const smp of [false, true]) {
  for (const holdsRam of [false, true]) {
    const kind = { smp, holdsRam };
    const image = emitInterpreter({ rows: allRows, ...kind, extend: registerHelpers });
    await Deno.writeFile(join(folder, imagePart(kind)), encodeImage(image));
  }
}
