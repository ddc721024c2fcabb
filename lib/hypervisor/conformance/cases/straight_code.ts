/**
 * Straight code in a loop, of which a translator may know things from one instruction to the next: what is in
 * registers that it has read or written, and that something near by was in a page that it has looked up.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Assembler, at, type Reg } from "../asm/mod.ts";
import { assertFault, installFaultHandler64, PageFault, resumeAt, Vector } from "../faults.ts";
import type { GuestTest } from "../guest_case.ts";
import { FREE, Port } from "../layout.ts";
import type { TestMachine } from "../machine.ts";
import { type PageTables, Pte, result } from "../tables.ts";

const TURNS = 40;
/** Two pages that lie apart in memory. */
const DATA = 0x6000_0000_0000n;
const FIRST = FREE + 0x8000;
const SECOND = FREE + 0xb000;
/** Where displacements count from: so near the end of the first page that some lead into the second. */
const BASE = 0x1000 - 0x20;

const byteAt = (offset: number) => (offset * 7 + (offset >> 12) * 31 + 5) & 0xff;

/** The `size` bytes at `offset` of both pages. */
function numberAt(offset: number, size: number): bigint {
  let all = 0n;
  for (let i = size - 1; i >= 0; i--) all = all << 8n | BigInt(byteAt(offset + i));
  return all;
}

function prepare(m: TestMachine): PageTables {
  const tables = m.startLong();
  tables.map(DATA, FIRST);
  tables.map(DATA + 0x1000n, SECOND);
  const page = (number: number) =>
    Uint8Array.from({ length: 4096 }, (_, i) => byteAt(4096 * number + i));
  m.memory.writeFrom(FIRST, page(0));
  m.memory.writeFrom(SECOND, page(1));
  return tables;
}

const low32 = (value: bigint) => Number(BigInt.asUintN(32, value));

/** Runs `body` over and over with RSI at {@link BASE} of the data and EBX 0, and reports EAX for each turn. */
function turns(m: TestMachine, body: (a: Assembler) => void): void {
  m.load(64, (a) => {
    // Where a loop calls nothing, translators may know other things than where it does.
    for (const calls of [false, true]) {
      const [turn, called, behind] = [`turn ${calls}`, `called ${calls}`, `behind ${calls}`];
      a.mov("ebp", TURNS).label(turn).mov("rsi", DATA + BigInt(BASE)).xor("ebx", "ebx");
      if (calls) a.call(called).jmp(behind).label(called);
      body(a);
      if (calls) a.ret().label(behind);
      a.out(Port.Report, "eax").dec("ebp").jcc("ne", turn);
    }
    a.out(Port.Done, "al");
  });
  m.run();
}

/** Loads of `[displacement, size]`, which are summed up. */
const LOADS: readonly (readonly [number, 1 | 2 | 4 | 8])[] = [
  ...[[0, 8], [0x18, 8], [0x10, 4], [0x1c, 4], [0x1e, 2], [0x1f, 1]] as const,
  // Across the end, behind it, and before it again.
  ...[[0x1d, 4], [0x20, 1], [0x1f, 2], [0x28, 8], [0x19, 8], [-0x20, 8], [4, 8]] as const,
];

/** Registers that a body changes, as its own end sees them; the first is reported. */
const STATE: readonly Reg[] = ["rax", "rcx", "rdx", "rbx", "rsi", "rdi", "r8", "r9"];

/** Cases of straight code. */
export const STRAIGHT_CODE_TESTS: readonly GuestTest[] = [
  {
    name: "straight code: loads near each other, on both sides of a page's end",
    run(m) {
      prepare(m);
      turns(m, (a) => {
        for (const [disp, size] of LOADS) {
          if (size < 4) a.movzx("eax", at("rsi", { disp, size }));
          else a.mov(size === 4 ? "eax" : "rax", at("rsi", { disp, size }));
          a.add("rbx", "rax");
        }
        a.mov("eax", "ebx");
      });
      const sum = LOADS.reduce((all, [disp, size]) => all + numberAt(BASE + disp, size), 0n);
      assert.deepEqual(m.io.reports, new Array(2 * TURNS).fill(low32(sum)));
    },
  },
  {
    name: "straight code: loads near each other, whose register moves on in between",
    run(m) {
      prepare(m);
      turns(m, (a) => {
        a.mov("rax", at("rsi")).add("rbx", "rax").mov("rax", at("rsi", { disp: 8 }));
        a.add("rbx", "rax").add("rsi", 0x18);
        // In the second page by now, with displacements that were in the first one.
        a.mov("rax", at("rsi", { disp: 8 })).add("rbx", "rax").lea("rsi", at("rsi", { disp: -8 }));
        a.mov("rax", at("rsi", { disp: 8 })).add("rbx", "rax").mov("eax", "ebx");
      });
      const sum = [0, 8, 0x20, 0x18].reduce((all, at) => all + numberAt(BASE + at, 8), 0n);
      assert.deepEqual(m.io.reports, new Array(2 * TURNS).fill(low32(sum)));
    },
  },
  {
    name: "straight code: stores near loads, on both sides of a page's end",
    run(m) {
      prepare(m);
      turns(m, (a) => {
        a.mov("rax", at("rsi", { disp: 0x10 })).mov(at("rsi", { disp: 0x10 }), "rax");
        a.add("rax", 1).mov(at("rsi", { disp: 8 }), "rax").sub("rax", 1);
        a.mov(at("rsi", { disp: 0x1c, size: 8 }), "rax").mov("rbx", at("rsi", { disp: 0x1c }));
        a.add("rbx", at("rsi", { disp: 0x20, size: 8 })).add(
          "rbx",
          at("rsi", { disp: 8, size: 8 }),
        );
        a.add(at("rsi", { disp: 0, size: 8 }), 1).sub(at("rsi", { disp: 0, size: 8 }), 1);
        a.add("rbx", at("rsi", { disp: 0, size: 8 })).mov("eax", "ebx");
      });
      const word = numberAt(BASE + 0x10, 8);
      const beyond = word >> 32n | numberAt(BASE + 0x24, 4) << 32n;
      const sum = word + beyond + word + 1n + numberAt(BASE, 8);
      assert.deepEqual(m.io.reports, new Array(2 * TURNS).fill(low32(sum)));
    },
  },
  {
    name: "straight code: a store near a load, in a page that may only be read for once",
    run(m) {
      const tables = prepare(m);
      installFaultHandler64(m);
      const entry = tables.entryAddress(DATA);
      const code = m.load(64, (a) => {
        a.mov("rdi", "cr0").or("rdi", 0x10000).mov("cr0", "rdi");
        a.mov("rsi", DATA + 0x100n).mov("rdi", entry).mov("ebp", TURNS);
        a.label("turn").mov("rax", at("rsi")).mov("rdx", at("rsi", { disp: 8 })).add("rdx", 3);
        a.label("store").mov(at("rsi", { disp: 4 }), "eax").mov("rcx", "rdx");
        a.dec("ebp").jcc("ne", "turn");
        // Without the right to write, once more, when there is that to read.
        a.and(at("rdi", { size: 8 }), ~Pte.Write).invlpg(at("rsi")).mov("ebp", TURNS);
        a.mov("rcx", at("rsi")).xor("ecx", "ecx").jmp("turn");
        a.label("resume");
        STATE.forEach((name, i) => a.mov(at(result(i)), name));
        a.out(Port.Done, "al");
      });
      const rip = BigInt(code.addressOf("store"));
      resumeAt(m, code.addressOf("resume"));
      m.run();
      const errorCode = PageFault.Present | PageFault.Write;
      assertFault(m, { vector: Vector.PF, errorCode, cr2: DATA + 0x104n, rip });
      const first = numberAt(0x100, 4) | numberAt(0x100, 4) << 32n;
      const found = [0, 1, 2].map((i) => m.result(i));
      assert.deepEqual(found, [first, 0n, numberAt(0x108, 8) + 3n]);
    },
  },
  {
    name: "straight code: registers that instructions change beside their operands",
    run(m) {
      prepare(m);
      turns(m, (a) => {
        a.mov("eax", 0x1234_5678).mov("ecx", 3).mov("edx", 77).lea(
          "rdi",
          at("rsi", { disp: -0x40 }),
        );
        // Strings move their registers, and count.
        a.mov("r8", "rsi").rep().string("movs", 1).add("rcx", "rsi").sub("rcx", "r8").add(
          "rbx",
          "rcx",
        );
        a.sub("rsi", 3).sub("rdi", 3).add("ebx", "eax");
        // Products and quotients.
        a.mov("ecx", 0x1_0001).unary("mul", "ecx").add("ebx", "eax").add("ebx", "edx");
        a.mov("edx", 5).unary("div", "ecx").add("ebx", "eax").add("ebx", "edx");
        // A comparison that fails, one that does not, and what only changes a part.
        a.mov("eax", 9).mov("edx", 21).cmpxchg("ecx", "edx").add("ebx", "eax");
        a.cmpxchg("ecx", "edx").add("ebx", "ecx").xadd("edx", "ecx").add("ebx", "ecx");
        a.mov("al", 0x7f).add("ebx", "eax").mov("ah", 1).add("ebx", "eax").xchg("edx", "ebx");
        a.add("ebx", "edx").setcc("b", "dl").movzx("ecx", "dl").add("ebx", "ecx").mov("eax", "ebx");
      });
      assert.deepEqual(m.io.reports, new Array(2 * TURNS).fill(registersInTheEnd()));
    },
  },
];

/** What the last case reports, by the meaning of its instructions. */
function registersInTheEnd(): number {
  const product = 0x1234_5678n * 0x1_0001n;
  const dividend = 5n << 32n | BigInt.asUintN(32, product);
  let ebx = 3n + 0x1234_5678n + BigInt.asUintN(32, product) + (product >> 32n);
  ebx += dividend / 0x1_0001n + dividend % 0x1_0001n;
  // EAX is 9 and ECX is not: EAX becomes ECX. The next one finds them equal: ECX becomes 21.
  ebx += 0x1_0001n + 21n;
  // EDX becomes 42, ECX 21.
  ebx += 21n + 0x1_007fn + 0x1_017fn;
  const sum = BigInt.asUintN(32, ebx) + 42n;
  return low32(sum + (sum >> 32n));
}
