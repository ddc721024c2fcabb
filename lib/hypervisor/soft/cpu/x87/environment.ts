/**
 * The x87 environment in memory: FLDENV, FNSTENV, FNSAVE, FRSTOR (Intel SDM vol. 1, 8.1.10). The
 * protected-mode layouts of 32 and 16 bits; pointers of real mode are stored as there.
 *
 * @module
 */

import {
  add,
  and,
  call,
  cond,
  eq,
  eqz,
  type Expr,
  extU,
  i32,
  i64,
  load,
  type Local,
  ltU,
  type ModuleBuilder,
  or,
  select,
  shl,
  shrU,
  ValType,
  wrap,
} from "../../wasm/mod.ts";
import type { Cx, Runtime } from "../cx.ts";
import type { Insn } from "../opcode.ts";
import { CPU, S } from "../state.ts";
import { controlWord, noWait, resetX87, x87 } from "./access.ts";
import { stAddress } from "./helpers.ts";
import { cell32 } from "./softfloat.ts";

const { I32 } = ValType;

/** Adds `x87.tagWord`, `() -> i32`: two bits a register: valid, zero, special, empty. */
export function registerEnvironment(module: ModuleBuilder, runtime: Runtime): void {
  const f = module.func([], [I32]);
  const word = f.local(I32, i32(0));
  const n = f.local(I32, i32(7));
  f.loop((again) => {
    const at = shl(n, 4);
    const exp = f.let(and(load.i32_16u(CPU, at, S.fpu + 8), 0x7fff));
    const sig = f.let(load.i64(CPU, at, S.fpu));
    const special = cond(
      eqz(exp),
      select(eqz(sig), i32(1), i32(2)),
      cond(
        or(eq(exp, i32(0x7fff)), eqz(wrap(shrU(sig, 63)))),
        i32(2),
        i32(0),
      ),
    );
    const tag = cond(and(shrU(cell32(S.fpuEmpty), n), 1), i32(3), special);
    f.set(word, or(shl(word, 2), tag));
    f.set(n, add(n, -1));
    f.brIf(again, eqz(shrU(n, 31)));
  });
  f.return(word);
  f.unreachable();
  runtime.helpers.set("x87.tagWord", f);

  // (word i32): which registers are empty.
  const set = module.func([I32]);
  const empty = set.local(I32, i32(0));
  const i = set.local(I32, i32(0));
  set.loop((again) => {
    const tag = and(shrU(set.param(0), shl(i, 1)), 3);
    set.set(empty, or(empty, shl(eq(tag, i32(3)), i)));
    set.set(i, add(i, 1));
    set.brIf(again, ltU(i, i32(8)));
  });
  set.store32(CPU, i32(0), empty, S.fpuEmpty);
  runtime.helpers.set("x87.setTagWord", set);
}

const ones = (value: Expr) => or(extU(value), i64(0xffff_0000));

/** The words of the environment, as they are stored in 4 or 2 bytes each. */
function words(c: Cx): Expr[] {
  const selectors = c.s32(S.fpuSelectors);
  const status = [
    ones(c.s32(S.fpuCw)),
    ones(c.s32(S.fpuSw)),
    ones(call(c.helper("x87.tagWord"))),
  ];
  const code = and(selectors, 0xffff);
  const data = shrU(selectors, 16);
  return c.size === 2 ? [...status, c.s64(S.fpuIp), extU(code), c.s64(S.fpuDp), extU(data)] : [
    ...status,
    c.s64(S.fpuIp),
    extU(or(code, shl(c.s32(S.fpuOpcode), 16))),
    c.s64(S.fpuDp),
    ones(data),
  ];
}

const widthOf = (c: Cx) => c.size === 2 ? 2 : 4;

/** Address `offset` bytes into the memory operand. */
function at(c: Cx, offset: number): Local {
  return c.f.let(add(c.ea(), offset));
}

function storeEnvironment(c: Cx): void {
  const width = widthOf(c);
  words(c).forEach((word, i) => c.store(at(c, width * i), word, width));
}

function loadEnvironment(c: Cx): void {
  const f = c.f;
  const width = widthOf(c);
  const word = Array.from({ length: 7 }, (_, i) => c.load(at(c, width * i), width));
  const [cw, sw, tags, ip, code, dp, data] = word as [
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
    Local,
  ];
  c.setS32(S.fpuCw, controlWord(wrap(cw)));
  c.setS32(S.fpuSw, and(wrap(sw), 0xffff));
  f.call(c.helper("x87.setTagWord"), wrap(tags));
  c.setS64(S.fpuIp, ip);
  c.setS64(S.fpuDp, dp);
  const opcode = width === 4 ? and(wrap(shrU(code, 16)), 0x7ff) : i32(0);
  c.setS32(S.fpuOpcode, opcode);
  c.setS32(S.fpuSelectors, or(and(wrap(code), 0xffff), shl(wrap(data), 16)));
  f.call(c.helper("x87Summary"));
}

/** Bytes of the environment, and with the registers. */
const sizes = (c: Cx) => ({ environment: 7 * widthOf(c), all: 7 * widthOf(c) + 80 });

/** Checks writing: the first word, then the last byte. */
function probe(c: Cx, bytes: number): void {
  c.probeWrite(c.ea(), widthOf(c));
  c.probeWrite(at(c, bytes - 1), 1);
}

/** Checks reading in the same order. */
function probeRead(c: Cx, bytes: number): void {
  c.f.drop(c.load(c.ea(), widthOf(c)));
  c.f.drop(c.load(at(c, bytes - 1), 1));
}

/** Rows of the environment. */
export const environmentRows: readonly Insn[] = [
  x87("fldenv", "d9 /4 mem sz", "Mb", (c) => {
    probeRead(c, sizes(c).environment);
    loadEnvironment(c);
  }),
  noWait("fnstenv", "d9 /6 mem sz", "Mb", (c) => {
    probe(c, sizes(c).environment);
    storeEnvironment(c);
    c.setS32(S.fpuCw, or(c.s32(S.fpuCw), 0x3f));
    c.f.call(c.helper("x87Summary"));
  }),
  noWait("fnsave", "dd /6 mem sz", "Mb", (c) => {
    const { environment, all } = sizes(c);
    probe(c, all);
    storeEnvironment(c);
    for (let i = 0; i < 8; i++) {
      const place = environment + 10 * i;
      c.store(at(c, place), load.i64(CPU, stAddress(i32(i))), 8);
      c.store(at(c, place + 8), load.i64_16u(CPU, stAddress(i32(i)), 8), 2);
    }
    resetX87(c);
  }),
  x87("frstor", "dd /4 mem sz", "Mb", (c) => {
    const { environment, all } = sizes(c);
    probeRead(c, all);
    const values = Array.from({ length: 8 }, (_, i) => ({
      sig: c.load(at(c, environment + 10 * i), 8),
      se: c.load(at(c, environment + 10 * i + 8), 2),
    }));
    loadEnvironment(c);
    values.forEach(({ sig, se }, i) => {
      const address = c.f.let(stAddress(i32(i)));
      c.f.store64(CPU, address, sig);
      c.f.store32(CPU, address, wrap(se), 8);
    });
  }),
];
