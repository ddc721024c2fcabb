/**
 * What one vCPU does to the code and the page tables of another, and how fast they hear of each other.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Assembler, at } from "../asm/mod.ts";
import { installFaultHandler64 } from "../faults.ts";
import type { GuestTest } from "../guest_case.ts";
import type { TestMachine } from "../machine.ts";
import { eoi, LAPIC, Lapic, maskPics, setLapicReg } from "../pc_hardware.ts";
import { Pte, result, writeGate64 } from "../tables.ts";
import { meet, runOnAll } from "./smp_start.ts";

const COUNTERS = 0x10_0000;
const MET = COUNTERS;
/** What number 0 published last, and what number 1 was done with last, on lines of their own. */
const PUBLISHED = COUNTERS + 0x100;
const DONE = COUNTERS + 0x200;
const IDT_POINTER = 0x6e0;
const VECTOR = 0x70;
const HANDLER = 0xe000;
const ROUNDS = 300;
const FUNCTION = 0x30_0000;
/** A page that number 1 only knows at another address. */
const ALIAS = 0x7000_0000_0000n;

/** Gates for faults, and one for {@link VECTOR} that runs `handler`; both vCPUs load the table. */
function installHandler(m: TestMachine, handler: (a: Assembler) => void): void {
  installFaultHandler64(m);
  m.load(64, (a) => {
    a.push("rdx").push("rax");
    handler(a);
    eoi(a).pop("rax").pop("rdx").iret();
  }, HANDLER);
  writeGate64(m.memory, VECTOR, { offset: HANDLER });
  m.memory.writeU16(IDT_POINTER, 0xfff);
  m.memory.writeU64(IDT_POINTER + 2, 0x2000n);
}

function prepare(a: Assembler): void {
  a.table("lidt", at(IDT_POINTER));
  maskPics(a);
  setLapicReg(a, Lapic.Spurious, 0x1ff);
  meet(a, "begin", { counter: MET, vcpus: 2 });
  a.test("esi", "esi").jcc("ne", "second");
}

/** Interrupts number `to`. */
function interrupt(a: Assembler, to: number): void {
  setLapicReg(a, Lapic.IcrHigh, to << 24);
  setLapicReg(a, Lapic.IcrLow, VECTOR);
}

/** Number 0: tells number 1 of round edi, and waits until it is through with that. */
function publishAndWait(a: Assembler, name: string): void {
  a.mov(at(PUBLISHED, { size: 4 }), "edi");
  a.label(name).op("pause").cmp("edi", at(DONE)).jcc("ne", name);
}

/** Number 1: waits for round edi. */
function awaitPublished(a: Assembler, name: string): void {
  a.label(name).op("pause").cmp("edi", at(PUBLISHED)).jcc("ne", name);
}

/** `nop; mov eax, imm32; ret` */
const MOV_RET = Uint8Array.of(0x90, 0xb8, 0, 0, 0, 0, 0xc3);
/** Where its constant is. */
const CONSTANT = 2;

function codeTest(name: string, how: {
  /** Before number 1 calls: what makes it fetch anew. */
  serialize: (a: Assembler) => void;
  /** Where number 1 calls it. */
  at: bigint;
  /** Where it is, {@link FUNCTION} where that is absent. */
  function?: number;
}): GuestTest {
  const address = how.function ?? FUNCTION;
  return {
    name: `2 vCPUs: code that the other writes: ${name}`,
    vcpus: 2,
    async run(m) {
      m.memory.writeFrom(address, MOV_RET);
      installHandler(m, () => {});
      await runOnAll(m, (a) => {
        prepare(a);
        a.mov("edi", 1).label("write").mov(at(address + CONSTANT, { size: 4 }), "edi");
        publishAndWait(a, "written");
        a.add("edi", 1).cmp("edi", ROUNDS).jcc("ne", "write").jmp("end");
        a.label("second").mov("edi", 1).xor("ebp", "ebp").mov("r8", how.at).label("call");
        awaitPublished(a, "await");
        how.serialize(a);
        a.call("r8").cmp("eax", "edi").jcc("e", "right").add("ebp", 1).label("right");
        a.mov(at(DONE, { size: 4 }), "edi").add("edi", 1).cmp("edi", ROUNDS).jcc("ne", "call");
        a.mov(at(result(1), { size: 8 }), "rbp").label("end");
      }, (tables) => {
        if (how.at === ALIAS) tables.map(how.at, FUNCTION);
      });
      assert.equal(m.result(1), 0n, "calls of code that was not there any more");
    },
  };
}

const serializers: readonly (readonly [string, (a: Assembler) => void])[] = [
  ["and CPUID", (a) => a.xor("eax", "eax").op("cpuid")],
  ["and IRETQ", (a) => {
    a.mov("rax", "rsp").push(0x10).push("rax").pushf().push(8).lea("rax", at("rip", { disp: 3 }));
    a.push("rax").iret();
  }],
];

/** A page that number 0 maps elsewhere; number 1 flushes its TLB when it is interrupted. */
const shootdown: GuestTest = {
  name: "2 vCPUs: a page that the other maps elsewhere is seen there behind its interrupt",
  vcpus: 2,
  notEmulated: "it translates an operand's address again between reading and writing it",
  async run(m) {
    const [first, second] = [0x30_0000, 0x30_1000];
    m.memory.writeU64(first, 1n);
    m.memory.writeU64(second, 2n);
    installHandler(m, (a) => {
      a.mov("rax", ALIAS).invlpg(at("rax")).mov("eax", 1).mov(at(DONE, { size: 4 }), "eax");
    });
    let entry = 0;
    const flags = Pte.Present | Pte.Write | Pte.Accessed | Pte.Dirty;
    await runOnAll(m, (a) => {
      prepare(a);
      a.mov("edi", ROUNDS).mov("ebx", entry).label("map");
      // Exchanges the frame, and waits until number 1 has flushed.
      a.mov("rax", at("rbx")).xor("rax", 0x1000).mov(at(DONE, { size: 4 }), 0);
      a.mov(at("rbx"), "rax");
      interrupt(a, 1);
      a.label("flushed").op("pause").cmp(at(DONE, { size: 4 }), 1).jcc("ne", "flushed");
      // From now on number 1 may not read or write the old frame.
      a.mov("ecx", first).test(at("rbx", { size: 4 }), 0x1000).jcc("ne", "old");
      a.mov("ecx", second).label("old").mov("r9", at("rcx")).mov("edx", 200);
      a.label("look").op("pause").cmp("r9", at("rcx")).jcc("e", "same");
      a.add(at(result(1), { size: 8 }), 1).mov("r9", at("rcx"));
      a.label("same").dec("edx").jcc("ne", "look").dec("edi").jcc("ne", "map");
      a.mov(at(PUBLISHED, { size: 4 }), 1).jmp("end");
      a.label("second").op("sti").mov("r8", ALIAS).label("use");
      a.add(at("r8", { size: 8 }), 16).cmp(at(PUBLISHED, { size: 4 }), 0).jcc("e", "use");
      a.op("cli").label("end");
    }, (tables) => {
      entry = tables.entryAddress(ALIAS);
      m.memory.writeU64(entry, BigInt(first) | flags);
    });
    assert.equal(m.result(1), 0n, "writes to a frame behind the flush");
    assert.equal(m.memory.readU64(first) & 15n, 1n);
    assert.equal(m.memory.readU64(second) & 15n, 2n);
  },
};

/** Both sleep in HLT and wake each other: one lost wake-up, and nobody ever wakes. */
const pingPong: GuestTest = {
  name: "2 vCPUs: interrupts back and forth, each sleeping in HLT until the other's",
  vcpus: 2,
  async run(m) {
    const rounds = 2000;
    installHandler(m, (a) => {
      // One word a processor.
      a.mov("eax", LAPIC + Lapic.Id).mov("eax", at("rax")).shr("eax", 24).shl("eax", 6);
      a.add(at("rax", { disp: PUBLISHED, size: 4 }), 1);
    });
    await runOnAll(m, (a) => {
      prepare(a);
      for (const id of [0, 1]) {
        if (id === 1) a.label("second");
        a.mov("edi", 1).label(`round${id}`);
        if (id === 0) interrupt(a, 1);
        a.label(`sleep${id}`).op("cli").cmp("edi", at(PUBLISHED + 64 * id)).jcc("e", `came${id}`);
        a.op("sti").op("hlt").jmp(`sleep${id}`);
        a.label(`came${id}`).op("sti");
        if (id === 1) interrupt(a, 0);
        a.add("edi", 1).cmp("edi", rounds + 1).jcc("ne", `round${id}`).op("cli");
        if (id === 0) a.jmp("end");
      }
      a.label("end");
    });
    const counts = [0, 1].map((id) => m.memory.readU32(PUBLISHED + 64 * id));
    assert.deepEqual(counts, [rounds, rounds]);
  },
};

/** The guests. */
export const SMP_CODE_TESTS: readonly GuestTest[] = [
  ...serializers.map(([name, serialize]) => codeTest(name, { serialize, at: BigInt(FUNCTION) })),
  ...[2, 4].map((first) =>
    codeTest(`and CPUID, ${first} bytes in one page, the others in the next`, {
      serialize: (a) => a.xor("eax", "eax").op("cpuid"),
      at: BigInt(FUNCTION + 0x1000 - first),
      function: FUNCTION + 0x1000 - first,
    })
  ),
  codeTest("at another address, and CPUID", {
    serialize: (a) => a.xor("eax", "eax").op("cpuid"),
    at: ALIAS,
  }),
  codeTest("and an interrupt", {
    serialize: (a) => {
      // To itself, by way of the APIC.
      a.op("sti");
      setLapicReg(a, Lapic.IcrLow, 0x4_0000 | VECTOR).op("nop").op("cli");
    },
    at: BigInt(FUNCTION),
  }),
  shootdown,
  pingPong,
];
