import { strict as assert } from "node:assert";
import { insn } from "../opcode.ts";
import { planRegions, type RegionPlan } from "./plan.ts";
import type { RegionInsn } from "./region_frame.ts";

const rows = {
  mov: insn("mov", "89 /r sz", "Ev Gv", () => {}),
  jmp: insn("jmp", "eb end", "Jb", () => {}),
  ret: insn("ret", "c3 end", "", () => {}),
} as const;

/** An instruction of `length` bytes at `offset`; a jump goes to `to`. */
function at(
  offset: number,
  length: number,
  how: { kind?: keyof typeof rows; to?: number } = {},
): RegionInsn {
  const next = offset + length;
  return {
    ...{ offset, next, insn: rows[how.kind ?? "mov"], size: 8, mem: false, locked: false },
    ...{ a: 0, b: 0, base: 0, index: 0, seg: 0, stack: false, scale: 0, extra: 0, disp: 0 },
    immLow: how.to === undefined ? 0 : how.to - next,
    ...{ immHigh: 0, wide: undefined, taken: true, passed: true },
  };
}

/** What is planned from `spot`, which is seen as often as all of `code`. */
function plan(spot: number, code: readonly RegionInsn[], wide = true): RegionPlan | undefined {
  const { plans } = planRegions([spot], {
    read: (offset) => code.find((insn) => insn.offset === offset),
    warm: code.map(({ offset }) => offset).filter((offset) => offset >> 12 === 0),
    arrived: () => true,
    wide,
    taken: () => false,
  });
  return plans[0];
}

const offsets = (found: RegionPlan | undefined) =>
  found?.blocks.flatMap(({ insns }) => insns.map(({ offset }) => offset));

const CODE = [
  at(0xff0, 8),
  at(0xff8, 5),
  at(0xffd, 7),
  at(0x1004, 4),
  at(0x1008, 1, { kind: "ret" }),
];

Deno.test("an instruction in two pages is part of a region over both, and no entry of it", () => {
  const found = plan(0xff0, CODE);
  assert.deepEqual(offsets(found), CODE.map(({ offset }) => offset));
  assert.deepEqual(found?.pages, [0, 1]);
  assert.ok(!found.entries.includes(0xffd));
  assert.ok(found.entries.some((offset) => offset >> 12 === 1), "its second page has an entry");
  assert.deepEqual(found.blocks.map(({ start, end }) => [start, end]).at(-1), [0x1004, 0x1009]);
});

Deno.test("a region of one page ends in front of an instruction in two", () => {
  assert.deepEqual(offsets(plan(0xff0, CODE, false)), [0xff0, 0xff8]);
});

Deno.test("so does one that has nothing behind it", () => {
  assert.deepEqual(offsets(plan(0xff0, CODE.slice(0, 3))), [0xff0, 0xff8]);
  const jump = at(0xffd, 5, { kind: "jmp", to: 0xff0 });
  assert.deepEqual(offsets(plan(0xff0, [...CODE.slice(0, 2), jump])), [0xff0, 0xff8]);
});

Deno.test("none begins with one, and none has one in a page with nothing else", () => {
  assert.equal(plan(0xffd, CODE), undefined);
  const jump = at(0x2000, 5, { kind: "jmp", to: 0xffd });
  assert.ok(!offsets(plan(0x2000, [jump, ...CODE.slice(2)]))?.includes(0xffd));
});
