/**
 * Checksums of decoded code.
 *
 * @module
 */

import {
  add,
  and,
  call,
  ctz,
  eq,
  eqz,
  type Expr,
  type FuncRef,
  i32,
  load,
  type ModuleBuilder,
  OpFd,
  rotl,
  shl,
  shrU,
  simd,
  sub,
  v,
  v128,
  ValType,
  wrap,
  xor,
} from "../../wasm/mod.ts";
import { CPU, RAM } from "../state.ts";
import type { MemoryMap } from "./parts.ts";

const { I32, I64 } = ValType;

/**
 * Checksum of a RAM page's decoded lines, so that code which a device wrote over is found when its page
 * is entered again; exported as `sealCode(ram)`, which keeps it, and `codeIntact(ram) -> i32`.
 */
export function buildCodeSum(
  module: ModuleBuilder,
  map: MemoryMap,
): { seal: FuncRef; codeIntact: FuncRef } {
  const sum = module.func([I32], [I64]);
  {
    const f = sum;
    const page = f.let(and(f.param(0), ~0xfff));
    const marks = f.local(
      I64,
      load.i64(CPU, add(i32(map.codeMarks), shl(shrU(page, 12), 3))),
    );
    // Odd factors: what changes in one lane of one line never cancels out.
    const lanes = (n: number) => {
      const bytes = new Uint8Array(16);
      new Uint32Array(bytes.buffer).fill(n);
      return v128(bytes);
    };
    const factors = [0x9e3779b1, 0x85ebca77, 0xc2b2ae3d, 0x27d4eb2f];
    const acc = f.local(ValType.V128, lanes(0));
    f.block((done) => {
      f.loop((next) => {
        f.brIf(done, eqz(marks));
        const line = f.let(add(page, shl(wrap(ctz(marks)), 6)));
        const [a, b, c, d] = factors.map((factor, i) =>
          v(OpFd.i32x4_mul, load.v128(RAM, line, 16 * i), lanes(factor))
        ) as [Expr, Expr, Expr, Expr];
        const sum = v(OpFd.v128_xor, v(OpFd.v128_xor, a, b), v(OpFd.v128_xor, c, d));
        f.set(acc, v(OpFd.i32x4_mul, v(OpFd.v128_xor, acc, sum), lanes(0x165667b1)));
        f.set(marks, and(marks, sub(marks, 1)));
        f.br(next);
      });
    });
    const half = (lane: number) => simd(I64, OpFd.i64x2_extract_lane, [acc], [lane]);
    f.return(xor(half(0), rotl(half(1), 17)));
    f.unreachable();
  }
  const slot = (ram: Expr) => add(i32(map.codeSums), shl(shrU(ram, 12), 3));
  const seal = module.func([I32]);
  seal.store64(CPU, slot(seal.param(0)), call(sum, seal.param(0)));
  module.exportFunc("sealCode", seal);
  const intact = module.func([I32], [I32]);
  intact.return(eq(call(sum, intact.param(0)), load.i64(CPU, slot(intact.param(0)))));
  intact.unreachable();
  module.exportFunc("codeIntact", intact);
  return { seal, codeIntact: intact };
}
