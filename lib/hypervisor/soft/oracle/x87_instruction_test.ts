import { transcendentalRows } from "../cpu/x87/transcendental.ts";
import { x87Rows } from "../cpu/x87/mod.ts";
import type { CaseTriple } from "./differential.ts";
import type { Encoding } from "./encodings.ts";
import { Case } from "./native.ts";
import { testRows } from "./suite.ts";

const SW = Case.fx + 2;
const C1 = 0x200;
const UNDERFLOW = 0x10;

/** Significands of adjacent numbers follow each other when the exponent goes on above them. */
function position(view: DataView, at: number): bigint {
  const exponent = view.getUint16(at + 8, true);
  const steps = BigInt(Math.max(exponent & 0x7fff, 1)) << 63n;
  const size = steps + view.getBigUint64(at, true);
  return (exponent & 0x8000) === 0 ? size : -size;
}

/**
 * True where the sides differ by no more than one unit in the last place of a register and in C1, which
 * says how that was rounded.
 */
function nearlyEqual(_encoding: Encoding, { native, ours }: CaseTriple): boolean {
  let ignored = C1;
  for (let i = 0; i < 8; i++) {
    const at = Case.fx + 32 + 16 * i;
    const distance = position(native, at) - position(ours, at);
    if (distance > 1n || distance < -1n) return false;
    // One unit can be that between denormal and normal.
    const tiny = [native, ours].some((view) => (view.getUint16(at + 8, true) & 0x7fff) === 0);
    if (distance !== 0n && tiny) ignored |= UNDERFLOW;
    for (let n = 0; n < 10; n++) ours.setUint8(at + n, native.getUint8(at + n));
  }
  for (const view of [native, ours]) {
    view.setUint16(SW, view.getUint16(SW, true) & ~ignored, true);
  }
  for (let i = 0; i < Case.size; i++) if (native.getUint8(i) !== ours.getUint8(i)) return false;
  return true;
}

const transcendental = new Set(transcendentalRows);

testRows(
  "x87 instructions equal the processor's",
  x87Rows.filter((row) => !transcendental.has(row)),
  { intel: true },
);
testRows("transcendental x87 instructions are within one unit", transcendentalRows, {
  intel: true,
  allow: nearlyEqual,
  adjust(encoding, state) {
    // FYL2XP1 is defined from sqrt(2)/2 - 1 to sqrt(2) - 1 only.
    if (encoding.row.mnemonic !== "fyl2xp1") return;
    const at = Case.fx + 32 + 8;
    const exponent = state.getUint16(at, true);
    if ((exponent & 0x7fff) >= 0x3ffd && (exponent & 0x7fff) !== 0x7fff) {
      state.setUint16(at, (exponent & 0x8000) | 0x3ffc, true);
    }
  },
});
