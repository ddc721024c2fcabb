import assert from "node:assert/strict";
import { S, Vector } from "../cpu/state.ts";
import { updateMode } from "../cpu/system/mod.ts";
import { allRows } from "../cpu/table.ts";
import { Case } from "./native.ts";
import { InterpreterStep } from "./single_step.ts";

const PAGES = 0x7f00_0000_0000n;

const CR0 = { MP: 1n << 1n, EM: 1n << 2n, TS: 1n << 3n } as const;
const CR4 = { OSFXSR: 1n << 9n, OSXMMEXCPT: 1n << 10n } as const;

const code = {
  addps: [0x0f, 0x58, 0xc1],
  movq: [0x0f, 0x6f, 0xc1],
  fadd: [0xd8, 0xc1],
  fninit: [0xdb, 0xe3],
  fwait: [0x9b],
  fxsave: [0x0f, 0xae, 0x00],
  divss: [0xf3, 0x0f, 0x5e, 0xc1],
  ldmxcsr: [0x0f, 0xae, 0x10],
  prefetch: [0x0f, 0x18, 0x08],
  lfence: [0x0f, 0xae, 0xe8],
} as const;

interface Setting {
  readonly set?: bigint;
  readonly clear?: bigint;
  readonly clear4?: bigint;
  readonly mxcsr?: number;
  readonly sw?: number;
  readonly cw?: number;
}

/** Vector that an instruction raises in a setting of the control registers, or -1. */
function vectorOf(instruction: readonly number[], setting: Setting = {}): number {
  using step = new InterpreterStep(allRows, PAGES);
  const cpu = step.cpu;
  cpu.set64(S.cr0, (cpu.get64(S.cr0) | (setting.set ?? 0n)) & ~(setting.clear ?? 0n));
  cpu.set64(S.cr4, cpu.get64(S.cr4) & ~(setting.clear4 ?? 0n));
  updateMode(cpu);
  const cases = new Uint8Array(Case.size);
  const view = new DataView(cases.buffer);
  view.setBigUint64(Case.regs, PAGES, true);
  view.setBigUint64(Case.window, PAGES, true);
  view.setUint16(Case.fx, setting.cw ?? 0x37f, true);
  view.setUint16(Case.fx + 2, setting.sw ?? 0, true);
  view.setUint32(Case.fx + 24, setting.mxcsr ?? 0x1f80, true);
  view.setUint32(Case.memory, 0x1f80, true);
  step.prepare(Uint8Array.from(instruction));
  step.step(cases, 0);
  return view.getBigUint64(Case.signal, true) === 0n
    ? -1
    : Number(view.getBigUint64(Case.trap, true));
}

Deno.test("SSE needs CR4.OSFXSR, and neither CR0.EM nor CR0.TS", () => {
  assert.equal(vectorOf(code.addps), -1);
  assert.equal(vectorOf(code.addps, { set: CR0.TS }), Vector.NM);
  assert.equal(vectorOf(code.addps, { set: CR0.EM }), Vector.UD);
  assert.equal(vectorOf(code.addps, { set: CR0.EM | CR0.TS }), Vector.UD);
  assert.equal(vectorOf(code.addps, { clear4: CR4.OSFXSR }), Vector.UD);
  assert.equal(vectorOf(code.ldmxcsr, { set: CR0.TS }), Vector.NM);
});

Deno.test("hints and fences need nothing", () => {
  const setting = { set: CR0.EM | CR0.TS, clear4: CR4.OSFXSR };
  assert.equal(vectorOf(code.prefetch, setting), -1);
  assert.equal(vectorOf(code.lfence, setting), -1);
});

Deno.test("MMX needs neither CR0.EM nor CR0.TS, and waits for x87 exceptions", () => {
  assert.equal(vectorOf(code.movq), -1);
  assert.equal(vectorOf(code.movq, { set: CR0.TS }), Vector.NM);
  assert.equal(vectorOf(code.movq, { set: CR0.EM }), Vector.UD);
  assert.equal(vectorOf(code.movq, { cw: 0x37e, sw: 0x8081 }), Vector.MF);
});

Deno.test("the x87 raises #NM with CR0.EM or CR0.TS", () => {
  assert.equal(vectorOf(code.fadd, { set: CR0.TS }), Vector.NM);
  assert.equal(vectorOf(code.fadd, { set: CR0.EM }), Vector.NM);
  assert.equal(vectorOf(code.fninit, { set: CR0.TS }), Vector.NM);
  assert.equal(vectorOf(code.fxsave, { set: CR0.TS }), Vector.NM);
  assert.equal(vectorOf(code.fadd, { clear4: CR4.OSFXSR }), -1);
});

Deno.test("FWAIT raises #NM with CR0.MP and CR0.TS together only", () => {
  assert.equal(vectorOf(code.fwait, { set: CR0.TS | CR0.MP }), Vector.NM);
  assert.equal(vectorOf(code.fwait, { set: CR0.TS, clear: CR0.MP }), -1);
});

Deno.test("a pending x87 exception stops what waits, and only that", () => {
  const pending = { cw: 0x37e, sw: 0x8081 };
  assert.equal(vectorOf(code.fadd, pending), Vector.MF);
  assert.equal(vectorOf(code.fwait, pending), Vector.MF);
  assert.equal(vectorOf(code.fninit, pending), -1);
  assert.equal(vectorOf(code.fxsave, pending), -1);
});

Deno.test("an SSE exception that is not masked is #XM, or #UD without CR4.OSXMMEXCPT", () => {
  // 0 / 0 with the invalid operation unmasked.
  assert.equal(vectorOf(code.divss, { mxcsr: 0x1f00 }), Vector.XM);
  assert.equal(vectorOf(code.divss, { mxcsr: 0x1f00, clear4: CR4.OSXMMEXCPT }), Vector.UD);
  assert.equal(vectorOf(code.divss), -1);
});
