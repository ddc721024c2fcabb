import assert from "node:assert/strict";
import { CODE, GDT, Selector } from "../../../conformance/layout.ts";
import { writeDescriptor } from "../../../conformance/tables.ts";
import { Exit, Reg, S, Seg, SegAttr, Vector } from "../state.ts";
import { segAttrs, segLimit, setSegment } from "./access.ts";
import { updateMode } from "./mode.ts";
import { Attrs, TestCpu } from "./test_cpu.ts";

const JUMP = [0xeb, 0x00];
const SPARE = Selector.Spare;

/** A descriptor's access byte in words. */
interface Access {
  readonly byte: number;
  readonly system: boolean;
  readonly code: boolean;
  /** Expand-down for data, conforming for code. */
  readonly special: boolean;
  /** Writable for data, readable for code. */
  readonly allowed: boolean;
  readonly dpl: number;
  readonly present: boolean;
}

const accesses: readonly Access[] = Array.from({ length: 256 }, (_, byte) => ({
  byte,
  system: (byte & 0x10) === 0,
  code: (byte & 8) !== 0,
  special: (byte & 4) !== 0,
  allowed: (byte & 2) !== 0,
  dpl: (byte >>> 5) & 3,
  present: (byte & 0x80) !== 0,
}));

/** Runs one instruction; the vector of the fault it raised, with its error code, else "done". */
function run(t: TestCpu, code: readonly number[]): string {
  t.cpu.set64(S.rip, BigInt(CODE));
  const exit = t.execute([...code, ...JUMP], 1);
  if (exit === Exit.Fuel) return "done";
  assert.equal(exit, Exit.Fault);
  return `${t.cpu.get32(S.faultVector)}(${t.cpu.get32(S.faultError)})`;
}

/** MOV of `selector` to segment register `seg`. */
function move(t: TestCpu, seg: Seg, selector: number): string {
  t.cpu.setReg(Reg.rax, BigInt(selector));
  const before = t.cpu.selector(seg);
  const result = run(t, [0x8e, 0xc0 | (seg << 3)]);
  assert.equal(t.cpu.selector(seg), result === "done" ? selector : before);
  return result;
}

/** What a load of a data segment register gives (Intel SDM vol. 2, MOV). */
function expected(seg: Seg, a: Access, at: { cpl: number; rpl: number }): string {
  const gp = `${Vector.GP}(${SPARE})`;
  if (a.system) return gp;
  if (seg === Seg.SS) {
    if (a.code || !a.allowed || at.rpl !== at.cpl || a.dpl !== at.cpl) return gp;
    return a.present ? "done" : `${Vector.SS}(${SPARE})`;
  }
  if (a.code && !a.allowed) return gp;
  const conforming = a.code && a.special;
  if (!conforming && Math.max(at.cpl, at.rpl) > a.dpl) return gp;
  return a.present ? "done" : `${Vector.NP}(${SPARE})`;
}

Deno.test("MOV to a segment register checks type, privilege and presence, in that order", () => {
  using t = new TestCpu();
  t.openToUser(CODE);
  for (const cpl of [0, 3] as const) {
    for (const rpl of [0, 1, 3]) {
      for (const seg of [Seg.SS, Seg.DS, Seg.GS]) {
        for (const a of accesses) {
          writeDescriptor(t.memory, SPARE, { base: 0x1234, limit: 0xfffff, access: a.byte });
          t.setPrivilege(cpl);
          const result = move(t, seg, SPARE | rpl);
          const name = `${Seg[seg]}, access ${a.byte.toString(16)}, CPL ${cpl}, RPL ${rpl}`;
          assert.equal(result, expected(seg, a, { cpl, rpl }), name);
          const byte = t.memory.readU8(GDT + SPARE + 5);
          assert.equal(byte, result === "done" ? a.byte | 1 : a.byte, `${name}: accessed`);
        }
      }
    }
  }
});

Deno.test("null selectors are for all data segments, for SS only below ring 3 in 64-bit mode", () => {
  using t = new TestCpu();
  t.openToUser(CODE);
  for (const cpl of [0, 3] as const) {
    for (const selector of [0, 1, 2, 3]) {
      t.setPrivilege(cpl);
      const fits = cpl === 0 && selector === 0;
      assert.equal(move(t, Seg.SS, selector), fits ? "done" : `${Vector.GP}(0)`);
      t.setPrivilege(cpl);
      assert.equal(move(t, Seg.FS, selector), "done");
      assert.equal(t.cpu.segBase(Seg.FS), 0n);
      assert.notEqual(segAttrs(t.cpu, Seg.FS) & SegAttr.unusable, 0);
    }
  }
  // Compatibility mode: no null SS.
  t.setPrivilege(0);
  setSegment(t.cpu, Seg.CS, {
    selector: Selector.Code32,
    base: 0n,
    limit: -1,
    attrs: 0xc0_9b00,
  });
  updateMode(t.cpu);
  assert.equal(move(t, Seg.SS, 0), `${Vector.GP}(0)`);
});

Deno.test("selectors beyond their table fault, and base and limit come from the descriptor", () => {
  using t = new TestCpu();
  assert.equal(move(t, Seg.DS, 0x68), `${Vector.GP}(104)`);
  assert.equal(move(t, Seg.DS, 0xfffb), `${Vector.GP}(${0xfff8})`);
  assert.equal(move(t, Seg.DS, 0x0c), `${Vector.GP}(12)`, "the LDT has no room");
  for (const flags of [0, 8]) {
    const d = { base: 0x89ab_cdef, limit: 0x6_5432, access: 0x93, flags };
    writeDescriptor(t.memory, SPARE, d);
    assert.equal(move(t, Seg.GS, SPARE), "done");
    assert.equal(t.cpu.segBase(Seg.GS), 0x89ab_cdefn);
    assert.equal(segLimit(t.cpu, Seg.GS), flags === 8 ? 0x6543_2fff : 0x6_5432);
  }
});

Deno.test("LLDT takes LDT descriptors of 16 bytes, and the LDT serves selectors then", () => {
  using t = new TestCpu();
  const ldt = 0x10_0000;
  const lldt = (selector: number) => {
    t.cpu.setReg(Reg.rax, BigInt(selector));
    return run(t, [0x0f, 0x00, 0xd0]);
  };
  for (const access of [0x80, 0x81, 0x83, 0x89, 0x8b, 0x8c, 0x92, 0x9a]) {
    writeDescriptor(t.memory, SPARE, { base: ldt, limit: 0xf, access });
    assert.equal(lldt(SPARE), `${Vector.GP}(${SPARE})`, access.toString(16));
  }
  writeDescriptor(t.memory, SPARE, { base: ldt, limit: 0xf, access: 0x02 });
  t.memory.writeU64(GDT + SPARE + 8, 0n);
  assert.equal(lldt(SPARE), `${Vector.NP}(${SPARE})`);
  writeDescriptor(t.memory, SPARE, { base: ldt, limit: 0xf, access: 0x82 });
  assert.equal(lldt(SPARE | 4), `${Vector.GP}(${SPARE | 4})`);
  assert.equal(lldt(SPARE), "done");
  t.memory.writeU64(ldt + 8, 0x00cf_9300_0000_ffffn);
  assert.equal(move(t, Seg.ES, 0x0c), "done");
  assert.equal(move(t, Seg.ES, 0x14), `${Vector.GP}(20)`);
  assert.equal(lldt(0), "done");
  assert.equal(move(t, Seg.ES, 0x0c), `${Vector.GP}(12)`);
  // A base beyond 32 bits, which must be canonical.
  t.memory.writeU64(GDT + SPARE + 8, 0x8000n);
  assert.equal(lldt(SPARE), `${Vector.GP}(${SPARE})`);
  t.memory.writeU64(GDT + SPARE + 8, 0xffff_8000n);
  assert.equal(lldt(SPARE), "done");
  assert.equal(t.cpu.segBase(Seg.LDTR), 0xffff_8000_0010_0000n);
});

Deno.test("LTR takes an available TSS of 64 bits and marks it busy", () => {
  using t = new TestCpu();
  const ltr = (selector: number) => {
    t.cpu.setReg(Reg.rax, BigInt(selector));
    return run(t, [0x0f, 0x00, 0xd8]);
  };
  assert.equal(ltr(0), `${Vector.GP}(0)`);
  assert.equal(ltr(Selector.Data), `${Vector.GP}(${Selector.Data})`);
  assert.equal(ltr(Selector.Tss), "done");
  assert.equal(t.memory.readU8(GDT + Selector.Tss + 5), 0x8b);
  assert.equal(ltr(Selector.Tss), `${Vector.GP}(${Selector.Tss})`, "it is busy");
});

Deno.test("VERR, VERW, LAR and LSL agree with what loads of segments allow", () => {
  using t = new TestCpu();
  t.openToUser(CODE);
  const flag = (code: readonly number[], selector: number) => {
    t.cpu.setReg(Reg.rax, BigInt(selector));
    assert.equal(run(t, code), "done");
    return (t.cpu.getRflags() & 0x40n) !== 0n;
  };
  for (const cpl of [0, 3] as const) {
    for (const rpl of [0, 3]) {
      for (const a of accesses) {
        writeDescriptor(t.memory, SPARE, { base: 0, limit: 0x5_5555, access: a.byte, flags: 0xc });
        t.setPrivilege(cpl);
        const name = `access ${a.byte.toString(16)}, CPL ${cpl}, RPL ${rpl}`;
        const conforming = !a.system && a.code && a.special;
        const seen = conforming || Math.max(cpl, rpl) <= a.dpl;
        const readable = seen && !a.system && (!a.code || a.allowed);
        const writable = seen && !a.system && !a.code && a.allowed;
        assert.equal(flag([0x0f, 0x00, 0xe0], SPARE | rpl), readable, `VERR, ${name}`);
        assert.equal(flag([0x0f, 0x00, 0xe8], SPARE | rpl), writable, `VERW, ${name}`);
        const type = a.byte & 15;
        const lar = seen && (!a.system || [2, 9, 11, 12].includes(type));
        const lsl = seen && (!a.system || [2, 9, 11].includes(type));
        t.cpu.setReg(Reg.rbx, 0x77n);
        assert.equal(flag([0x0f, 0x02, 0xd8], SPARE | rpl), lar, `LAR, ${name}`);
        const rights = BigInt((a.byte << 8) | 0xc5_0000);
        assert.equal(t.cpu.reg(Reg.rbx), lar ? rights : 0x77n, `LAR, ${name}`);
        t.cpu.setReg(Reg.rbx, 0x77n);
        assert.equal(flag([0x0f, 0x03, 0xd8], SPARE | rpl), lsl, `LSL, ${name}`);
        assert.equal(t.cpu.reg(Reg.rbx), lsl ? 0x5555_5fffn : 0x77n, `LSL, ${name}`);
      }
    }
  }
});

Deno.test("a load of SS holds interrupts back for one instruction", () => {
  using t = new TestCpu();
  assert.equal(move(t, Seg.SS, Selector.Data), "done");
  assert.equal(t.cpu.get32(S.shadow), 1);
  assert.equal(segAttrs(t.cpu, Seg.SS), Attrs.data);
});
