/**
 * MXCSR and the saved image of x87, MMX and SSE state (Intel SDM vol. 1, 10.5 and 10.6).
 *
 * @module
 */

import {
  add,
  and,
  type Expr,
  extU,
  i32,
  i64,
  load,
  type Local,
  ltU,
  ne,
  OpFd,
  or,
  shl,
  shrS,
  shrU,
  v,
  ValType,
  wrap,
  xor,
} from "../../wasm/mod.ts";

import type { Cx } from "../cx.ts";
import { type Insn, insn } from "../opcode.ts";
import { CPU, S, Vector } from "../state.ts";
import { controlWord } from "../x87/access.ts";
import { checkAligned, const64, FpuTrap, join64, lane64, sse } from "./access.ts";

/** Bits of MXCSR that may be set. */
export const MXCSR_MASK = 0xffff;
/** MXCSR after reset. */
export const MXCSR_DEFAULT = 0x1f80;

/** Exception flags of MXCSR and of the x87 status word. */
export const FpFlag = {
  invalid: 1,
  denormal: 2,
  divide: 4,
  overflow: 8,
  underflow: 16,
  inexact: 32,
  all: 63,
} as const;

/** Bytes of the saved image that instructions touch. */
const FX_SIZE = 512;
const FX_ST = 32;

function enterFx(c: Cx): void {
  c.f.if(and(c.s32(S.fpuTrap), FpuTrap.x87), () => c.trap("x87Trap"));
}

/** Repeats `body` for 0 to `count` - 1. */
function repeat(c: Cx, count: number, body: (i: Local) => void): void {
  const i = c.f.local(ValType.I32, i32(0));
  c.f.loop((again) => {
    body(i);
    c.f.set(i, add(i, 1));
    c.f.brIf(again, ltU(i, i32(count)));
  });
}

interface FxForm {
  /** 16 XMM registers instead of 8. */
  readonly mode64: boolean;
  /** Instruction and data pointers of 64 bits instead of 32 and a selector. */
  readonly wide: boolean;
}

/** State address of ST(`i`). */
function stSlot(c: Cx, i: Expr): Expr {
  return shl(and(add(shrU(c.s32(S.fpuSw), 11), i), 7), 4);
}

const low10Bytes = () => const64([0xffff_ffff_ffff_ffffn, 0xffffn]);

/** An address that is not canonical comes before one that is not aligned. */
function checkArea(c: Cx, address: Local): void {
  c.f.if(
    ne(canonical(address), address),
    () => c.probeWrite(address, 1),
  );
  checkAligned(c, address);
}

function fxsave(form: FxForm): (c: Cx) => void {
  return (c) => {
    enterFx(c);
    const f = c.f;
    const address = c.ea();
    checkArea(c, address);
    // The processor looks at the last byte first.
    c.probeWrite(add(address, FX_SIZE - 1), 1);
    c.probeWrite(address, 1);
    const tags = xor(and(c.s32(S.fpuEmpty), 0xff), 0xff);
    const words = or(
      or(extU(and(c.s32(S.fpuCw), 0xffff)), shl(extU(and(c.s32(S.fpuSw), 0xffff)), 16)),
      or(shl(extU(tags), 32), shl(extU(and(c.s32(S.fpuOpcode), 0x7ff)), 48)),
    );
    const selectors = extU(c.s32(S.fpuSelectors));
    const ip = form.wide ? c.s64(S.fpuIp) : or(
      and(c.s64(S.fpuIp), i64(0xffff_ffffn)),
      shl(and(selectors, 0xffff), 32),
    );
    const dp = form.wide ? c.s64(S.fpuDp) : or(
      and(c.s64(S.fpuDp), i64(0xffff_ffffn)),
      shl(shrU(selectors, 16), 32),
    );
    c.store128(address, join64(words, ip));
    const place = f.let(add(address, 16));
    const mxcsr = or(extU(c.s32(S.mxcsr)), i64(BigInt(MXCSR_MASK) << 32n));
    c.store128(place, join64(dp, mxcsr));
    f.set(place, add(address, FX_ST));
    repeat(c, 8, (i) => {
      c.store128(place, v(OpFd.v128_and, load.v128(CPU, stSlot(c, i), S.fpu), low10Bytes()));
      f.set(place, add(place, 16));
    });
    repeat(c, form.mode64 ? 16 : 8, (i) => {
      c.store128(place, load.v128(CPU, shl(i, 4), S.xmm));
      f.set(place, add(place, 16));
    });
  };
}

/** Bits 48 to 63 as bit 47. */
function canonical(address: Expr): Expr {
  return shrS(shl(address, 16), 16);
}

function fxrstor(form: FxForm): (c: Cx) => void {
  return (c) => {
    enterFx(c);
    const f = c.f;
    const address = c.ea();
    checkArea(c, address);
    // Both pages are touched before anything changes.
    f.drop(c.load(f.let(add(address, FX_SIZE - 1)), 1));
    const head = c.load128(address);
    const place = f.let(add(address, 16));
    const second = c.load128(place);
    const mxcsr = f.let(wrap(lane64(second, 1)));
    f.if(and(mxcsr, ~MXCSR_MASK), () => c.raise(Vector.GP, i32(0)));
    c.setS32(S.mxcsr, mxcsr);
    const words = f.let(lane64(head, 0));
    const ip = f.let(lane64(head, 1));
    const dp = f.let(lane64(second, 0));
    c.setS32(S.fpuCw, controlWord(wrap(words)));
    c.setS32(S.fpuSw, and(wrap(shrU(words, 16)), 0xffff));
    c.setS32(S.fpuEmpty, xor(and(wrap(shrU(words, 32)), 0xff), 0xff));
    c.setS32(S.fpuOpcode, and(wrap(shrU(words, 48)), 0x7ff));
    f.call(c.helper("x87Summary"));
    if (form.wide) {
      c.setS64(S.fpuIp, canonical(ip));
      c.setS64(S.fpuDp, canonical(dp));
      c.setS32(S.fpuSelectors, i32(0));
    } else {
      c.setS64(S.fpuIp, and(ip, i64(0xffff_ffffn)));
      c.setS64(S.fpuDp, and(dp, i64(0xffff_ffffn)));
      const cs = and(wrap(shrU(ip, 32)), 0xffff);
      c.setS32(S.fpuSelectors, or(cs, shl(wrap(shrU(dp, 32)), 16)));
    }
    f.set(place, add(address, FX_ST));
    repeat(c, 8, (i) => {
      const value = v(OpFd.v128_and, c.load128(place), low10Bytes());
      f.storeV128(CPU, stSlot(c, i), value, S.fpu);
      f.set(place, add(place, 16));
    });
    repeat(c, form.mode64 ? 16 : 8, (i) => {
      const value = c.load128(place);
      f.storeV128(CPU, shl(i, 4), value, S.xmm);
      f.set(place, add(place, 16));
    });
  };
}

const forms: readonly (readonly [string, FxForm])[] = [
  ["i64", { mode64: false, wide: false }],
  ["o64 w0", { mode64: true, wide: false }],
  ["o64 w1", { mode64: true, wide: true }],
];

/** Rows of MXCSR and of FXSAVE and FXRSTOR. */
export const controlRows: readonly Insn[] = [
  sse("ldmxcsr", "np 0f ae /2 mem", "Md", (c) => {
    const value = c.f.let(wrap(c.get(0)));
    c.f.if(and(value, ~MXCSR_MASK), () => c.raise(Vector.GP, i32(0)));
    c.setS32(S.mxcsr, value);
  }),
  sse("stmxcsr", "np 0f ae /3 mem", "Md", (c) => c.set(0, extU(c.s32(S.mxcsr)))),
  ...forms.flatMap(([words, form]) => [
    insn("fxsave", `np 0f ae /0 mem ${words}`, "Mb", fxsave(form)),
    insn("fxrstor", `np 0f ae /1 mem ${words}`, "Mb", fxrstor(form)),
  ]),
];
