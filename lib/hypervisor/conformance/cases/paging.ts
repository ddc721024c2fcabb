/**
 * Four-level paging: translation, protection, accessed and dirty bits, faults, flushing.
 *
 * @module
 */

import assert from "node:assert/strict";
import { at } from "../asm/mod.ts";
import {
  assertFault,
  clearFault,
  installFaultHandler64,
  PageFault,
  resumeAt,
  Vector,
} from "../faults.ts";
import type { Feature } from "../features.ts";
import type { GuestTest } from "../guest_case.ts";
import { CODE, FREE, Port, Selector, STACK } from "../layout.ts";
import { Control, type TestMachine } from "../machine.ts";
import { type PageSize, Pte, result } from "../tables.ts";
import { enterUser, openToUser } from "../user_mode.ts";

const LOW = 0x6000_0000_0000n;
const HIGH = 0xffff_9000_0000_0000n;
const EFER = 0xc000_0080;
const { Present, Write, User, Large, NoExecute } = Pte;
const ACCESSED_DIRTY = Pte.Accessed | Pte.Dirty;

interface PageFaultCase {
  readonly name: string;
  /** Flags of the page at {@link LOW}. */
  readonly flags: bigint;
  /** Flags of the directory entries above it are Present, Write, User and without these. */
  readonly without?: bigint;
  readonly access: "read" | "write" | "fetch";
  readonly ring?: 3;
  readonly cr0?: { readonly clear: bigint };
  readonly cr4?: bigint;
  readonly efer?: { readonly clear: bigint };
  /** Expected error code; absent where the access has to succeed. */
  readonly errorCode?: number;
  readonly ac?: true;
  readonly features?: readonly Feature[];
  readonly notEmulated?: string;
}

const NO_EMULATED_NX = "it fetches without a look at NX";
const P = PageFault.Present;
const W = PageFault.Write;
const U = PageFault.User;
const RSVD = PageFault.Reserved;
const I = PageFault.Fetch;
const RW = Present | Write;

const CASES: readonly PageFaultCase[] = [
  { name: "a load from no page", flags: 0n, access: "read", errorCode: 0 },
  { name: "a store to no page", flags: 0n, access: "write", errorCode: W },
  { name: "a fetch from no page", flags: 0n, access: "fetch", errorCode: I },
  {
    name: "a fetch from no page without NX and SMEP",
    flags: 0n,
    access: "fetch",
    efer: { clear: Control.NXE },
    errorCode: 0,
  },
  { name: "a store to a read-only page", flags: Present, access: "write", errorCode: P | W },
  {
    name: "a store of ring 0 to a read-only page with CR0.WP off",
    flags: Present,
    access: "write",
    cr0: { clear: Control.WP },
  },
  {
    name: "a store of ring 3 to a read-only page with CR0.WP off",
    flags: Present | User,
    access: "write",
    ring: 3,
    cr0: { clear: Control.WP },
    errorCode: P | W | U,
  },
  {
    name: "a store to a page below a read-only directory",
    flags: RW,
    without: Write,
    access: "write",
    errorCode: P | W,
  },
  {
    name: "a load of ring 3 from a page of ring 0",
    flags: RW,
    access: "read",
    ring: 3,
    errorCode: P | U,
  },
  {
    name: "a store of ring 3 to a page of ring 0",
    flags: RW,
    access: "write",
    ring: 3,
    errorCode: P | W | U,
  },
  {
    name: "a fetch of ring 3 from a page of ring 0",
    flags: RW,
    access: "fetch",
    ring: 3,
    errorCode: P | U | I,
  },
  {
    name: "a load of ring 3 from a page below a directory of ring 0",
    flags: RW | User,
    without: User,
    access: "read",
    ring: 3,
    errorCode: P | U,
  },
  { name: "a load of ring 3 from no page", flags: 0n, access: "read", ring: 3, errorCode: U },
  { name: "a load of ring 3 from a page of its own", flags: RW | User, access: "read", ring: 3 },
  { name: "a fetch of ring 3 from a page of its own", flags: RW | User, access: "fetch", ring: 3 },
  {
    name: "a fetch from a page with NX",
    flags: RW | NoExecute,
    access: "fetch",
    features: ["NX"],
    errorCode: P | I,
    notEmulated: NO_EMULATED_NX,
  },
  { name: "a load from a page with NX", flags: RW | NoExecute, access: "read", features: ["NX"] },
  {
    name: "NX while EFER.NXE is off is a reserved bit",
    flags: RW | NoExecute,
    access: "read",
    efer: { clear: Control.NXE },
    errorCode: P | RSVD,
  },
  {
    name: "a physical address that no processor has is a reserved bit",
    flags: RW | 1n << 51n,
    access: "write",
    errorCode: P | W | RSVD,
  },
  {
    name: "SMEP: a fetch of ring 0 from a page of ring 3",
    flags: RW | User,
    access: "fetch",
    cr4: Control.SMEP,
    features: ["SMEP"],
    errorCode: P | I,
    notEmulated: "it fetches without a look at SMEP",
  },
  { name: "a fetch of ring 0 from a page of ring 3", flags: RW | User, access: "fetch" },
  {
    name: "SMAP: a load of ring 0 from a page of ring 3",
    flags: RW | User,
    access: "read",
    cr4: Control.SMAP,
    features: ["SMAP"],
    errorCode: P,
  },
  {
    name: "SMAP: a store of ring 0 to a page of ring 3",
    flags: RW | User,
    access: "write",
    cr4: Control.SMAP,
    features: ["SMAP"],
    errorCode: P | W,
  },
  {
    name: "SMAP: a load of ring 0 from a page of ring 3 with EFLAGS.AC",
    flags: RW | User,
    access: "read",
    cr4: Control.SMAP,
    ac: true,
    features: ["SMAP"],
  },
];

function pageFaultTest(c: PageFaultCase): GuestTest {
  const fails = c.errorCode !== undefined;
  return {
    name: `paging: ${c.name} ${fails ? "faults" : "succeeds"}`,
    ...(c.features === undefined ? {} : { features: c.features }),
    ...(c.notEmulated === undefined ? {} : { notEmulated: c.notEmulated }),
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      tables.map(LOW, FREE, { flags: c.flags });
      if (c.without !== undefined) clearBits(m, tables.tableEntryAddress(LOW, 2), c.without);
      // A fetch meets this: a return.
      m.memory.writeU8(FREE + 0x123, 0xc3);
      const code = m.load(64, (a) => {
        a.mov("eax", Selector.Tss).selector("ltr", "ax").mov("rbx", LOW + 0x123n);
        if (c.ac) a.pushf().or(at("rsp", { size: 4 }), 1 << 18).popf();
        if (c.ring === 3) enterUser(a, "access");
        a.label("access");
        if (c.access === "read") a.mov("al", at("rbx"));
        else if (c.access === "write") a.mov(at("rbx"), "al");
        else a.call("rbx");
        a.label("over").op("ud2");
      });
      if (c.ring === 3) openToUser(m, tables);
      const sregs = m.vcpu.getSregs();
      m.vcpu.setSregs({
        cr0: sregs.cr0 & ~(c.cr0?.clear ?? 0n),
        cr4: sregs.cr4 | (c.cr4 ?? 0n),
        efer: sregs.efer & ~(c.efer?.clear ?? 0n),
      });
      m.run();
      if (c.errorCode === undefined) {
        assertFault(m, { vector: Vector.UD, rip: code.addressOf("over") });
      } else {
        assertFault(m, {
          vector: Vector.PF,
          errorCode: c.errorCode,
          cr2: LOW + 0x123n,
          rip: c.access === "fetch" ? LOW + 0x123n : code.addressOf("access"),
          cs: c.ring === 3 ? Selector.UserCode64 : Selector.Code64,
        });
      }
    },
  };
}

function clearBits(m: TestMachine, address: number, bits: bigint): void {
  m.memory.writeU64(address, m.memory.readU64(address) & ~bits);
}

function sizeTest(size: PageSize, text: string, features: readonly Feature[] = []): GuestTest {
  return {
    name: `paging: pages of ${text}, and their accessed and dirty bits`,
    features,
    notEmulated: "it keeps tables of its own and sets the bits when it builds them",
    run(m) {
      const tables = m.startLong();
      const flags = Present | Write | (size === 0x1000 ? 0n : Large);
      // 1 GiB pages have only the one at physical address 0 with RAM in it.
      const base = size === 0x4000_0000 ? 0 : 0x20_0000;
      const offset = size === 0x1000 ? 0x120 : size === 0x20_0000 ? 0x13_4560 : 0x23_4560;
      for (const virtual of [LOW, HIGH]) {
        tables.map(virtual, base, { size, flags: Present | Write });
      }
      m.memory.writeU64(base + offset, 0x1122_3344_5566_7788n);
      m.load(64, (a) => {
        a.mov("rbx", LOW + BigInt(offset)).mov("rax", at("rbx")).mov(at(result(0)), "rax");
        a.out(Port.Done, "al");
      });
      m.run();
      assert.equal(m.result(0), 0x1122_3344_5566_7788n);
      const bits = (virtual: bigint) => tables.entry(virtual, size) & (ACCESSED_DIRTY | flags);
      assert.equal(bits(LOW), flags | Pte.Accessed, "a load sets the accessed bit");
      assert.equal(bits(HIGH), flags, "nothing touched this one yet");
      const levels = size === 0x1000
        ? [4, 3, 2] as const
        : size === 0x20_0000
        ? [4, 3] as const
        : [4] as const;
      for (const level of levels) {
        const entry = m.memory.readU64(tables.tableEntryAddress(LOW, level));
        assert.equal(entry & ACCESSED_DIRTY, Pte.Accessed, `level ${level}`);
        assert.equal(m.memory.readU64(tables.tableEntryAddress(HIGH, level)) & ACCESSED_DIRTY, 0n);
      }
      // Only now is it there, so that no processor can have run ahead to it.
      const next = CODE + 0x800;
      m.load(64, (a) => {
        a.mov("rbx", HIGH + BigInt(offset)).mov("rax", 0x99).mov(at("rbx"), "rax");
        a.out(Port.Done, "al");
      }, next);
      m.vcpu.setRegs({ rip: BigInt(next) });
      m.run();
      assert.equal(m.memory.readU64(base + offset), 0x99n);
      assert.equal(bits(HIGH), flags | ACCESSED_DIRTY, "a store sets both");
    },
  };
}

function translationTest(
  size: PageSize,
  text: string,
  features: readonly Feature[] = [],
): GuestTest {
  return {
    name: `paging: translation by pages of ${text}`,
    features,
    run(m) {
      const tables = m.startLong();
      const base = size === 0x4000_0000 ? 0 : 0x20_0000;
      const offset = size === 0x1000 ? 0xff8 : size === 0x20_0000 ? 0x13_4ff8 : 0x23_4ff8;
      tables.map(LOW, base, { size });
      tables.map(HIGH, base, { size });
      m.memory.writeU64(base + offset, 0x1122_3344_5566_7788n);
      m.load(64, (a) => {
        a.mov("rbx", LOW + BigInt(offset)).mov("rax", at("rbx")).mov(at(result(0)), "rax");
        a.mov("rcx", HIGH + BigInt(offset)).add(at("rcx", { size: 8 }), 1).out(Port.Done, "al");
      });
      m.run();
      assert.equal(m.result(0), 0x1122_3344_5566_7788n);
      assert.equal(m.memory.readU64(base + offset), 0x1122_3344_5566_7789n);
    },
  };
}

/** The guests. */
export const PAGING_TESTS: readonly GuestTest[] = [
  translationTest(0x1000, "4 KiB"),
  translationTest(0x20_0000, "2 MiB"),
  translationTest(0x4000_0000, "1 GiB", ["1 GiB pages"]),
  sizeTest(0x1000, "4 KiB"),
  sizeTest(0x20_0000, "2 MiB"),
  sizeTest(0x4000_0000, "1 GiB", ["1 GiB pages"]),
  ...CASES.map(pageFaultTest),
  {
    name: "paging: what is missing above the page faults all the same",
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      for (const [index, level] of ([4, 3, 2] as const).entries()) {
        const virtual = LOW + (BigInt(index) << 39n);
        tables.map(virtual, FREE);
        clearBits(m, tables.tableEntryAddress(virtual, level), Present);
        const origin = CODE + index * 0x100;
        const code = m.load(64, (a) => {
          a.mov("rbx", virtual + 8n).label("fault").or(at("rbx", { size: 4 }), 1).op("ud2");
        }, origin);
        clearFault(m);
        m.vcpu.setRegs({ rip: BigInt(origin), rsp: BigInt(STACK) });
        m.run();
        const rip = code.addressOf("fault");
        assertFault(m, { vector: Vector.PF, errorCode: W, cr2: virtual + 8n, rip });
      }
    },
  },
  {
    name: "paging: INVLPG and a load of CR3 make changed entries count",
    run(m) {
      const tables = m.startLong();
      tables.map(LOW, FREE);
      const entry = tables.entryAddress(LOW);
      m.memory.writeU64(FREE, 1n);
      m.memory.writeU64(FREE + 0x1000, 2n);
      m.memory.writeU64(FREE + 0x2000, 3n);
      m.load(64, (a) => {
        a.mov("rbx", LOW).mov("rcx", entry).mov("rax", at("rbx")).out(Port.Report, "eax");
        a.add(at("rcx", { size: 8 }), 0x1000).invlpg(at("rbx")).mov("rax", at("rbx"));
        a.out(Port.Report, "eax").add(at("rcx", { size: 8 }), 0x1000);
        a.mov("rax", "cr3").mov("cr3", "rax").mov("rax", at("rbx")).out(Port.Report, "eax");
        a.out(Port.Done, "al");
      });
      m.run();
      assert.deepEqual(m.io.reports, [1, 2, 3]);
    },
  },
  {
    name: "paging: a global page outlives a load of CR3, not a change of CR4.PGE",
    run(m) {
      const tables = m.startLong();
      tables.map(LOW, FREE, { flags: Present | Write | Pte.Global });
      const entry = tables.entryAddress(LOW);
      m.memory.writeU64(FREE + 0x1000, 2n);
      m.load(64, (a) => {
        a.mov("rbx", LOW).mov("rcx", entry).mov("rax", at("rbx"));
        a.add(at("rcx", { size: 8 }), 0x1000).mov("rax", "cr3").mov("cr3", "rax");
        a.mov("rax", "cr4").mov("rdx", "rax").and("rdx", ~0x80).mov("cr4", "rdx").mov("cr4", "rax");
        a.mov("rax", at("rbx")).out(Port.Report, "eax").out(Port.Done, "al");
      });
      m.run();
      assert.deepEqual(m.io.reports, [2]);
    },
  },
  {
    name: "paging: a page that becomes present needs no flush",
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      const entry = tables.entryAddress(LOW);
      m.memory.writeU64(FREE, 7n);
      const code = m.load(64, (a) => {
        a.mov("rbx", LOW).mov("rcx", entry).mov("rax", at("rbx")).label("resume");
        a.mov("rax", FREE + 3).mov(at("rcx"), "rax").mov("rax", at("rbx"));
        a.out(Port.Report, "eax").out(Port.Done, "al");
      });
      resumeAt(m, code.addressOf("resume"));
      m.run();
      assert.deepEqual(m.io.reports, [7]);
      assertFault(m, { vector: Vector.PF, cr2: LOW });
    },
  },
  {
    name: "paging: a load across two pages takes from both",
    run(m) {
      const tables = m.startLong();
      tables.map(LOW, FREE + 0x5000);
      tables.map(LOW + 0x1000n, FREE);
      m.memory.writeU32(FREE + 0x5ffc, 0x1111_2222);
      m.memory.writeU32(FREE, 0x3333_4444);
      m.load(64, (a) => {
        a.mov("rbx", LOW + 0xffcn).mov("rax", at("rbx")).mov(at(result(0)), "rax");
        a.mov("rcx", 0x5555_6666_7777_8888n).mov(at("rbx", { disp: -1 }), "rcx");
        a.out(Port.Done, "al");
      });
      m.run();
      assert.equal(m.result(0), 0x3333_4444_1111_2222n);
      assert.equal(m.memory.readU32(FREE + 0x5ffb), 0x7777_8888);
      assert.equal(m.memory.readU32(FREE + 0x5ffc), 0x6677_7788);
      assert.equal(m.memory.readU32(FREE), 0x3355_5566);
    },
  },
  {
    name: "paging: a store across two pages whose second faults leaves the first alone",
    notEmulated: "it stores page by page",
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      tables.map(LOW, FREE);
      const code = m.load(64, (a) => {
        a.mov("rbx", LOW + 0xffbn).mov("rax", -1).label("fault").mov(at("rbx"), "rax").op("ud2");
      });
      m.run();
      const rip = code.addressOf("fault");
      assertFault(m, { vector: Vector.PF, errorCode: W, cr2: LOW + 0x1000n, rip });
      assert.equal(m.memory.readU32(FREE + 0xffb), 0);
    },
  },
  {
    name: "paging: an instruction across two pages whose second faults",
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      tables.map(LOW, FREE);
      // mov rax, imm64 begins 3 bytes before the end.
      m.memory.writeFrom(FREE + 0xffd, Uint8Array.of(0x48, 0xb8, 1));
      m.memory.writeFrom(FREE + 0x5000, Uint8Array.of(2, 3, 4, 5, 6, 7, 8, 0xc3));
      const entry = tables.entryAddress(LOW + 0x1000n);
      const code = m.load(64, (a) => {
        a.mov("rbx", LOW + 0xffdn).call("rbx").label("resume").mov("rcx", entry);
        a.mov("rax", FREE + 0x5003).mov(at("rcx"), "rax").call("rbx").mov(at(result(0)), "rax");
        a.out(Port.Done, "al");
      });
      resumeAt(m, code.addressOf("resume"));
      m.run();
      assertFault(m, {
        vector: Vector.PF,
        errorCode: I,
        cr2: LOW + 0x1000n,
        rip: LOW + 0xffdn,
      });
      assert.equal(m.result(0), 0x0807_0605_0403_0201n);
    },
  },
  {
    name: "paging: an instruction across two pages whose second is exchanged again and again",
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      tables.map(LOW, FREE);
      tables.map(LOW + 0x1000n, FREE + 0x5000);
      // mov eax, imm32 begins 3 bytes before the end; ret.
      m.memory.writeFrom(FREE + 0xffd, Uint8Array.of(0xb8, 1, 0));
      m.memory.writeFrom(FREE + 0x5000, Uint8Array.of(5, 0, 0xc3));
      m.memory.writeFrom(FREE + 0x6000, Uint8Array.of(6, 0, 0xc3));
      const entry = tables.entryAddress(LOW + 0x1000n);
      m.load(64, (a) => {
        a.mov("rbx", LOW + 0xffdn).mov("rcx", entry).mov("edi", 4).label("loop");
        a.call("rbx").out(Port.Report, "eax").call("rbx").out(Port.Report, "eax");
        a.xor(at("rcx", { size: 4 }), 0x3000).invlpg(at("rbx", { disp: 0x20 })).dec("edi");
        a.jcc("ne", "loop").mov("rax", "cr3").xor(at("rcx", { size: 4 }), 0x3000);
        a.mov("cr3", "rax").call("rbx").out(Port.Report, "eax");
        // A store to the second page counts too.
        a.mov(at("rbx", { disp: 3, size: 1 }), 7).call("rbx").out(Port.Report, "eax");
        a.out(Port.Done, "al");
      });
      m.run();
      const [five, six] = [0x5_0001, 0x6_0001];
      const seven = 0x7_0001;
      assert.deepEqual(m.io.reports, [five, five, six, six, five, five, six, six, six, seven]);
    },
  },
  {
    name: "paging: code at the end of a page runs on into the next",
    run(m) {
      const tables = m.startLong();
      tables.map(LOW, FREE + 0x3000);
      tables.map(LOW + 0x1000n, FREE + 0x1000);
      m.memory.fill(FREE + 0x3ff0, 16, 0x90);
      m.memory.writeFrom(FREE + 0x1000, Uint8Array.of(0xb8, 0x2a, 0, 0, 0, 0xc3));
      m.load(64, (a) => {
        a.mov("rbx", LOW + 0xff0n).call("rbx").out(Port.Report, "eax").out(Port.Done, "al");
      });
      m.run();
      assert.deepEqual(m.io.reports, [0x2a]);
    },
  },
  {
    name: "paging: a string move that faults in the middle goes on where it was",
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      tables.map(LOW, FREE);
      const entry = tables.entryAddress(LOW + 0x1000n);
      m.memory.writeFrom(FREE + 0x8000, Uint8Array.from({ length: 0x1000 }, (_, i) => i & 0xff));
      const code = m.load(64, (a) => {
        a.mov("rsi", FREE + 0x8000).mov("rdi", LOW + 0xf00n).mov("ecx", 0x200).op("cld");
        a.label("fault").rep().string("movs", 1).out(Port.Done, "al");
        a.label("resume").mov(at(result(0)), "rcx").mov(at(result(1)), "rsi");
        a.mov(at(result(2)), "rdi").mov("rax", FREE + 0x5003).mov("rbx", entry);
        a.mov(at("rbx"), "rax").jmp("fault");
      });
      resumeAt(m, code.addressOf("resume"));
      m.run();
      const rip = code.addressOf("fault");
      assertFault(m, { vector: Vector.PF, errorCode: W, cr2: LOW + 0x1000n, rip });
      assert.equal(m.result(0), 0x100n);
      assert.equal(m.result(1), BigInt(FREE + 0x8100));
      assert.equal(m.result(2), LOW + 0x1000n);
      assert.deepEqual(m.memory.read(FREE + 0x5000, 0x100), m.memory.read(FREE + 0x8100, 0x100));
      assert.deepEqual(m.memory.read(FREE + 0xf00, 0x100), m.memory.read(FREE + 0x8000, 0x100));
    },
  },
  {
    name: "paging: the tables are read from memory, wherever they are",
    run(m) {
      const tables = m.startLong();
      // A second set of tables, in which LOW lies elsewhere.
      const copy = 0x8_0000;
      m.memory.writeFrom(copy, m.memory.read(tables.root, 0x1000));
      tables.map(LOW, FREE);
      m.memory.writeU64(FREE, 1n);
      m.memory.writeU64(FREE + 0x1000, 2n);
      const at3 = copy + 0x1000;
      m.memory.writeU64(copy + Number(LOW >> 39n & 511n) * 8, BigInt(at3 | 3));
      m.memory.writeU64(at3, BigInt(at3 + 0x1003));
      m.memory.writeU64(at3 + 0x1000, BigInt(at3 + 0x2003));
      m.memory.writeU64(at3 + 0x2000, BigInt(FREE + 0x1003));
      m.load(64, (a) => {
        a.mov("rbx", LOW).mov("rax", at("rbx")).out(Port.Report, "eax");
        a.mov("rcx", "cr3").mov("rax", copy).mov("cr3", "rax");
        a.mov("rax", at("rbx")).out(Port.Report, "eax").mov("cr3", "rcx");
        a.mov("rax", at("rbx")).out(Port.Report, "eax").out(Port.Done, "al");
      });
      m.run();
      assert.deepEqual(m.io.reports, [1, 2, 1]);
    },
  },
  {
    name: "paging: EFER.NXE can be turned on while paging is on",
    features: ["NX"],
    notEmulated: NO_EMULATED_NX,
    run(m) {
      const tables = m.startLong();
      installFaultHandler64(m);
      const { efer } = m.vcpu.getSregs();
      m.vcpu.setSregs({ efer: efer & ~Control.NXE });
      tables.map(LOW, FREE, { flags: RW });
      const entry = tables.entryAddress(LOW);
      m.memory.writeU8(FREE, 0xc3);
      const code = m.load(64, (a) => {
        a.mov("rbx", LOW).call("rbx").mov("ecx", EFER).op("rdmsr").or("eax", 0x800).op("wrmsr");
        a.mov("rcx", entry + 4).or(at("rcx", { size: 4 }), 0x8000_0000).invlpg(at("rbx"));
        a.call("rbx").op("ud2").label("resume").out(Port.Done, "al");
      });
      resumeAt(m, code.addressOf("resume"));
      m.run();
      assertFault(m, { vector: Vector.PF, errorCode: P | I, cr2: LOW, rip: LOW });
    },
  },
];
