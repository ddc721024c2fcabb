import assert from "node:assert/strict";
import { CODE, Selector } from "../../../conformance/layout.ts";
import { Exit, Reg, S, Seg, Vector } from "../state.ts";
import { setSegment } from "../system/access.ts";
import { updateMode } from "../system/mode.ts";
import { Attrs, TestCpu } from "../system/test_cpu.ts";

const MASKMOVDQU = [0x66, 0x0f, 0xf7, 0xc1];
const MASKMOVQ = [0x0f, 0xf7, 0xc1];
const JUMP = [0xeb, 0x00];
const BASE = 0x20_0000;
const PLACE = 0x1000;
const SEGMENTS = [["FS", 0x64, Seg.FS], ["GS", 0x65, Seg.GS]] as const;

/** Bytes 1 to 16. */
const VALUE = [0x0807_0605_0403_0201n, 0x100f_0e0d_0c0b_0a09n] as const;
/** Selects the even ones; the others have all bits but the one that counts. */
const MASK = 0x7f80_7f80_7f80_7f80n;

/** XMM0 and MM0 are {@link VALUE}, XMM1 and MM1 {@link MASK}. */
function load(t: TestCpu): void {
  VALUE.forEach((value, i) => {
    t.cpu.set64(S.xmm + 8 * i, value);
    t.cpu.set64(S.xmm + 16 + 8 * i, MASK);
  });
  t.cpu.set64(S.fpu, VALUE[0]);
  t.cpu.set64(S.fpu + 16, MASK);
}

/** Clears the place at `address`, runs the instruction, and gives the bytes that are there then. */
function stored(t: TestCpu, code: readonly number[], address: number): number[] {
  t.memory.writeFrom(address, new Uint8Array(16));
  load(t);
  t.cpu.set64(S.rip, BigInt(CODE));
  assert.equal(t.execute([...code, ...JUMP]), Exit.Fuel);
  const bytes = new Uint8Array(16);
  t.memory.readInto(address, bytes);
  return [...bytes];
}

const evenOf = (bytes: number) =>
  Array.from({ length: 16 }, (_, i) => i < bytes && i % 2 === 0 ? i + 1 : 0);

Deno.test("masked moves store where their segment and address size say", () => {
  using t = new TestCpu();
  for (const [bytes, move] of [[16, MASKMOVDQU], [8, MASKMOVQ]] as const) {
    t.cpu.setReg(Reg.rdi, BigInt(BASE + PLACE));
    assert.deepEqual(stored(t, move, BASE + PLACE), evenOf(bytes), "DS:RDI");
    for (const [name, prefix, seg] of SEGMENTS) {
      const data = { selector: Selector.Data, limit: -1, attrs: Attrs.data };
      setSegment(t.cpu, seg, { ...data, base: BigInt(BASE) });
      t.cpu.setReg(Reg.rdi, BigInt(PLACE));
      assert.deepEqual(stored(t, [prefix, ...move], BASE + PLACE), evenOf(bytes), `${name}:RDI`);
      t.cpu.setReg(Reg.rdi, 0xffff_ffff_0000_0000n + BigInt(PLACE));
      const narrow = [0x67, prefix, ...move];
      assert.deepEqual(stored(t, narrow, BASE + PLACE), evenOf(bytes), `${name}:EDI`);
    }
    t.cpu.setReg(Reg.rdi, 0xffff_ffff_0000_0000n + BigInt(BASE));
    assert.deepEqual(stored(t, [0x67, ...move], BASE), evenOf(bytes), "DS:EDI");
  }
});

Deno.test("masked moves of 32-bit code take the base and the limit of their segment", () => {
  using t = new TestCpu();
  const flat = { base: 0n, limit: -1 };
  setSegment(t.cpu, Seg.CS, { ...flat, selector: Selector.Code32, attrs: 0xc0_9b00 });
  const data = { selector: Selector.Data, base: BigInt(BASE), attrs: 0x40_9300 };
  for (const [bytes, move] of [[16, MASKMOVDQU], [8, MASKMOVQ]] as const) {
    setSegment(t.cpu, Seg.DS, { ...data, limit: PLACE + bytes - 1 });
    updateMode(t.cpu);
    t.cpu.setReg(Reg.rdi, BigInt(PLACE));
    assert.deepEqual(stored(t, move, BASE + PLACE), evenOf(bytes));
    t.cpu.setReg(Reg.rdi, BigInt(PLACE + 1));
    t.cpu.set64(S.rip, BigInt(CODE));
    assert.equal(t.execute([...move, ...JUMP]), Exit.Fault, "a byte past the limit");
    assert.equal(t.cpu.get32(S.faultVector), Vector.GP);
  }
});
