import type { Insn } from "../cpu/opcode.ts";
import { simdRows } from "../cpu/simd/mod.ts";
import { differsByMaker, testRows } from "./suite.ts";

const approximations = new Set(["rcpss", "rcpps", "rsqrtss", "rsqrtps"]);
const usesMmx = (row: Insn) => row.operands.some((o) => "PQN".includes(o.kind));
const floats = /^(add|sub|mul|div|min|max|sqrt|cmp|u?comis|haddp|hsubp|addsub|dpp|round|cvt)/;
const isFloat = (row: Insn) => floats.test(row.mnemonic);

const general = simdRows.filter((row) => !approximations.has(row.mnemonic));
testRows(
  "packed integers, moves and strings in XMM registers equal the processor's",
  general.filter((row) => !isFloat(row) && !usesMmx(row) && !differsByMaker(row)),
);
testRows(
  "MMX instructions equal the processor's",
  general.filter((row) => !isFloat(row) && usesMmx(row)),
  { intel: true },
);
testRows(
  "SSE floating point equals the processor's",
  general.filter(isFloat),
  { intel: true },
);
testRows(
  "reciprocal approximations equal the processor's",
  simdRows.filter((row) => approximations.has(row.mnemonic)),
  { intel: true },
);
