import assert from "node:assert/strict";
import { fuzzRings } from "./testing/ring_fuzz.ts";

const ROUNDS = 1_000_000;

Deno.test("a million malformed rings: no crash, no hang, nothing outside of guest memory", () => {
  const { chains, faults } = fuzzRings(ROUNDS, 0x2545_f491);
  // It is not always the same first check that refuses.
  assert.ok(chains > ROUNDS / 10, `${chains} chains`);
  const reasons = [
    "available-index",
    "buffer-outside-memory",
    "chain-too-long",
    "head-in-use",
    "head-out-of-range",
    "indirect-length",
    "indirect-nested",
    "indirect-not-negotiated",
    "indirect-outside-memory",
    "indirect-with-next",
    "next-out-of-range",
    "readable-after-writable",
  ];
  for (const reason of reasons) assert.ok((faults[reason] ?? 0) > 20, `${reason} was hardly met`);
});
