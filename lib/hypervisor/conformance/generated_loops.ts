/**
 * Generated guests of loops within loops over memory, to be run alike in every way that the engine has:
 * multiplications and carries that live from turn to turn, more values than there are registers, and pages
 * that share an entry of the TLB, so that accesses leave translated code anywhere in them.
 *
 * @module
 */

import { openSoft, type Tier } from "../soft/mod.ts";
import { Draw } from "./draw.ts";
import { FREE, Port } from "./layout.ts";
import { Helper, TestMachine } from "./machine.ts";

/** Registers with values, but for RSP; the others point to memory or count. */
const VALUES = [0, 1, 2, 8, 9, 10, 11, 12, 13];
const POINTERS = [3, 5, 6, 7];
const [INNER, OUTER] = [14, 15];

/** Distance of pages that share an entry of the data TLB: a multiple of what any has had. */
const ALIAS_DISTANCE = 32 << 20;
/** Linear address of the first page of data. */
const DATA_LINEAR = 0x4000_0000;
/** Pages of data, each with one on both sides; another is the stack. */
const DATA_PAGES = 4;
/** Bytes of data that may be accessed on both sides of a pointer. */
const REACH = 120;

/** An instruction with REX.W, `reg` and a register or memory operand. */
function withModrm(
  draw: Draw,
  opcode: readonly number[],
  at: { reg: number; mem: boolean },
): number[] {
  const rm = draw.of(at.mem ? POINTERS : VALUES);
  const rex = 0x48 | (at.reg >> 3 << 2) | (rm >> 3);
  const modrm = (at.reg & 7) << 3 | (rm & 7);
  if (!at.mem) return [rex, ...opcode, 0xc0 | modrm];
  // Seldom across the end of a page or of a word.
  const disp = draw.below(8) === 0 ? draw.below(2 * REACH) - REACH : 8 * (draw.below(16) - 8);
  return [rex, ...opcode, 0x40 | modrm, disp & 0xff];
}

function instruction(draw: Draw): number[] {
  const reg = draw.of(VALUES);
  const mem = draw.below(3) > 0;
  switch (draw.below(14)) {
    case 0:
      return withModrm(draw, [0x8b], { reg, mem });
    case 1:
      return withModrm(draw, [0x89], { reg, mem: true });
    case 2:
      // ADD, OR, ADC, SBB, AND, SUB, XOR, CMP; to a register or to memory.
      return withModrm(draw, [8 * draw.below(8) + draw.of([1, 3])], { reg, mem });
    case 3:
      return withModrm(draw, [draw.of([0x11, 0x13, 0x19, 0x1b])], { reg, mem });
    case 4:
    case 5:
      // NOT, NEG, MUL, IMUL; mostly MUL.
      return withModrm(draw, [0xf7], { reg: draw.of([2, 3, 4, 4, 4, 5]), mem });
    case 6:
      return withModrm(draw, [0x0f, 0xaf], { reg, mem });
    case 7:
      return withModrm(draw, [0xff], { reg: draw.below(2), mem });
    case 8:
      return withModrm(draw, [0x8d], { reg, mem: true });
    case 9:
      return [
        ...withModrm(draw, [0xc1], { reg: draw.of([0, 1, 4, 5, 7]), mem: false }),
        draw.below(64),
      ];
    case 10:
      return withModrm(draw, [0x0f, 0x40 + draw.below(16)], { reg, mem });
    case 11: {
      const push = draw.of([0, 1, 2]);
      return [0x50 + push, ...withModrm(draw, [0x03], { reg, mem }), 0x58 + draw.of([0, 1, 2])];
    }
    case 12:
      return sparse(draw);
    default: {
      const over = [...instruction(draw), ...instruction(draw)];
      return [0x70 + draw.below(16), over.length, ...over];
    }
  }
}

/** An instruction of a rarer kind, which accesses memory once or more. */
function sparse(draw: Draw): number[] {
  const reg = draw.of(VALUES);
  const memory = (opcode: readonly number[], reg: number) =>
    withModrm(draw, opcode, { reg, mem: true });
  const xmm = () => draw.below(8);
  switch (draw.below(10)) {
    case 0:
      // A call to a RET, and a jump over that.
      return [0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3];
    case 1:
      return [0xf0, ...memory([0x0f, 0xc1], reg)];
    case 2:
      return [0xf0, ...memory([0x0f, 0xb1], reg)];
    case 3:
      return memory([0x87], reg);
    case 4:
      return [...memory([0x0f, draw.of([0xa4, 0xac])], reg), draw.below(64)];
    case 5:
      // PUSH and POP of memory.
      return [...memory([0xff], 6), ...memory([0x8f], 0)];
    case 6:
      return [0xf3, ...memory([0x0f, 0x6f], xmm())];
    case 7:
      return [0xf3, ...memory([0x0f, 0x7f], xmm())];
    case 8:
      // MASKMOVDQU, also with FS and GS, whose bases are 0, and with a narrow address.
      return [
        ...draw.of([[], [0x64], [0x65], [0x67], [0x67, 0x64]]),
        ...[0x66, 0x0f, 0xf7, 0xc0 | xmm() << 3 | xmm()],
      ];
    default:
      // PADDQ of registers, then MOVHPS or MOVLPS.
      return [
        ...[0x66, 0x0f, 0xd4, 0xc0 | xmm() << 3 | xmm()],
        ...memory([0x0f, draw.of([0x12, 0x13, 0x16, 0x17])], xmm()),
      ];
  }
}

/** REP MOVSQ or STOSQ of a few words. */
function copy(draw: Draw): number[] {
  return [0xb9, ...word(draw.below(5)), 0xf3, 0x48, draw.of([0xa5, 0xab])];
}

function word(value: number): number[] {
  return [value & 0xff, value >> 8 & 0xff, value >> 16 & 0xff, value >>> 24];
}

/** `body` as often as register `counter` says, which counts without changing CF. */
function loop(counter: number, turns: number, body: readonly number[]): number[] {
  const low = counter & 7;
  const count = [0x49, 0xff, 0xc8 | low];
  const back = -(body.length + count.length + 6);
  return [0x41, 0xb8 | low, ...word(turns), ...body, ...count, 0x0f, 0x85, ...word(back)];
}

/** Instructions that lead a pointer to where it begins: in one of the pages, near its end at times. */
function pointer(draw: Draw, reg: number): number[] {
  const inPage = draw.below(4) === 0 ? 4096 - 8 * draw.below(24) : 8 * draw.below(500);
  return [0xb8 | reg, ...word(DATA_LINEAR + draw.below(DATA_PAGES) * ALIAS_DISTANCE + inPage)];
}

/** Leads RSP to a page of its own that shares its entry with those of data, or to the beginning of it. */
function stack(draw: Draw): number[] {
  const top = DATA_LINEAR + DATA_PAGES * ALIAS_DISTANCE;
  return [0xb8 | 4, ...word(top + draw.of([0, 8, 0x800]))];
}

/** The code of guest number `seed`. */
function program(seed: number): number[] {
  const draw = new Draw(seed);
  const code: number[] = [];
  const value = (reg: number) => [
    ...[0x48 | reg >> 3, 0xb8 | (reg & 7)],
    ...Array.from({ length: 8 }, () => draw.below(256)),
  ];
  code.push(...VALUES.flatMap(value));
  const some = (most: number) =>
    Array.from({ length: 1 + draw.below(most) }, () => instruction(draw)).flat();
  // Some begin each turn anew: what is multiplied for long ends as zero.
  const turn: number[] = VALUES.filter(() => draw.below(3) === 0).flatMap(value);
  for (let loops = 1 + draw.below(3); loops > 0; loops--) {
    // LEA, so that flags live on.
    const steps = POINTERS.filter(() => draw.below(2) === 0)
      .flatMap((reg) => [0x48, 0x8d, 0x40 | reg << 3 | reg, draw.of([8, 8, 32, 0xf8])]);
    const copies = draw.below(4) === 0 ? copy(draw) : [];
    turn.push(...stack(draw), ...POINTERS.flatMap((reg) => pointer(draw, reg)), ...some(6));
    turn.push(...loop(INNER, 1 + draw.below(12), [...some(16), ...copies, ...steps]));
  }
  return [...code, ...loop(OUTER, 24, turn)];
}

/** A line for each seed below `count`: a sum of the registers and the memory that its guest ends with. */
export async function runGeneratedLoops(tier: Tier, count: number): Promise<string[]> {
  const helper = await Helper.start();
  try {
    return Array.from({ length: count }, (_, seed) => runOne(helper, tier, seed));
  } finally {
    helper.stop();
  }
}

function runOne(helper: Helper, tier: Tier, seed: number): string {
  using machine = new TestMachine({ hypervisor: openSoft({ tier }), helper, vcpuCount: 1 });
  machine.load(64, (a) => {
    for (const byte of program(seed)) a.db(byte);
    a.out(Port.Done, "al");
  });
  const tables = machine.startLong();
  for (let i = 0; i <= DATA_PAGES; i++) {
    const linear = DATA_LINEAR + i * ALIAS_DISTANCE;
    for (const near of [-1, 0, 1]) {
      tables.map(linear + near * 4096, FREE + (3 * i + near + 1) * 4096);
    }
  }
  const draw = new Draw(~seed);
  const words = 3 * (DATA_PAGES + 1) * 512;
  for (let i = 0; i < words; i++) {
    machine.memory.writeU64(
      FREE + 8 * i,
      BigInt(draw.below(2 ** 31)) * BigInt(draw.below(2 ** 31)),
    );
  }
  machine.run();
  let sum = 0n;
  const take = (value: bigint) => sum = BigInt.asUintN(64, (sum ^ value) * 0x100000001b3n);
  const regs = machine.vcpu.getRegs();
  for (const value of Object.values(regs)) take(BigInt(value));
  for (let i = 0; i < words; i++) take(machine.memory.readU64(FREE + 8 * i));
  return `${seed}: ${sum.toString(16)}, rax ${regs.rax.toString(16)}, rdx ${regs.rdx.toString(16)}`;
}
