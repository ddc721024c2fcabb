/**
 * Moves between XMM and MMX registers, general registers and memory (Intel SDM vol. 2).
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
  OpFd,
  simd,
  v,
  ValType,
  wrap,
} from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import { type Insn, insn } from "../opcode.ts";
import { CPU, S } from "../state.ts";
import {
  clearTop,
  commitMmx,
  const16,
  const32,
  enterMmx,
  fromLow,
  getUnaligned,
  getX,
  imm8,
  lane64,
  laneSlot,
  mmx,
  setLow,
  setM,
  setUnaligned,
  setX,
  setZeroing,
  shuffleLanes,
  splat64,
  sse,
} from "./access.ts";

/** Low (0) or high (8) half of XMM register operand `i`. */
function half(c: Cx, i: number, offset: number): Expr {
  return load.i64(CPU, c.slot(i), offset);
}

/** Scalar move: a load clears the rest of the register, a register move keeps it. */
function scalar(size: number): (c: Cx) => void {
  return (c) => {
    if (c.isMemory(1)) setZeroing(c, 0, c.get(1));
    else setLow(c, 0, { value: c.get(1), size });
  };
}

/** Stores the low `size` bytes of operand 1; a register keeps its rest. */
function scalarStore(size: number): (c: Cx) => void {
  return (c) => {
    if (c.isMemory(0)) c.set(0, c.get(1));
    else setLow(c, 0, { value: c.get(1), size });
  };
}

const aligned = (c: Cx) => setX(c, 0, getX(c, 1));
const unaligned = (c: Cx) => setUnaligned(c, 0, getUnaligned(c, 1));
const loadLow = (c: Cx) => setLow(c, 0, { value: c.get(1), size: 8 });
const loadHigh = (c: Cx) => c.f.store64(CPU, c.slot(0), c.f.let(c.get(1)), 8);
const storeHigh = (c: Cx) => c.set(0, half(c, 1, 8));
const nothing = () => {};

/** Stores byte lanes of `value` whose mask byte has bit 7 set at DS:rDI. */
function maskedStore(c: Cx, value: Expr, mask: Expr): void {
  const f = c.f;
  const bits = f.let(simd(ValType.I32, OpFd.i8x16_bitmask, [mask]));
  const address = c.ea();
  c.mayFault(() => f.call(c.helper("maskedStore"), address, value, bits, c.rec));
}

/** Checks the `size` bytes at DS:rDI, stored or not, as the processor does: upper half first. */
function checkMasked(c: Cx, size: number): void {
  if (size === 16) c.probeWrite(add(c.ea(), 8), 8);
  c.probeWrite(c.ea(), 8);
}

/** Masks of a byte shuffle by imm8 fields of 2 bits over `width`-byte lanes, as words or dwords. */
function wordPlaces(imm: Expr, highHalf: boolean): Expr {
  // Multiplying by a power of 4 moves field i to bits 6 and 7.
  const scales = [64, 16, 4, 1];
  const fields = v(
    OpFd.v128_and,
    v(
      OpFd.i16x8_shr_u,
      v(
        OpFd.i16x8_mul,
        v(OpFd.i16x8_splat, imm),
        const16(highHalf ? [0, 0, 0, 0, ...scales] : [...scales, 0, 0, 0, 0]),
      ),
      i32(6),
    ),
    const16([3, 3, 3, 3, 3, 3, 3, 3]),
  );
  const base = (i: number) => (2 * i) | ((2 * i + 1) << 8);
  const fixed = [0, 1, 2, 3, 4, 5, 6, 7].map((i) =>
    highHalf ? (i < 4 ? base(i) : 0x0908) : (i < 4 ? 0x0100 : base(i))
  );
  const factor = highHalf ? [0, 0, 0, 0, 514, 514, 514, 514] : [514, 514, 514, 514, 0, 0, 0, 0];
  return v(OpFd.i16x8_add, v(OpFd.i16x8_mul, fields, const16(factor)), const16(fixed));
}

/** Byte places of a dword shuffle by imm8. */
export function dwordPlaces(imm: Expr): Expr {
  const fields = v(
    OpFd.v128_and,
    v(
      OpFd.i32x4_shr_u,
      v(OpFd.i32x4_mul, v(OpFd.i32x4_splat, imm), const32([64, 16, 4, 1])),
      i32(6),
    ),
    const32([3, 3, 3, 3]),
  );
  return v(
    OpFd.i32x4_add,
    v(OpFd.i32x4_mul, fields, const32([0x04040404, 0x04040404, 0x04040404, 0x04040404])),
    const32([0x03020100, 0x03020100, 0x03020100, 0x03020100]),
  );
}

/** i64 of the sign bits of the lanes. */
function mask(code: number, value: Expr): Expr {
  return extU(simd(ValType.I32, code, [value]));
}

const swizzle = (value: Expr, places: Expr) => v(OpFd.i8x16_swizzle, value, places);

/** Rows of the moves. */
export const moveRows: readonly Insn[] = [
  sse("movups", "np 0f 10 /r", "Vx Wx", unaligned),
  sse("movups", "np 0f 11 /r", "Wx Vx", unaligned),
  sse("movupd", "66 0f 10 /r", "Vx Wx", unaligned),
  sse("movupd", "66 0f 11 /r", "Wx Vx", unaligned),
  sse("movss", "f3 0f 10 /r", "Vd Wd", scalar(4)),
  sse("movss", "f3 0f 11 /r", "Wd Vd", scalarStore(4)),
  sse("movsd", "f2 0f 10 /r", "Vq Wq", scalar(8)),
  sse("movsd", "f2 0f 11 /r", "Wq Vq", scalarStore(8)),
  sse("movlps", "np 0f 12 /r", "Vq Mq", loadLow),
  sse("movhlps", "np 0f 12 /r", "Vq Ux", (c) => {
    setLow(c, 0, { value: half(c, 1, 8), size: 8 });
  }),
  sse("movlpd", "66 0f 12 /r", "Vq Mq", loadLow),
  sse("movlps", "np 0f 13 /r", "Mq Vq", (c) => c.set(0, c.get(1))),
  sse("movlpd", "66 0f 13 /r", "Mq Vq", (c) => c.set(0, c.get(1))),
  sse("movhps", "np 0f 16 /r", "Vx Mq", loadHigh),
  sse("movlhps", "np 0f 16 /r", "Vx Ux", (c) => {
    c.f.store64(CPU, c.slot(0), half(c, 1, 0), 8);
  }),
  sse("movhpd", "66 0f 16 /r", "Vx Mq", loadHigh),
  sse("movhps", "np 0f 17 /r", "Mq Vx", storeHigh),
  sse("movhpd", "66 0f 17 /r", "Mq Vx", storeHigh),
  sse("movddup", "f2 0f 12 /r", "Vx Wq", (c) => setX(c, 0, splat64(c.f.let(c.get(1))))),
  sse("movsldup", "f3 0f 12 /r", "Vx Wx", (c) => {
    const x = getX(c, 1);
    setX(c, 0, shuffleLanes(4, x, x, [0, 0, 2, 2]));
  }),
  sse("movshdup", "f3 0f 16 /r", "Vx Wx", (c) => {
    const x = getX(c, 1);
    setX(c, 0, shuffleLanes(4, x, x, [1, 1, 3, 3]));
  }),
  sse("movaps", "np 0f 28 /r", "Vx Wx", aligned),
  sse("movaps", "np 0f 29 /r", "Wx Vx", aligned),
  sse("movapd", "66 0f 28 /r", "Vx Wx", aligned),
  sse("movapd", "66 0f 29 /r", "Wx Vx", aligned),
  sse("movntps", "np 0f 2b /r", "Mx Vx", aligned),
  sse("movntpd", "66 0f 2b /r", "Mx Vx", aligned),
  sse("movntdq", "66 0f e7 /r", "Mx Vx", aligned),
  sse("movntdqa", "66 0f 38 2a /r", "Vx Mx", aligned),
  sse("lddqu", "f2 0f f0 /r", "Vx Mx", unaligned),
  insn("movnti", "np 0f c3 /r", "My Gy", (c) => c.set(0, c.get(1))),
  sse("movdqa", "66 0f 6f /r", "Vx Wx", aligned),
  sse("movdqa", "66 0f 7f /r", "Wx Vx", aligned),
  sse("movdqu", "f3 0f 6f /r", "Vx Wx", unaligned),
  sse("movdqu", "f3 0f 7f /r", "Wx Vx", unaligned),
  sse("movd", "66 0f 6e /r", "Vx Ey", (c) => setZeroing(c, 0, c.get(1))),
  sse("movd", "66 0f 7e /r", "Ey Vx", (c) => {
    const value = half(c, 1, 0);
    c.set(0, c.operandSize(0) === 8 ? value : and(value, i64(0xffff_ffff)));
  }),
  sse("movq", "f3 0f 7e /r", "Vx Wq", (c) => setZeroing(c, 0, c.get(1))),
  sse("movq", "66 0f d6 /r", "Wq Vq", (c) => {
    if (c.isMemory(0)) c.set(0, c.get(1));
    else setZeroing(c, 0, c.get(1));
  }),
  sse("movmskps", "np 0f 50 /r", "Gd Ux", (c) => {
    c.set(0, mask(OpFd.i32x4_bitmask, load.v128(CPU, c.slot(1))));
  }),
  sse("movmskpd", "66 0f 50 /r", "Gd Ux", (c) => {
    c.set(0, mask(OpFd.i64x2_bitmask, load.v128(CPU, c.slot(1))));
  }),
  sse("pmovmskb", "66 0f d7 /r", "Gd Ux", (c) => {
    c.set(0, mask(OpFd.i8x16_bitmask, load.v128(CPU, c.slot(1))));
  }),
  sse("pshufd", "66 0f 70 /r", "Vx Wx Ib", (c) => {
    setX(c, 0, swizzle(getX(c, 1), dwordPlaces(imm8(c, 2))));
  }),
  sse("pshufhw", "f3 0f 70 /r", "Vx Wx Ib", (c) => {
    setX(c, 0, swizzle(getX(c, 1), wordPlaces(imm8(c, 2), true)));
  }),
  sse("pshuflw", "f2 0f 70 /r", "Vx Wx Ib", (c) => {
    setX(c, 0, swizzle(getX(c, 1), wordPlaces(imm8(c, 2), false)));
  }),
  sse("pinsrw", "66 0f c4 /r", "Vx Ew Ib", (c) => {
    const value = c.f.let(wrap(c.get(1)));
    c.f.store16(CPU, laneSlot(c, 0, { index: and(imm8(c, 2), 7), width: 2 }), value);
  }),
  sse("pinsrb", "66 0f 3a 20 /r", "Vx Rd Ib", (c) => {
    const value = c.f.let(wrap(c.get(1)));
    c.f.store8(CPU, laneSlot(c, 0, { index: and(imm8(c, 2), 15), width: 1 }), value);
  }),
  sse("pinsrb", "66 0f 3a 20 /r", "Vx Mb Ib", (c) => {
    const value = c.f.let(wrap(c.get(1)));
    c.f.store8(CPU, laneSlot(c, 0, { index: and(imm8(c, 2), 15), width: 1 }), value);
  }),
  sse("pinsrd", "66 0f 3a 22 /r", "Vx Ey Ib", (c) => {
    const width = c.operandSize(1);
    const value = c.f.let(c.get(1));
    const index = and(imm8(c, 2), 16 / width - 1);
    c.f.storeSized(width, CPU, laneSlot(c, 0, { index, width }), value);
  }),
  sse("pextrw", "66 0f c5 /r", "Gd Ux Ib", (c) => {
    c.set(0, load.i64_16u(CPU, laneSlot(c, 1, { index: and(imm8(c, 2), 7), width: 2 })));
  }),
  ...(["Rd", "M"] as const).flatMap((destination) => {
    const to = (size: string) => destination === "M" ? `M${size}` : destination;
    return [
      sse("pextrb", "66 0f 3a 14 /r", `${to("b")} Vx Ib`, (c) => {
        c.set(0, load.i64_8u(CPU, laneSlot(c, 1, { index: and(imm8(c, 2), 15), width: 1 })));
      }),
      sse("pextrw", "66 0f 3a 15 /r", `${to("w")} Vx Ib`, (c) => {
        c.set(0, load.i64_16u(CPU, laneSlot(c, 1, { index: and(imm8(c, 2), 7), width: 2 })));
      }),
      sse("extractps", "66 0f 3a 17 /r", `${to("d")} Vx Ib`, (c) => {
        c.set(0, load.i64_32u(CPU, laneSlot(c, 1, { index: and(imm8(c, 2), 3), width: 4 })));
      }),
    ];
  }),
  sse("pextrd", "66 0f 3a 16 /r", "Ey Vx Ib", (c) => {
    const width = c.operandSize(0);
    const address = laneSlot(c, 1, { index: and(imm8(c, 2), 16 / width - 1), width });
    c.set(0, width === 8 ? load.i64(CPU, address) : load.i64_32u(CPU, address));
  }),
  sse("maskmovdqu", "66 0f f7 /r di", "Vx Ux", (c) => {
    checkMasked(c, 16);
    maskedStore(c, load.v128(CPU, c.slot(0)), load.v128(CPU, c.slot(1)));
  }),

  mmx("movd", "np 0f 6e /r", "Pq Ey", (c) => setM(c, 0, c.f.let(c.get(1)))),
  // Stores change the x87 state even where they fault, as the processor does.
  mmx("movd", "np 0f 7e /r", "Ey Pq", (c) => {
    const value = c.get(1);
    clearTop(c);
    c.set(0, c.operandSize(0) === 8 ? value : and(value, i64(0xffff_ffff)));
    commitMmx(c);
  }),
  mmx("movq", "np 0f 6f /r", "Pq Qq", (c) => setM(c, 0, c.f.let(c.get(1)))),
  mmx("movq", "np 0f 7f /r", "Qq Pq", (c) => {
    const value = c.f.let(c.get(1));
    if (c.isMemory(0)) {
      clearTop(c);
      c.set(0, value);
      commitMmx(c);
    } else setM(c, 0, value);
  }),
  mmx("movntq", "np 0f e7 /r", "Mq Pq", (c) => {
    clearTop(c);
    c.set(0, c.get(1));
    commitMmx(c);
  }),
  mmx("pmovmskb", "np 0f d7 /r", "Gd Nq", (c) => {
    c.set(0, and(mask(OpFd.i8x16_bitmask, splat64(c.get(1))), 0xff));
    commitMmx(c);
  }),
  mmx("pshufw", "np 0f 70 /r", "Pq Qq Ib", (c) => {
    const value = c.f.let(c.get(1));
    const places = wordPlaces(imm8(c, 2), false);
    setM(c, 0, lane64(swizzle(splat64(value), places), 0));
  }),
  mmx("pinsrw", "np 0f c4 /r", "Pq Ew Ib", (c) => {
    const value = c.f.let(wrap(c.get(1)));
    setM(c, 0, load.i64(CPU, c.slot(0)));
    c.f.store16(CPU, laneSlot(c, 0, { index: and(imm8(c, 2), 3), width: 2 }), value);
  }),
  mmx("pextrw", "np 0f c5 /r", "Gd Nq Ib", (c) => {
    c.set(0, load.i64_16u(CPU, laneSlot(c, 1, { index: and(imm8(c, 2), 3), width: 2 })));
    commitMmx(c);
  }),
  mmx("maskmovq", "np 0f f7 /r di", "Pq Nq", (c) => {
    const selected = fromLow(c.get(1));
    commitMmx(c);
    checkMasked(c, 8);
    maskedStore(c, splat64(c.get(0)), selected);
  }),
  sse("movq2dq", "f3 0f d6 /r", "Vx Nq", (c) => {
    enterMmx(c);
    setZeroing(c, 0, c.get(1));
    commitMmx(c);
  }),
  sse("movdq2q", "f2 0f d6 /r", "Pq Ux", (c) => {
    enterMmx(c);
    setM(c, 0, half(c, 1, 0));
  }),
  mmx("emms", "np 0f 77", "", (c) => {
    commitMmx(c);
    c.setS32(S.fpuEmpty, i32(0xff));
  }),

  insn("prefetchnta", "0f 18 /0 mem", "Mb", nothing),
  insn("prefetcht0", "0f 18 /1 mem", "Mb", nothing),
  insn("prefetcht1", "0f 18 /2 mem", "Mb", nothing),
  insn("prefetcht2", "0f 18 /3 mem", "Mb", nothing),
  insn("prefetchw", "0f 0d /r mem", "Mb", nothing),
  insn("lfence", "np 0f ae /5 reg", "", nothing),
  insn("mfence", "np 0f ae /6 reg", "", (c) => c.fence()),
  insn("sfence", "np 0f ae /7 reg", "", nothing),
  insn("clflush", "np 0f ae /7 mem", "Mb", (c) => c.f.drop(c.load(c.ea(), 1))),
];
