import assert from "node:assert/strict";
import { aluRows } from "../cpu/integer/alu.ts";
import { moveRows } from "../cpu/integer/moves.ts";
import { shiftRows } from "../cpu/integer/shifts.ts";
import { stringRows } from "../cpu/integer/strings.ts";
import { simdRows } from "../cpu/simd/mod.ts";
import { allRows } from "../cpu/table.ts";
import { x87Rows } from "../cpu/x87/mod.ts";
import { differsByMaker, isComparable, testRows } from "./suite.ts";

const groups = {
  "integer arithmetic equals the processor's": aluRows.filter(isComparable),
  "moves, stack and flag instructions equal the processor's": moveRows.filter((row) =>
    isComparable(row) && !differsByMaker(row)
  ),
  "shifts, rotations and bit tests equal the processor's": shiftRows.filter(isComparable),
  "string instructions equal the processor's": stringRows.filter(isComparable),
};

for (const [name, rows] of Object.entries(groups)) testRows(name, rows);

testRows(
  "what makers have each in their own way equals the processor's",
  allRows.filter(differsByMaker),
  { intel: true },
);

Deno.test("more than 300 mnemonics are compared with the processor", () => {
  // All SIMD and x87 rows are tested beside these.
  const rows = [...Object.values(groups).flat(), ...simdRows, ...x87Rows];
  const mnemonics = new Set(rows.map((row) => row.mnemonic));
  assert.ok(mnemonics.size >= 400, `${mnemonics.size} mnemonics`);
});
