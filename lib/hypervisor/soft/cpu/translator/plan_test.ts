import { strict as assert } from "node:assert";
import { insn } from "../opcode.ts";
import { pseudoOffset, pseudoRecord } from "../state.ts";
import { originOf, planRegions, type RegionPlan } from "./plan.ts";
import type { RegionInsn } from "./region_frame.ts";

const rows = {
  mov: insn("mov", "89 /r sz", "Ev Gv", () => {}),
  call: insn("call", "e8 end", "Jz", () => {}),
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
function plan(
  spot: number,
  code: readonly RegionInsn[],
  wide = true,
  taken: (at: number) => boolean = () => false,
): RegionPlan | undefined {
  const { plans } = planRegions([spot], {
    read: (offset) => code.find((insn) => insn.offset === offset),
    warm: code.map(({ offset }) => offset).filter((offset) => offset >> 12 === 0),
    arrived: () => true,
    wide,
    taken,
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

Deno.test("none begins with one, but has one in a page with nothing else", () => {
  assert.equal(plan(0xffd, CODE), undefined);
  const jump = at(0x2000, 5, { kind: "jmp", to: 0xffd });
  assert.deepEqual(offsets(plan(0x2000, [jump, ...CODE.slice(2)])), [
    0xffd,
    0x1004,
    0x1008,
    0x2000,
  ]);
});

/** A function of `count` instructions at `offset`. */
const functionOf = (offset: number, count: number) => [
  ...Array.from({ length: count - 1 }, (_, i) => at(offset + 2 * i, 2)),
  at(offset + 2 * (count - 1), 1, { kind: "ret" }),
];

/** A loop at 0x100 around a call of what is at `to`. */
const loopAround = (to: number) => [
  at(0x100, 5, { kind: "call", to }),
  at(0x105, 2),
  at(0x107, 2, { kind: "jmp", to: 0x100 }),
];

Deno.test("a function that another region has is there too where it is short", () => {
  const taken = (at: number) => at === 0x5000;
  const short = [...loopAround(0x5000), ...functionOf(0x5000, 40)];
  assert.equal(offsets(plan(0x100, short, true, taken))?.length, 43);
  assert.equal(offsets(plan(0x100, short, false, taken))?.length, 3);
  const long = [...loopAround(0x5000), ...functionOf(0x5000, 41)];
  assert.equal(offsets(plan(0x100, long, true, taken))?.length, 3);
  assert.equal(offsets(plan(0x100, long))?.length, 44);
});

Deno.test("so is one that the other region goes on in the middle of, and one that calls", () => {
  const taken = (at: number) => at === 0x5000 || at === 0x5008;
  const inside = [...loopAround(0x5000), ...functionOf(0x5000, 20)];
  assert.equal(offsets(plan(0x100, inside, true, taken))?.length, 23);
  // What is called by it and long stays where it is.
  const calling = [
    ...loopAround(0x5000),
    at(0x5000, 5, { kind: "call", to: 0x6000 }),
    at(0x5005, 1, { kind: "ret" }),
    ...functionOf(0x6000, 41),
  ];
  const found = offsets(plan(0x100, calling, true, (at) => at === 0x5000 || at === 0x6000));
  assert.deepEqual(found, [0x100, 0x105, 0x107, 0x5000, 0x5005]);
});

Deno.test("pages of a region lie up to 1 GiB from each other, and records count from their middle", () => {
  const GIB = 1 << 30;
  for (const far of [GIB - 0x2000, -GIB + 0x2000]) {
    const found = plan(0x100, [...loopAround(far), ...functionOf(far, 3)]);
    assert.deepEqual(found?.pages, [0, far >> 12]);
    const origin = originOf(found);
    for (const page of found.pages) {
      for (const offset of [4096 * page, 4096 * page + 4095]) {
        assert.equal(pseudoOffset(pseudoRecord(offset - origin, false)) + origin, offset);
      }
    }
  }
  for (const far of [GIB, GIB - 0x1000, -GIB]) {
    assert.deepEqual(plan(0x100, [...loopAround(far), ...functionOf(far, 3)])?.pages, [0]);
  }
  // As much before it as behind it is too far.
  const both = [
    ...loopAround(GIB / 2),
    at(GIB / 2, 5, { kind: "call", to: -GIB / 2 }),
    at(GIB / 2 + 5, 1, { kind: "ret" }),
    ...functionOf(-GIB / 2, 3),
  ];
  assert.deepEqual(plan(0x100, both)?.pages, [0, GIB / 2 >> 12]);
  const near = plan(0x100, [...loopAround(0x5000), ...functionOf(0x5000, 3)]);
  assert.equal(near === undefined ? undefined : originOf(near), 0);
});
