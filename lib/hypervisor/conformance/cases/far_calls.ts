/**
 * Loops that call a function in another page, near or almost 1 GiB away: what it is and where it lies counts at
 * each turn; its faults come with the registers of that turn.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Assembler, at, type Reg } from "../asm/mod.ts";
import { assertFault, installFaultHandler64, resumeAt, Vector } from "../faults.ts";
import type { GuestTest } from "../guest_case.ts";
import { FREE, Port } from "../layout.ts";
import type { TestMachine } from "../machine.ts";
import { type PageTables, result } from "../tables.ts";
import { sum, valueOf } from "./dwords.ts";

/** Where the loop is. */
const LOW = 0x6000_0000_0000n;
const LOOP = LOW + 0x40n;
const LOOP_PAGE = FREE;
/** Where the function is, in bytes from there; a Linux kernel's modules lie about as far behind it at most. */
const DISTANCES = { "next to it": 0x1000, "before it": -0x3000, "almost 1 GiB on": 0x3f80_3000 };
const FUNCTION = 0x80;
const FUNCTION_PAGE = FREE + 0x5000;
const OTHER_PAGE = FREE + 0x6000;
/** A dword at each 256 bytes is read, in two pages. */
const DATA = LOW + 0x10_0000n;
const DATA_PAGE = FREE + 0x8000;
const TURNS = 31;

/** The loop: `call` of the function, `dec ecx`, `jne` to the call, `ret`. */
function loopTo(distance: number): Uint8Array {
  const code = new Uint8Array(10);
  code.set([0xe8, 0, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf7, 0xc3]);
  new DataView(code.buffer).setInt32(1, distance + FUNCTION - 0x45, true);
  return code;
}

/** The function: `add rbx, 0x100`, `add eax, [rbx + more]`, `ret`. */
const functionOf = (more: number) =>
  Uint8Array.of(0x48, 0x81, 0xc3, 0, 1, 0, 0, 0x03, 0x43, more, 0xc3);
/** Offset of the addition's opcode, and of the byte that says how far on it reads. */
const ADDITION = FUNCTION + 7;
const MORE = FUNCTION + 9;

function prepare(m: TestMachine, distance: number): PageTables {
  const tables = m.startLong();
  tables.map(LOW, LOOP_PAGE);
  tables.map(LOW + BigInt(distance), FUNCTION_PAGE);
  tables.map(DATA, DATA_PAGE);
  tables.map(DATA + 0x1000n, DATA_PAGE + 0x1000);
  m.memory.writeFrom(LOOP_PAGE + 0x40, loopTo(distance));
  m.memory.writeFrom(FUNCTION_PAGE + FUNCTION, functionOf(0));
  m.memory.writeFrom(OTHER_PAGE + FUNCTION, functionOf(1));
  for (let i = 0; i <= TURNS; i++) m.memory.writeU64(DATA_PAGE + 0x100 * i, valueOf(i));
  return tables;
}

const REGISTERS: readonly Reg[] = ["rax", "rbx", "rcx", "rsi", "rdi", "rbp", "r8", "r15"];
const ALL = sum(1, TURNS);
const SHIFTED = sum(1, TURNS, 1);

/** Goes through the data once, and reports the sum; RDX is {@link LOOP}. */
function round(a: Assembler): void {
  a.mov("rbx", DATA).mov("ecx", TURNS).xor("eax", "eax").call("rdx").out(Port.Report, "eax");
}

function casesAt(where: string, distance: number): readonly GuestTest[] {
  const page = LOW + BigInt(distance);
  return [
    {
      name: `calls: a loop around a function ${where}, changed now and then`,
      run(m) {
        prepare(m, distance);
        m.load(64, (a) => {
          a.mov("rdx", LOOP).mov("rsi", page + BigInt(ADDITION));
          round(a);
          round(a);
          a.mov(at("rsi", { disp: MORE - ADDITION, size: 1 }), 1);
          round(a);
          // It becomes a subtraction.
          a.mov(at("rsi", { size: 1 }), 0x2b);
          round(a);
          a.mov(at("rsi", { size: 1 }), 0x03).mov(at("rsi", { disp: MORE - ADDITION, size: 1 }), 0);
          round(a);
          a.out(Port.Done, "al");
        });
        m.run();
        const less = Number(BigInt.asUintN(32, -BigInt(SHIFTED)));
        assert.deepEqual(m.io.reports, [ALL, ALL, SHIFTED, less, ALL]);
      },
    },
    {
      name: `calls: a loop around a function ${where}, which is another now and then`,
      run(m) {
        const tables = prepare(m, distance);
        const entry = tables.entryAddress(page);
        m.load(64, (a) => {
          a.mov("rdx", LOOP).mov("rsi", page).mov("rdi", entry).mov("ebp", 6);
          a.label("round").mov("rbx", DATA).mov("ecx", TURNS).xor("eax", "eax");
          a.call("rdx").out(Port.Report, "eax");
          a.xor(at("rdi", { size: 4 }), FUNCTION_PAGE ^ OTHER_PAGE).invlpg(at("rsi"));
          a.dec("ebp").jcc("ne", "round").out(Port.Done, "al");
        });
        m.run();
        assert.deepEqual(m.io.reports, [ALL, SHIFTED, ALL, SHIFTED, ALL, SHIFTED]);
      },
    },
    {
      name: `calls: a fault of data in a function ${where}, in the middle of a loop`,
      run(m) {
        const tables = prepare(m, distance);
        installFaultHandler64(m);
        const entry = tables.entryAddress(DATA + 0x1000n);
        const rip = page + BigInt(ADDITION);
        const code = m.load(64, (a) => {
          a.mov("rdx", LOOP).mov("rsi", entry).mov("rdi", 7).mov("rbp", 8);
          a.mov("r8", 9).mov("r15", 10).mov("r9", at("rsi")).mov("r10", DATA + 0x1000n);
          // Once with all of the data there.
          round(a);
          a.mov(at("rsi", { size: 8 }), 0).invlpg(at("r10"));
          round(a);
          a.out(Port.Done, "al").label("resume");
          REGISTERS.forEach((name, i) => a.mov(at(result(i)), name));
          a.mov(at("rsi"), "r9").mov("r11", rip).jmp("r11");
        });
        resumeAt(m, code.addressOf("resume"));
        m.run();
        assertFault(m, { vector: Vector.PF, errorCode: 0, cr2: DATA + 0x1000n, rip });
        const found = REGISTERS.map((_, i) => m.result(i));
        const expected = [sum(1, 15), DATA + 0x1000n, TURNS - 15, entry, 7, 8, 9, 10].map(BigInt);
        assert.deepEqual(found, expected);
        assert.deepEqual(m.io.reports, [ALL, ALL]);
      },
    },
    {
      name: `calls: a SIMD exception in a function ${where}, in the middle of a loop`,
      notEmulated: "it knows no SSE",
      run(m) {
        prepare(m, distance);
        installFaultHandler64(m);
        const rip = page + BigInt(FUNCTION);
        // divss xmm0, xmm1; ret
        m.memory.writeFrom(FUNCTION_PAGE + FUNCTION, Uint8Array.of(0xf3, 0x0f, 0x5e, 0xc1, 0xc3));
        // MXCSR without the mask of invalid operations.
        m.memory.writeU64(DATA_PAGE, 0x1f00n);
        m.load(64, (a) => {
          // pxor xmm0, xmm0; pxor xmm1, xmm1
          a.mov("rdx", LOOP).mov("rsi", DATA).db(0x66, 0x0f, 0xef, 0xc0, 0x66, 0x0f, 0xef, 0xc9);
          for (let i = 0; i < 3; i++) a.mov("ecx", TURNS).call("rdx");
          // pxor xmm0, xmm0; ldmxcsr [rsi]
          a.db(0x66, 0x0f, 0xef, 0xc0, 0x0f, 0xae, 0x16).mov("ecx", TURNS).call("rdx");
          a.out(Port.Done, "al");
        });
        m.run();
        assertFault(m, { vector: Vector.XM, rip });
      },
    },
    {
      name: `calls: a loop around a function ${where}, which is not there any more`,
      run(m) {
        const tables = prepare(m, distance);
        installFaultHandler64(m);
        const entry = tables.entryAddress(page);
        const rip = page + BigInt(FUNCTION);
        const code = m.load(64, (a) => {
          a.mov("rdx", LOOP).mov("rsi", entry).mov("r9", at("rsi")).mov("r10", page);
          round(a);
          a.mov(at("rsi", { size: 8 }), 0).invlpg(at("r10"));
          round(a);
          a.out(Port.Done, "al").label("resume");
          a.mov(at(result(0)), "rax").mov(at(result(1)), "rbx").mov(at(result(2)), "rcx");
          a.mov(at("rsi"), "r9").mov("r11", rip).jmp("r11");
        });
        resumeAt(m, code.addressOf("resume"));
        m.run();
        assertFault(m, { vector: Vector.PF, errorCode: 16, cr2: rip, rip });
        assert.deepEqual([0, 1, 2].map((i) => m.result(i)), [0n, DATA, BigInt(TURNS)]);
        assert.deepEqual(m.io.reports, [ALL, ALL]);
      },
    },
  ];
}

/** Cases of functions in other pages. */
export const FAR_CALL_TESTS: readonly GuestTest[] = Object.entries(DISTANCES)
  .flatMap(([where, distance]) => casesAt(where, distance));
