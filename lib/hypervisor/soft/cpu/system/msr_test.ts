import assert from "node:assert/strict";
import fc from "fast-check";
import { CODE } from "../../../conformance/layout.ts";
import { Exit, Reg, S, Vector } from "../state.ts";
import { isCanonical } from "./access.ts";
import { Msr, readMsr, writeMsr } from "./msr.ts";
import { TestCpu } from "./test_cpu.ts";

const JUMP = [0xeb, 0x00];
const RDMSR = [0x0f, 0x32, ...JUMP];
const WRMSR = [0x0f, 0x30, ...JUMP];
const RDTSC = [0x0f, 0x31, ...JUMP];
const RDTSCP = [0x0f, 0x01, 0xf9, ...JUMP];

function run(t: TestCpu, code: readonly number[]): "done" | "#GP" {
  t.cpu.set64(S.rip, BigInt(CODE));
  // WRMSR goes on by a jump.
  if (t.execute(code, 1) === Exit.Fuel) return "done";
  assert.equal(t.cpu.get32(S.faultVector), Vector.GP);
  assert.equal(t.cpu.get32(S.faultError), 0);
  return "#GP";
}

function read(t: TestCpu, index: number): bigint | "#GP" {
  t.cpu.setReg(Reg.rcx, BigInt(index));
  t.cpu.setReg(Reg.rax, -1n);
  t.cpu.setReg(Reg.rdx, -1n);
  if (run(t, RDMSR) === "#GP") return "#GP";
  return (t.cpu.reg(Reg.rdx) << 32n) | t.cpu.reg(Reg.rax);
}

function write(t: TestCpu, index: number, value: bigint): "done" | "#GP" {
  t.cpu.setReg(Reg.rcx, BigInt(index));
  t.cpu.setReg(Reg.rax, value & 0xffff_ffffn);
  t.cpu.setReg(Reg.rdx, value >> 32n);
  return run(t, WRMSR);
}

const canonicalOnly = [
  ...[Msr.fsBase, Msr.gsBase, Msr.kernelGsBase, Msr.lstar, Msr.cstar],
  ...[Msr.sysenterEip, Msr.sysenterEsp],
];

Deno.test("MSRs of addresses take canonical ones only, and keep them", () => {
  using t = new TestCpu();
  const address = fc.oneof(
    fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    fc.constantFrom(0x7fff_ffff_ffffn, 0x8000_0000_0000n, 0xffff_8000_0000_0000n),
    fc.bigInt({ min: 0n, max: (1n << 48n) - 1n }).map((n) =>
      BigInt.asUintN(64, BigInt.asIntN(48, n))
    ),
  );
  fc.assert(fc.property(fc.constantFrom(...canonicalOnly), address, (index, value) => {
    const before = read(t, index);
    const result = write(t, index, value);
    assert.equal(result, isCanonical(value) ? "done" : "#GP");
    assert.equal(read(t, index), result === "done" ? value : before);
  }));
});

Deno.test("MSRs that there are not raise #GP, from the outside an error that names them", () => {
  using t = new TestCpu();
  for (const index of [0, 0x48, 0x49, 0x10a, 0x480, 0xc001_0000, 0xdead_beef]) {
    assert.equal(read(t, index), "#GP", index.toString(16));
    assert.equal(write(t, index, 0n), "#GP", index.toString(16));
  }
  assert.throws(() => readMsr(t.cpu, 0xdead_beef), /0xdeadbeef/);
  assert.throws(() => writeMsr(t.cpu, 0xdead_beef, 1n), /0xdeadbeef/);
});

Deno.test("MSRs are of ring 0", () => {
  using t = new TestCpu();
  t.openToUser(CODE);
  t.setPrivilege(3);
  for (const index of [Msr.tsc, Msr.fsBase, Msr.efer]) {
    assert.equal(read(t, index), "#GP");
    assert.equal(write(t, index, 0n), "#GP");
  }
});

Deno.test("what a stock kernel sets up on AMD parts is there", () => {
  using t = new TestCpu();
  // Microcode revision, SYSCFG, HWCR with the TSC at the P0 frequency, NB_CFG, DE_CFG.
  assert.equal(read(t, 0x8b), 0n);
  assert.equal(read(t, 0xc001_0010), 0n);
  assert.equal(read(t, 0xc001_0015), 1n << 24n);
  for (const index of [0xc001_001f, 0xc001_1029]) {
    assert.equal(write(t, index, 0x200n), "done");
    assert.equal(read(t, index), 0x200n);
  }
  assert.equal(read(t, Msr.mtrrCap), 0x508n);
  assert.equal(read(t, Msr.mtrrDefault), 0xc06n);
  assert.equal(read(t, Msr.mcgCap), 0n);
});

Deno.test("EFER refuses bits that are reserved, and a change of LME while paging is on", () => {
  using t = new TestCpu();
  const before = read(t, Msr.efer) as bigint;
  assert.equal(write(t, Msr.efer, before | 2n), "#GP");
  assert.equal(write(t, Msr.efer, before & ~0x100n), "#GP");
  assert.equal(write(t, Msr.efer, before & ~0x400n), "done", "LMA follows CR0.PG");
  assert.equal(read(t, Msr.efer), before);
  assert.equal(write(t, Msr.efer, before & ~0x800n), "done");
  assert.equal(read(t, Msr.efer), before & ~0x800n);
});

Deno.test("PAT refuses memory types that there are not", () => {
  using t = new TestCpu();
  assert.equal(write(t, Msr.pat, 0x0007_0405_0600_0106n), "done");
  for (const type of [2n, 3n, 8n, 0xffn]) assert.equal(write(t, Msr.pat, type << 24n), "#GP");
  assert.equal(read(t, Msr.pat), 0x0007_0405_0600_0106n);
});

Deno.test("the TSC goes on from what is written to it, and TSC_ADJUST says how far it was moved", () => {
  using t = new TestCpu();
  const tsc = () => {
    assert.equal(run(t, RDTSC), "done");
    return (t.cpu.reg(Reg.rdx) << 32n) | t.cpu.reg(Reg.rax);
  };
  const first = tsc();
  assert.ok(tsc() >= first);
  const far = 1n << 60n;
  assert.equal(write(t, Msr.tsc, far), "done");
  assert.ok(tsc() >= far && tsc() < far + (1n << 40n));
  const adjust = read(t, Msr.tscAdjust) as bigint;
  assert.ok(adjust > far - (1n << 50n) && adjust <= far);
  assert.equal(write(t, Msr.tscAdjust, 0n), "done");
  assert.ok(tsc() < far);
});

Deno.test("RDTSCP gives TSC_AUX, and CR4.TSD keeps both from ring 3", () => {
  using t = new TestCpu();
  t.openToUser(CODE);
  assert.equal(write(t, Msr.tscAux, 0x1_0000_0000n), "#GP");
  assert.equal(write(t, Msr.tscAux, 0x1234_5678n), "done");
  t.cpu.set64(S.cr4, t.cpu.get64(S.cr4) | 4n);
  for (const code of [RDTSC, RDTSCP]) {
    t.setPrivilege(0);
    assert.equal(run(t, code), "done");
    t.setPrivilege(3);
    assert.equal(run(t, code), "#GP");
  }
  t.setPrivilege(0);
  run(t, RDTSCP);
  assert.equal(t.cpu.reg(Reg.rcx), 0x1234_5678n);
});
