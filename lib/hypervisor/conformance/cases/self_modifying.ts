/**
 * Code that changes: what the processor executes is what memory holds, at once.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Assembler, at, ref } from "../asm/mod.ts";
import type { GuestTest } from "../guest_case.ts";
import { FREE, Port } from "../layout.ts";
import { Pte } from "../tables.ts";

const ALIAS = 0x7000_0000_0000n;
/** `mov eax, imm32; ret` */
const MOV_RET_SIZE = 6;

function movRet(value: number): Uint8Array {
  const bytes = Uint8Array.of(0xb8, 0, 0, 0, 0, 0xc3);
  new DataView(bytes.buffer).setUint32(1, value, true);
  return bytes;
}

/** A function that a device writes anew each time, while the guest is out to tell it. */
function deviceTest(name: string, how: { flush: boolean; only?: "kvm" }): GuestTest {
  return {
    name: `self-modifying code: written by a device ${name}`,
    ...(how.only === undefined ? {} : { only: how.only }),
    run(m) {
      m.memory.writeFrom(FREE, movRet(1));
      m.load(64, (a) => {
        a.mov("rbx", FREE).label("again").call("rbx").out(Port.Report, "eax").out(Port.Note, "al");
        if (how.flush) a.mov("rax", "cr3").mov("cr3", "rax");
        a.jmp("again");
      });
      let value = 1;
      m.io.onNote = () => {
        m.memory.writeFrom(FREE, movRet(++value));
        if (value === 4) m.io.done = true;
      };
      m.startLong();
      m.run();
      assert.deepEqual(m.io.reports, [1, 2, 3]);
    },
  };
}

/** As far from a page as another that translations may be held instead of it for. */
const CONFLICT = 0x20_0000n;

/**
 * A function that is called often, so that all that may be remembered of where calls go is, then another page
 * in the place of its own, which `how` makes count.
 */
function remapTest(
  half: string,
  page: bigint,
  how: { name: string; flags: bigint; flush: (a: Assembler) => void; branches?: boolean },
): GuestTest {
  const name = how.branches === true ? "that another branches to, " : "";
  return {
    name: `self-modifying code: another page ${name}at an address of the ${half} half, ${how.name}`,
    run(m) {
      const tables = m.startLong();
      tables.map(page, FREE, { flags: how.flags });
      tables.map(page + CONFLICT, FREE + 0x2000, { flags: how.flags });
      const entry = tables.entryAddress(page);
      m.memory.writeFrom(FREE, movRet(1));
      m.memory.writeFrom(FREE + 0x1000, movRet(100));
      m.memory.writeFrom(FREE + 0x2000, movRet(10_000));
      // JMP rel32 to the page before.
      tables.map(page + 0x1000n, FREE + 0x3000, { flags: how.flags });
      m.memory.writeFrom(FREE + 0x3000, Uint8Array.of(0xe9, 0xfb, 0xef, 0xff, 0xff));
      const called = how.branches === true ? page + 0x1000n : page;
      m.load(64, (a) => {
        a.mov("rbx", called).mov("rbp", page).mov("rsi", page + CONFLICT).mov("rcx", entry).mov(
          "r8d",
          3,
        );
        a.label("again").mov("edi", 40).xor("r9d", "r9d");
        a.label("calls").call("rbx").add("r9d", "eax").dec("edi").jcc("ne", "calls");
        // The other one takes its place in what is looked at page by page.
        a.call("rsi").add("r9d", "eax").xor(at("rcx", { size: 8 }), FREE ^ (FREE + 0x1000));
        how.flush(a);
        a.call("rbx").add("r9d", "eax").xor(at("rcx", { size: 8 }), FREE ^ (FREE + 0x1000));
        how.flush(a);
        a.call("rbx").add("r9d", "eax").mov("eax", "r9d").out(Port.Report, "eax");
        a.dec("r8d").jcc("ne", "again").out(Port.Done, "al");
      });
      m.run();
      assert.deepEqual(m.io.reports, [10_141, 10_141, 10_141]);
    },
  };
}

const PLAIN = Pte.Present | Pte.Write;
const HALVES = [["lower", ALIAS], ["upper", 0xffff_8000_0000_0000n]] as const;
const REMAPS: readonly Parameters<typeof remapTest>[2][] = [
  { name: "INVLPG", flags: PLAIN, flush: (a) => a.invlpg(at("rbp")) },
  { name: "INVLPG of a global one", flags: PLAIN | Pte.Global, flush: (a) => a.invlpg(at("rbp")) },
  {
    name: "CR3",
    flags: PLAIN,
    flush: (a) => a.mov("rax", "cr3").mov("cr3", "rax"),
  },
  {
    name: "CR4.PGE",
    flags: PLAIN | Pte.Global,
    flush: (a) =>
      a.mov("rax", "cr4").mov("rdx", "rax").xor("rdx", 0x80).mov("cr4", "rdx").mov("cr4", "rax"),
  },
];

/** The guests. */
export const SELF_MODIFYING_TESTS: readonly GuestTest[] = [
  {
    name: "self-modifying code: a function in the same page",
    run(m) {
      m.load(64, (a) => {
        a.call("function").out(Port.Report, "eax").mov(at(ref("function", 1), { size: 4 }), 2);
        a.call("function").out(Port.Report, "eax").out(Port.Done, "al");
        a.label("function").mov("eax", 1).ret();
      });
      m.startLong();
      m.run();
      assert.deepEqual(m.io.reports, [1, 2]);
    },
  },
  {
    name: "self-modifying code: a function in another page, again and again",
    run(m) {
      m.memory.writeFrom(FREE, movRet(0));
      m.load(64, (a) => {
        a.mov("rbx", FREE).mov("ecx", 500).xor("edi", "edi").label("loop").call("rbx");
        a.add("edi", "eax").add(at("rbx", { disp: 1, size: 4 }), 3).dec("ecx").jcc("ne", "loop");
        a.mov("eax", "edi").out(Port.Report, "eax").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.deepEqual(m.io.reports, [3 * 499 * 500 / 2]);
    },
  },
  {
    name: "self-modifying code: the very next instruction",
    run(m) {
      m.load(64, (a) => {
        a.mov("ecx", 3).label("loop").mov(at(ref("next", 1)), "ecx").label("next").mov("eax", 99);
        a.out(Port.Report, "eax").dec("ecx").jcc("ne", "loop").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.deepEqual(m.io.reports, [3, 2, 1]);
    },
  },
  {
    name: "self-modifying code: an opcode further on in the same block",
    run(m) {
      m.load(64, (a) => {
        a.mov("eax", 10).mov("ecx", 2).label("again");
        // add eax, imm32 (05) becomes sub eax, imm32 (2d).
        a.op("nop").label("patched").db(0x05).dd(4).out(Port.Report, "eax");
        a.mov(at(ref("patched"), { size: 1 }), 0x2d).op("nop").dec("ecx").jcc("ne", "again");
        a.mov(at(ref("later"), { size: 1 }), 0x2d).op("nop").op("nop");
        a.label("later").db(0x05).dd(1).out(Port.Report, "eax").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.deepEqual(m.io.reports, [14, 10, 9]);
    },
  },
  {
    name: "self-modifying code: an instruction across two pages, changed in either",
    run(m) {
      const start = FREE + 0x1000 - 3;
      m.memory.writeFrom(start, movRet(0x0101_0101));
      m.load(64, (a) => {
        a.mov("rbx", start).call("rbx").out(Port.Report, "eax");
        a.mov(at("rbx", { disp: 4, size: 1 }), 2).call("rbx").out(Port.Report, "eax");
        a.mov(at("rbx", { disp: 1, size: 1 }), 3).call("rbx").out(Port.Report, "eax");
        a.out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.deepEqual(m.io.reports, [0x0101_0101, 0x0201_0101, 0x0201_0103]);
    },
  },
  {
    name: "self-modifying code: through another address of the same page",
    run(m) {
      const tables = m.startLong();
      tables.map(ALIAS, FREE);
      m.memory.writeFrom(FREE, movRet(1));
      m.load(64, (a) => {
        a.mov("rbx", FREE).mov("rcx", ALIAS).call("rbx").out(Port.Report, "eax");
        a.mov(at("rcx", { disp: 1, size: 4 }), 2).call("rbx").out(Port.Report, "eax");
        a.call("rcx").mov(at("rbx", { disp: 1, size: 4 }), 3).call("rcx").out(Port.Report, "eax");
        a.out(Port.Done, "al");
      });
      m.run();
      assert.deepEqual(m.io.reports, [1, 2, 3]);
    },
  },
  {
    name: "self-modifying code: another page at the same address",
    run(m) {
      const tables = m.startLong();
      tables.map(ALIAS, FREE);
      const entry = tables.entryAddress(ALIAS);
      m.memory.writeFrom(FREE, movRet(1));
      m.memory.writeFrom(FREE + 0x1000, movRet(2));
      m.load(64, (a) => {
        a.mov("rbx", ALIAS).mov("rcx", entry).call("rbx").out(Port.Report, "eax");
        a.add(at("rcx", { size: 8 }), 0x1000).invlpg(at("rbx")).call("rbx").out(Port.Report, "eax");
        a.sub(at("rcx", { size: 8 }), 0x1000).mov("rax", "cr3").mov("cr3", "rax");
        a.call("rbx").out(Port.Report, "eax").out(Port.Done, "al");
      });
      m.run();
      assert.deepEqual(m.io.reports, [1, 2, 1]);
    },
  },
  ...HALVES.flatMap(([half, page]) =>
    REMAPS.flatMap((how) => [
      remapTest(half, page, how),
      remapTest(half, page, { ...how, branches: true }),
    ])
  ),
  {
    name: "self-modifying code: copied by a string move over code that ran",
    run(m) {
      m.memory.writeFrom(FREE, movRet(1));
      m.memory.writeFrom(FREE + 0x2000, movRet(2));
      m.load(64, (a) => {
        a.mov("rbx", FREE).call("rbx").out(Port.Report, "eax").mov("rsi", FREE + 0x2000);
        a.mov("rdi", "rbx").mov("ecx", MOV_RET_SIZE).rep().string("movs", 1);
        a.call("rbx").out(Port.Report, "eax").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.deepEqual(m.io.reports, [1, 2]);
    },
  },
  {
    name: "self-modifying code: written by an INS over code that ran",
    run(m) {
      m.memory.writeFrom(FREE, movRet(1));
      const next = movRet(2).values();
      m.io.onPortIn = () => BigInt(next.next().value ?? 0);
      m.load(64, (a) => {
        a.mov("rbx", FREE).call("rbx").out(Port.Report, "eax").mov("rdi", "rbx").mov("dx", 0x520);
        a.mov("ecx", MOV_RET_SIZE).rep().ins(1).call("rbx").out(Port.Report, "eax");
        a.out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.deepEqual(m.io.reports, [1, 2]);
    },
  },
  // A device in another process writes without the engine's knowledge. The software engine looks at
  // code again when an address is translated anew, which a kernel makes happen for reused pages.
  deviceTest("over code that ran", { flush: false, only: "kvm" }),
  deviceTest("over code that ran, before a load of CR3", { flush: true }),
  {
    name: "self-modifying code in real mode: a loop that changes its own increment",
    run(m) {
      // add ax, imm16 is encoded as 81 /0, so the immediate is at 2.
      m.load(16, (a) => {
        a.xor("ax", "ax").mov("cx", 4).label("loop").label("patched").add("ax", 0x101);
        a.add(at(ref("patched", 2), { size: 1 }), 1).loop("loop").movzx("eax", "ax");
        a.out(Port.Report, "eax").out(Port.Done, "al");
      });
      m.startReal();
      m.run();
      assert.deepEqual(m.io.reports, [0x101 + 0x102 + 0x103 + 0x104]);
    },
  },
];
