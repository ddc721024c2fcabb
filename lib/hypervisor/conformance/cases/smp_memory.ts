/**
 * What several vCPUs see of each other's memory accesses: locked instructions of every size, wherever
 * they lie, and the order that x86 promises (Intel SDM vol. 3, 9.2).
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Assembler, at, type Mem, type Reg } from "../asm/mod.ts";
import type { GuestTest } from "../guest_case.ts";
import type { TestMachine } from "../machine.ts";
import { meet, runOnAll } from "./smp_start.ts";

const COUNTERS = 0x10_0000;
/** Of each place; odd, so that exclusive ors by all leave every bit set. */
const TURNS = { within: 501, across: 31 } as const;
const PLACES = 0x20_0000;
const SIZES = [1, 2, 4, 8] as const;
type Size = typeof SIZES[number];

const A: Readonly<Record<Size, Reg>> = { 1: "al", 2: "ax", 4: "eax", 8: "rax" };
const C: Readonly<Record<Size, Reg>> = { 1: "cl", 2: "cx", 4: "ecx", 8: "rcx" };

/** Where an operand of `size` bytes lies in its 64 bytes, or across the end of a page. */
function offsetsOf(size: Size): readonly number[] {
  if (size === 1) return [0, 3];
  const inWord = size === 8 ? [] : [8 - size - 1];
  return [0, ...inWord, 8 - size / 2, 4096 - size / 2];
}

interface Place {
  readonly address: number;
  readonly size: Size;
  readonly operation: string;
  readonly turns: number;
}

type Emit = (a: Assembler, to: Mem, size: Size) => void;

/** Operations, and what `turns` of them by `vcpus` make of 0. */
const OPERATIONS: Readonly<
  Record<string, { emit: Emit; all(vcpus: number, turns: number): bigint }>
> = {
  inc: { emit: (a, to) => a.lock().inc(to), all: (n, t) => BigInt(n * t) },
  xadd: {
    emit: (a, to, size) => a.mov("eax", 3).lock().xadd(to, A[size]),
    all: (n, t) => BigInt(3 * n * t),
  },
  adc: { emit: (a, to) => a.op("stc").lock().alu("adc", to, 1), all: (n, t) => BigInt(2 * n * t) },
  sub: { emit: (a, to) => a.lock().sub(to, 5), all: (n, t) => BigInt(-5 * n * t) },
  xor: {
    // Bits 0 to 3 by number.
    emit: (a, to, size) =>
      a.mov("ecx", "esi").mov("eax", 1).shl("eax", "cl").lock().xor(to, A[size]),
    all: (n) => (1n << BigInt(n)) - 1n,
  },
  cmpxchg: {
    emit: (a, to, size) => {
      const retry = `retry${a.here}`;
      a.label(retry).mov(A[size], to).mov("rcx", "rax").add("ecx", 7);
      a.lock().cmpxchg(to, C[size]).jcc("ne", retry);
    },
    all: (n, t) => BigInt(7 * n * t),
  },
};

/** Every operation of every size at every offset, each in memory of its own. */
function places(): Place[] {
  const list: Place[] = [];
  let page = PLACES;
  for (const operation of Object.keys(OPERATIONS)) {
    for (const size of SIZES) {
      for (const offset of offsetsOf(size)) {
        const turns = (offset & 7) + size > 8 ? TURNS.across : TURNS.within;
        list.push({ address: page + offset, size, operation, turns });
        page += 0x2000;
      }
    }
  }
  return list;
}

function read(m: TestMachine, { address, size }: Place): bigint {
  let value = 0n;
  for (let i = 0; i < size; i++) value |= BigInt(m.memory.readU8(address + i)) << BigInt(8 * i);
  return value;
}

function lockTest(vcpus: number): GuestTest {
  return {
    name: `${vcpus} vCPUs: locked instructions of each size, aligned, misaligned and across pages`,
    vcpus,
    notEmulated: "of locked instructions it makes few atomic",
    async run(m) {
      const all = places();
      await runOnAll(m, (a) => {
        for (const [i, { address, size, operation, turns }] of all.entries()) {
          const label = `turn${address}`;
          meet(a, `meet${address}`, { counter: COUNTERS + 64 * i, vcpus });
          a.mov("edi", turns).mov("ebx", address).label(label);
          OPERATIONS[operation]?.emit(a, at("rbx", { size }), size);
          a.dec("edi").jcc("ne", label);
        }
      });
      const wrong = all.filter((place) => {
        const expected = OPERATIONS[place.operation]?.all(vcpus, place.turns) ?? 0n;
        return read(m, place) !== BigInt.asUintN(8 * place.size, expected);
      });
      assert.deepEqual(
        wrong.map((p) => `${p.operation}${p.size} at ${p.address.toString(16)}`),
        [],
      );
    },
  };
}

/** A 128-bit number that all change with locked instructions that overlap in part. */
const OVERLAP = PLACES;

const overlapTest: GuestTest = {
  name: "4 vCPUs: locked instructions that overlap are atomic to each other, 16 bytes too",
  vcpus: 4,
  notEmulated: "it has no CMPXCHG16B, and of locked instructions it makes few atomic",
  async run(m) {
    const turns = 1000;
    await runOnAll(m, (a) => {
      meet(a, "begin", { counter: COUNTERS, vcpus: 4 });
      a.mov("edi", turns).mov("ebp", OVERLAP).label("turn");
      // The low half, the middle of both, the upper half, and all of it.
      a.lock().add(at("rbp", { size: 8 }), 1);
      a.lock().add(at("rbp", { disp: 6, size: 4 }), 0x1_0000);
      a.lock().add(at("rbp", { disp: 12, size: 4 }), 1);
      a.label("retry").mov("rax", at("rbp")).mov("rdx", at("rbp", { disp: 8 }));
      a.lea("rbx", at("rax", { disp: 1 })).lea("rcx", at("rdx", { disp: 1 }));
      a.lock().cmpxchg8b(at("rbp"), 8).jcc("ne", "retry");
      a.label("retry8").mov("eax", at("rbp", { disp: 32 })).mov("edx", at("rbp", { disp: 36 }));
      a.lea("ebx", at("rax", { disp: 1 })).lea("ecx", at("rdx", { disp: 2 }));
      a.lock().cmpxchg8b(at("rbp", { disp: 32 })).jcc("ne", "retry8");
      a.dec("edi").jcc("ne", "turn");
    });
    const total = BigInt(4 * turns);
    const low = m.memory.readU64(OVERLAP);
    const high = m.memory.readU64(OVERLAP + 8);
    assert.deepEqual([low, high], [2n * total, 2n * total + (total << 32n)]);
    assert.equal(m.memory.readU64(OVERLAP + 32), total + (2n * total << 32n));
  },
};

/** Rounds of a litmus test, each on lines of its own. */
const ROUNDS = 2000;
/** How often a vCPU looks whether the other is there as well, in a round. */
const PATIENCE = 200;
const X = 0x20_0000;
const Y = X + 64 * ROUNDS;
const SEEN = [Y + 64 * ROUNDS, Y + 64 * ROUNDS + 16 * ROUNDS] as const;

/** A litmus test: what two vCPUs do in each round, and whether what they saw may be. */
interface Litmus {
  readonly name: string;
  /** Of number 0 and 1: with X at rbx, Y at rbp; eax and ecx are kept as seen. */
  readonly first: (a: Assembler) => void;
  readonly second: (a: Assembler) => void;
  readonly forbidden: (first: readonly number[], second: readonly number[]) => boolean;
}

const x = at("rbx", { size: 4 });
const y = at("rbp", { size: 4 });
const LITMUS: readonly Litmus[] = [
  {
    name: "stores and loads of two places with MFENCE between",
    first: (a) => a.mov(x, 1).op("mfence").mov("eax", y),
    second: (a) => a.mov(y, 1).op("mfence").mov("eax", x),
    forbidden: ([a], [b]) => a === 0 && b === 0,
  },
  {
    name: "stores and loads of two places with a locked instruction between",
    first: (a) => a.mov(x, 1).lock().add(at("rsp", { disp: -64, size: 4 }), 0).mov("eax", y),
    second: (a) => a.mov("edx", 1).xchg(y, "edx").mov("eax", x),
    forbidden: ([a], [b]) => a === 0 && b === 0,
  },
  {
    name: "message passing",
    first: (a) => a.mov(x, 1).mov(y, 1),
    second: (a) => a.mov("eax", y).mov("ecx", x),
    forbidden: (_, [flag, data]) => flag === 1 && data === 0,
  },
  {
    name: "loads before stores",
    first: (a) => a.mov("eax", x).mov(y, 1),
    second: (a) => a.mov("eax", y).mov(x, 1),
    forbidden: ([a], [b]) => a === 1 && b === 1,
  },
  {
    name: "two loads of one place",
    first: (a) => a.mov(x, 1),
    second: (a) => a.mov("eax", x).mov("ecx", x),
    forbidden: (_, [before, after]) => before === 1 && after === 0,
  },
];

function litmusTest(litmus: Litmus): GuestTest {
  return {
    name: `2 vCPUs: memory order: ${litmus.name}`,
    vcpus: 2,
    async run(m) {
      for (const id of [0, 1]) m.memory.writeU32(COUNTERS + 64 * id, ROUNDS + 1);
      await runOnAll(m, (a) => {
        a.mov("ebx", X).mov("ebp", Y).mov("edi", ROUNDS).xor("r8d", "r8d");
        a.test("esi", "esi").jcc("ne", "second");
        for (const id of [0, 1]) {
          const round = `round${id}`;
          if (id === 1) a.label("second");
          a.mov("r9d", SEEN[id] as number).label(round).xor("eax", "eax").xor("ecx", "ecx");
          // Each waits for the other by plain stores and loads, so that they are here at the same time:
          // a while in each round, for as long as it takes every now and then.
          a.mov(at(COUNTERS + 64 * id, { size: 4 }), "edi").mov("edx", PATIENCE);
          a.label(`${round}wait`).cmp("edi", at(COUNTERS + 64 * (1 - id)));
          a.jcc("ae", `${round}go`).test("edi", 15).jcc("e", `${round}wait`);
          a.dec("edx").jcc("ne", `${round}wait`).label(`${round}go`);
          (id === 0 ? litmus.first : litmus.second)(a);
          a.mov(at("r9", { size: 4 }), "eax").mov(at("r9", { disp: 4, size: 4 }), "ecx");
          a.add("r9", 8).add("rbx", 64).add("rbp", 64).dec("edi").jcc("ne", round);
          if (id === 0) a.jmp("end");
        }
        a.label("end");
      });
      for (let round = 0; round < ROUNDS; round++) {
        const seen = SEEN.map((at) => [0, 4].map((i) => m.memory.readU32(at + 8 * round + i)));
        const [first, second] = seen as [number[], number[]];
        assert.ok(!litmus.forbidden(first, second), `round ${round}: ${first} and ${second}`);
      }
    },
  };
}

/** The guests. */
export const SMP_MEMORY_TESTS: readonly GuestTest[] = [
  lockTest(4),
  overlapTest,
  ...LITMUS.map(litmusTest),
];
