/**
 * Code that one vCPU writes over all the time while others run it: what is made of it in one place may never run
 * in another's.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Assembler, at } from "../asm/mod.ts";
import { Draw } from "../draw.ts";
import type { GuestTest } from "../guest_case.ts";
import type { TestMachine } from "../machine.ts";
import { result } from "../tables.ts";
import { meet, runOnAll } from "./smp_start.ts";

const MET = 0x10_0000;
/** The round that is over, and how many looked at what there is then: counts of all rounds. */
const ROUND = MET + 0x100;
const LOOKED = MET + 0x140;
/** How many calls each made, on lines of their own by APIC id. */
const CALLS = MET + 0x200;
/** Entries of an address and two words each: calls in the order in which they are made, over and over. */
const ORDER = 0x20_0000;
/** The same of all calls, once, with the addresses of their values. */
const ALL = 0x21_0000;
/** Addresses of values, what is written there, and after how many calls. */
const WRITES = 0x22_0000;
const ENTRY = 16;

const PAGE = 0x1000;
const CODE = 0x30_0000;
/** Pages with outer functions; one more has only inner ones. */
const PAGES = 6;
/** Where each page of code comes twice, so that what is over two pages may be over the same one. */
const TWICE = 0x7000_0000_0000n;
/** Where functions are in each page. The n-th outer one calls that inner one of the next page whose turn it is. */
const OUTER = [0x080, 0x0c0, 0x400, 0xa40];
const INNER = [0x0a0, 0x800];
/** Calls in {@link ORDER}. */
const ORDERED = 1021;
/** Pages come one after another for a while, so that they are translated. */
const STAY = 24;
/** At most so many calls are made between two writes, often none. */
const MOST_CALLS = 96;
/** How often at most a value changes meanwhile: 2 to the power of this. */
const CHANGES_SHIFT = 9;
/** Writes behind which all look whether what they call is what is there. */
const IN_ROUND = 40;

/** A function, by where it is. */
interface Place {
  readonly page: number;
  readonly offset: number;
}

/** What a function gives at first: which one it is, and room for how often it was written to. */
function valueOf(page: number, offset: number): number {
  return (page << 12 | offset) << WHICH;
}

/** From which bit on a value says which function it is. */
const WHICH = 12;

/** `mov ecx, 3; again: call inner; dec ecx; jne again; nop; mov eax, imm32; ret` */
function outer(page: number, offset: number, inner: number): Uint8Array {
  const code = new Uint8Array(21);
  code.set([0xb9, 3, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf7, 0x90, 0xb8]);
  code[20] = 0xc3;
  const view = new DataView(code.buffer);
  view.setInt32(6, PAGE + inner - (offset + 10), true);
  view.setUint32(OUTER_VALUE, valueOf(page, offset), true);
  return code;
}

/** `xchg ax, ax; mov r11d, imm32; ret` */
function inner(page: number, offset: number): Uint8Array {
  const code = Uint8Array.of(0x66, 0x90, 0x41, 0xbb, 0, 0, 0, 0, 0xc3);
  new DataView(code.buffer).setUint32(INNER_VALUE, valueOf(page, offset), true);
  return code;
}

/** Where their constants are, at multiples of 4. */
const OUTER_VALUE = 16;
const INNER_VALUE = 4;

/** A function to be called, and what it and the one that it calls give. */
interface Call {
  readonly address: bigint;
  readonly outer: Place;
  readonly inner: Place;
}

/** Every outer function, where it is and where each page comes twice. */
function allCalls(): Call[][] {
  const calls: Call[][] = [];
  const callsOf = (base: bigint, page: number, next: number) =>
    OUTER.map((offset, n) => ({
      address: base + BigInt(offset),
      outer: { page, offset },
      inner: { page: next, offset: INNER[n % INNER.length] as number },
    }));
  for (let n = 0; n < PAGES; n++) calls.push(callsOf(BigInt(CODE + PAGE * n), n, n + 1));
  for (let n = 0; n < 2 * PAGES; n++) {
    calls.push(callsOf(TWICE + BigInt(PAGE * n), n >> 1, (n + 1) >> 1));
  }
  return calls;
}

/** Puts the functions, their calls and `writes` of their values into memory. */
function loadAll(m: TestMachine, writes: number): void {
  const draw = new Draw(writes);
  const places: { address: number; value: number }[] = [];
  const put = (page: number, offset: number, code: Uint8Array, value: number) => {
    m.memory.writeFrom(CODE + PAGE * page + offset, code);
    places.push({ address: CODE + PAGE * page + offset + value, value: valueOf(page, offset) });
  };
  for (let page = 0; page <= PAGES; page++) {
    for (const offset of INNER) put(page, offset, inner(page, offset), INNER_VALUE);
    for (const [n, offset] of page < PAGES ? OUTER.entries() : []) {
      const code = outer(page, offset, INNER[n % INNER.length] as number);
      put(page, offset, code, OUTER_VALUE);
    }
  }
  const entry = (to: number, address: bigint, words: readonly [number, number]) => {
    m.memory.writeU64(to, address);
    words.forEach((word, n) => m.memory.writeU32(to + 8 + 4 * n, word));
  };
  const pages = allCalls();
  let page = pages[0] as Call[];
  for (let n = 0; n < ORDERED; n++) {
    if (n % STAY === 0) page = draw.of(pages);
    const { address, outer, inner } = draw.of(page);
    const which = [outer, inner].map((f) => valueOf(f.page, f.offset) >>> WHICH);
    entry(ORDER + ENTRY * n, address, which as [number, number]);
  }
  const times = new Map<number, number>();
  for (let n = 0; n < writes; n++) {
    const place = draw.of(places);
    const value = (times.get(place.value) ?? place.value) + 2;
    times.set(place.value, value);
    const wait = draw.below(2) === 0 ? 0 : draw.below(MOST_CALLS);
    entry(WRITES + ENTRY * n, BigInt(place.address), [value, wait]);
  }
  const valueAt = ({ page, offset }: Place, value: number) => CODE + PAGE * page + offset + value;
  for (const [n, { address, outer, inner }] of pages.flat().entries()) {
    entry(ALL + ENTRY * n, address, [valueAt(outer, OUTER_VALUE), valueAt(inner, INNER_VALUE)]);
  }
}

/** Counts in ebp, and goes on at `name`, where a function was not the right one. */
function countWrong(a: Assembler, name: string): void {
  a.jcc("ne", `${name} wrong`).cmp("r11d", "ecx").jcc("e", `${name} right`);
  a.label(`${name} wrong`).add("ebp", 1).label(`${name} right`).add("rbx", ENTRY);
}

/** Number 0 writes, when number 1 has made the calls that are to be made before. */
function writeAll(a: Assembler, of: { vcpus: number; rounds: number }): void {
  const { vcpus, rounds } = of;
  a.mov("ebx", WRITES).xor("r14d", "r14d").xor("r13d", "r13d").label("round");
  a.mov("r12d", IN_ROUND).label("write").mov("r9d", at(CALLS + 64)).add(
    "r9d",
    at("rbx", { disp: 12 }),
  );
  // Half of them change over and over meanwhile, in all but what says which function it is.
  a.mov("rdi", at("rbx")).mov("r8d", "r12d").and("r8d", 1).shl("r8d", CHANGES_SHIFT);
  a.label("wait").op("pause").test("r8d", "r8d").jcc("e", "waits").dec("r8d");
  a.xor(at("rdi", { size: 4 }), 1).label("waits").cmp("r9d", at(CALLS + 64)).jcc("a", "wait");
  a.mov("eax", at("rbx", { disp: 8 })).mov(at("rdi", { size: 4 }), "eax");
  a.add("rbx", ENTRY).dec("r12d").jcc("ne", "write");
  a.add("r14d", 1).add("r13d", vcpus - 1).mov(at(ROUND, { size: 4 }), "r14d");
  a.label("looks").op("pause").cmp("r13d", at(LOOKED)).jcc("ne", "looks");
  a.cmp("r14d", rounds).jcc("ne", "round").jmp("end");
}

/** The others call, each beginning in another place. */
function callAll(a: Assembler, rounds: number): void {
  a.mov("edi", "esi").shl("edi", 6).add("edi", CALLS).xor("ebp", "ebp").xor("r14d", "r14d");
  a.mov("ebx", "esi").shl("ebx", 12).add("ebx", ORDER - PAGE).label("next");
  a.call(at("rbx", { size: 8 })).shr("eax", WHICH).shr("r11d", WHICH);
  a.mov("ecx", at("rbx", { disp: 12 })).cmp("eax", at("rbx", { disp: 8 }));
  countWrong(a, "call");
  a.add(at("rdi", { size: 4 }), 1).cmp("rbx", ORDER + ENTRY * ORDERED).jcc("b", "goes on");
  a.mov("ebx", ORDER).label("goes on").cmp("r14d", at(ROUND)).jcc("e", "next");
  // From here on nothing may be left of what was there before.
  a.mov("r15", "rbx").xor("eax", "eax").op("cpuid").mov("ebx", ALL).label("look");
  a.call(at("rbx", { size: 8 })).mov("edx", at("rbx", { disp: 8 })).mov(
    "ecx",
    at("rbx", { disp: 12 }),
  );
  a.mov("ecx", at("rcx")).cmp("eax", at("rdx"));
  countWrong(a, "look");
  a.cmp("rbx", ALL + ENTRY * allCalls().flat().length).jcc("b", "look");
  a.mov("rbx", "r15").add("r14d", 1).lock().add(at(LOOKED, { size: 4 }), 1);
  a.cmp("r14d", rounds).jcc("ne", "next");
  a.mov(at(result(0), { index: "rsi", scale: 8, size: 8 }), "rbp");
}

function rewriteTest(vcpus: number, rounds: number): GuestTest {
  return {
    name: `${vcpus} vCPUs: functions that one writes over are those that the others call`,
    vcpus,
    async run(m) {
      loadAll(m, rounds * IN_ROUND);
      await runOnAll(m, (a) => {
        meet(a, "begin", { counter: MET, vcpus });
        a.test("esi", "esi").jcc("ne", "call");
        writeAll(a, { vcpus, rounds });
        a.label("call");
        callAll(a, rounds);
        a.label("end");
      }, (tables) => {
        for (let n = 0; n <= 2 * PAGES; n++) {
          tables.map(TWICE + BigInt(PAGE * n), CODE + PAGE * (n >> 1));
        }
      });
      for (let id = 1; id < vcpus; id++) {
        assert.ok(m.memory.readU32(CALLS + 64 * id) > 0, `number ${id} made no call`);
        assert.equal(m.result(id), 0n, `wrong functions that number ${id} called`);
      }
    },
  };
}

/** The guests. */
export const SMP_REWRITE_TESTS: readonly GuestTest[] = [rewriteTest(2, 30), rewriteTest(3, 30)];
