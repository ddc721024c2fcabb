/**
 * Generated helper functions that many handlers call: flags, wide arithmetic, stack of the narrow
 * modes, continuation of control flow.
 *
 * @module
 */

import {
  add,
  and,
  call,
  clz,
  cond,
  divU,
  eq,
  eqz,
  type Expr,
  extU,
  type FuncBuilder,
  type FuncRef,
  geU,
  i32,
  i64,
  load,
  type Local,
  ltS,
  ltU,
  type ModuleBuilder,
  mul,
  ne,
  or,
  remU,
  rotl,
  select,
  shl,
  shrS,
  shrU,
  sub,
  ValType,
  wrap,
  xor,
} from "../wasm/mod.ts";
import { type MemoryMap, type Mmu, noteCodeEntry } from "./mmu/mod.ts";
import {
  Access,
  Check,
  CodeMode,
  CPU,
  Exit,
  FlagKind,
  FuelCost,
  HANDLER_SLOTS,
  ITLB,
  ITLB_ENTRIES,
  PAGE_MAP,
  Rec,
  Reg,
  regOffset,
  S,
  Seg,
  SegAttr,
  SegField,
  segOffset,
  Vector,
  WalkFlag,
} from "./state.ts";

const { I32, I64 } = ValType;
const state64 = (offset: number) => load.i64(CPU, i32(0), offset);
const state32 = (offset: number) => load.i32(CPU, i32(0), offset);

/** Mask of the low 32 bits. */
const LOW = 0xffffffffn;

/**
 * Adds `flagAuxOf(kind, aux, result) -> aux` of kind 0: the carries out of each bit are the majority of
 * both summands and the inverted sum, of `r = a + b` as of `a = r + b`.
 */
function buildFlagAux(module: ModuleBuilder, helpers: Map<string, FuncRef>): FuncRef {
  const f = module.func([I32, I64, I64], [I64]);
  const [kind, b, r] = [f.param(0), f.param(1), f.param(2)];
  f.if(eqz(kind), () => f.return(b));
  const carryIn = f.let(extU(and(kind, FlagKind.carryIn)));
  const isSub = f.let(and(kind, FlagKind.sub));
  const a = f.let(select(isSub, add(add(r, b), carryIn), sub(sub(r, b), carryIn)));
  const [x, sum] = [select(isSub, r, a), select(isSub, a, r)];
  const summand = f.let(x);
  const carries = f.let(or(and(summand, b), and(or(summand, b), xor(sum, i64(-1n)))));
  const shift = extU(and(shrU(kind, FlagKind.shiftAt), 63));
  const aux = f.let(
    or(and(shl(carries, shift), i64(0xc000000000000000n)), and(carries, 8)),
  );
  // Another CF turns the carry into the sign with it, as OF stays.
  const other = ne(shrU(and(kind, FlagKind.carry), 3), wrap(shrU(aux, 63)));
  f.if(
    and(ne(and(kind, FlagKind.keepsCarry), i32(0)), other),
    () => f.set(aux, xor(aux, i64(0xc000000000000000n))),
  );
  f.if(and(kind, FlagKind.keepsBoth), () => {
    const carry = f.let(extU(and(shrU(kind, 3), 1)));
    const overflow = extU(and(shrU(kind, 7), 1));
    f.set(aux, or(and(aux, 8), or(shl(carry, 63), shl(xor(carry, overflow), 62))));
  });
  f.return(aux);
  f.unreachable();
  helpers.set("flagAuxOf", f);

  // For regions, where INC and DEC leave CF to what was there before (FlagKind.step).
  const step = module.func([I32, I64, I64, I32, I64], [I64]);
  {
    const [kind, aux, result] = [step.param(0), step.param(1), step.param(2)];
    step.if(
      eqz(and(kind, FlagKind.step)),
      () => step.returnCall(f, kind, aux, result),
    );
    const before = call(f, step.param(3), aux, step.param(4));
    const carry = shl(wrap(shrU(before, 63)), Math.log2(FlagKind.carry));
    const known = or(and(kind, ~FlagKind.step), FlagKind.keepsCarry);
    step.returnCall(f, or(known, carry), i64(1), result);
    step.unreachable();
  }
  helpers.set("flagAuxOfStep", step);
  return f;
}

/** Adds `flagAuxOf`, `arithFlags`, `setArithFlags`, `mulHighU`, `mulHighS`, `div128U`, `div128S`, `bswap64`. */
export function buildArithmetic(module: ModuleBuilder, helpers: Map<string, FuncRef>): void {
  const auxOf = buildFlagAux(module, helpers);
  const flags = module.func([], [I64]);
  {
    const f = flags;
    const result = f.let(state64(S.flagResult));
    const aux = f.let(call(auxOf, state32(S.flagKind), state64(S.flagAux), result));
    const byte = f.let(xor(wrap(result), shrU(wrap(aux), 8)));
    const nibble = and(xor(byte, shrU(byte, 4)), 15);
    const pf = extU(and(shrU(i32(0x9669), nibble), 1));
    const sf = and(xor(shrU(result, 63), aux), 1);
    const of = shrU(xor(aux, shl(aux, 1)), 63);
    f.return(
      or(
        or(
          or(shrU(aux, 63), shl(pf, 2)),
          or(shl(and(aux, 8), 1), shl(extU(eqz(result)), 6)),
        ),
        or(shl(sf, 7), shl(of, 11)),
      ),
    );
    f.unreachable();
  }
  helpers.set("arithFlags", flags);
  module.exportFunc("arithFlags", flags);

  const setFlags = module.func([I64]);
  {
    const f = setFlags;
    const r = f.param(0);
    const bit = (n: number) => and(shrU(r, n), 1);
    const zf = f.let(bit(6));
    const cf = f.let(bit(0));
    f.store64(CPU, i32(0), xor(zf, 1), S.flagResult);
    f.store64(
      CPU,
      i32(0),
      or(
        or(or(shl(cf, 63), shl(xor(cf, bit(11)), 62)), shl(bit(4), 3)),
        or(bit(7), shl(xor(bit(2), zf), 8)),
      ),
      S.flagAux,
    );
    f.store32(CPU, i32(0), i32(FlagKind.plain), S.flagKind);
  }
  helpers.set("setArithFlags", setFlags);
  module.exportFunc("setArithFlags", setFlags);

  const mulHighU = module.func([I64, I64], [I64]);
  {
    const f = mulHighU;
    const [a, b] = [f.param(0), f.param(1)];
    const a0 = f.let(and(a, LOW));
    const a1 = f.let(shrU(a, 32));
    const b0 = f.let(and(b, LOW));
    const b1 = f.let(shrU(b, 32));
    const mid1 = f.let(add(mul(a1, b0), shrU(mul(a0, b0), 32)));
    const mid2 = f.let(add(mul(a0, b1), and(mid1, LOW)));
    f.return(add(add(mul(a1, b1), shrU(mid1, 32)), shrU(mid2, 32)));
    f.unreachable();
  }
  helpers.set("mulHighU", mulHighU);

  const mulHighS = module.func([I64, I64], [I64]);
  {
    const f = mulHighS;
    const [a, b] = [f.param(0), f.param(1)];
    const high = call(mulHighU, a, b);
    f.return(sub(sub(high, and(shrS(a, 63), b)), and(shrS(b, 63), a)));
    f.unreachable();
  }
  helpers.set("mulHighS", mulHighS);

  const bswap = module.func([I64], [I64]);
  {
    const f = bswap;
    const a = f.local(I64, f.param(0));
    const swap = (mask: bigint, n: number) =>
      f.set(a, or(and(shrU(a, n), mask), shl(and(a, mask), n)));
    swap(0x00ff00ff00ff00ffn, 8);
    swap(0x0000ffff0000ffffn, 16);
    f.return(rotl(a, 32));
    f.unreachable();
  }
  helpers.set("bswap64", bswap);

  buildDivision(module, helpers);
}

/**
 * `div128U(high, low, divisor) -> fits`: quotient at S.scratch, remainder at S.scratch + 8. The divisor
 * is not zero.
 */
function buildDivision(module: ModuleBuilder, helpers: Map<string, FuncRef>): void {
  const divide = module.func([I64, I64, I64], [I32]);
  {
    const f = divide;
    const [high, low, d] = [f.param(0), f.param(1), f.param(2)];
    const put = (q: Expr, r: Expr) => {
      f.store64(CPU, i32(0), q, S.scratch);
      f.store64(CPU, i32(0), r, S.scratch + 8);
    };
    f.if(eqz(high), () => {
      put(divU(low, d), remU(low, d));
      f.return(i32(1));
    });
    f.if(geU(high, d), () => f.return(i32(0)));
    // Knuth's algorithm D with two 32-bit digits (TAOCP vol. 2, 4.3.1).
    const s = f.let(clz(d));
    const v = f.let(shl(d, s));
    const v1 = f.let(shrU(v, 32));
    const v0 = f.let(and(v, LOW));
    const un = f.let(
      or(shl(high, s), select(eqz(s), i64(0), shrU(low, sub(i64(64), s)))),
    );
    const un10 = f.let(shl(low, s));
    const digit = (u: Local, next: Expr): Local => {
      const q = f.local(I64, divU(u, v1));
      const r = f.local(I64, remU(u, v1));
      f.block((done) => {
        f.loop((again) => {
          f.brIf(
            done,
            eqz(or(
              geU(q, i64(0x1_0000_0000)),
              // Both are below 2^32 here, so nothing overflows.
              cond(
                ltU(q, i64(0x1_0000_0000)),
                gtUnsigned(mul(q, v0), or(shl(r, 32), next)),
                i32(1),
              ),
            )),
          );
          f.set(q, sub(q, 1));
          f.set(r, add(r, v1));
          f.brIf(again, ltU(r, i64(0x1_0000_0000)));
        });
      });
      return q;
    };
    const n1 = f.let(shrU(un10, 32));
    const n0 = f.let(and(un10, LOW));
    const q1 = digit(un, n1);
    const un21 = f.let(sub(or(shl(un, 32), n1), mul(q1, v)));
    const q0 = digit(un21, n0);
    const rest = f.let(sub(or(shl(un21, 32), n0), mul(q0, v)));
    put(or(shl(q1, 32), q0), shrU(rest, s));
    f.return(i32(1));
    f.unreachable();
  }
  helpers.set("div128U", divide);

  const divideS = module.func([I64, I64, I64], [I32]);
  {
    const f = divideS;
    const d = f.param(2);
    const high = f.local(I64, f.param(0));
    const low = f.local(I64, f.param(1));
    const negative = f.let(ltS(high, i64(0)));
    f.if(negative, () => {
      f.set(high, sub(xor(high, i64(-1n)), extU(ne(low, i64(0)))));
      // -(h:l) = (~h + carry):(-l), carry where l is zero.
      f.set(high, add(high, 1));
      f.set(low, sub(i64(0), low));
    });
    const flip = f.let(xor(negative, ltS(d, i64(0))));
    const magnitude = select(ltS(d, i64(0)), sub(i64(0), d), d);
    f.if(eqz(call(divide, high, low, magnitude)), () => f.return(i32(0)));
    const q = f.let(state64(S.scratch));
    // |quotient| may be 2^63 only where the result is negative.
    f.if(
      and(ltS(q, i64(0)), or(eqz(flip), ne(q, i64(-(1n << 63n))))),
      () => f.return(i32(0)),
    );
    f.if(flip, () => f.store64(CPU, i32(0), sub(i64(0), q), S.scratch));
    f.if(
      negative,
      () => f.store64(CPU, i32(0), sub(i64(0), state64(S.scratch + 8)), S.scratch + 8),
    );
    f.return(i32(1));
    f.unreachable();
  }
  helpers.set("div128S", divideS);
}

function gtUnsigned(a: Expr, b: Expr): Expr {
  return ltU(b, a);
}

/** Adds `push`, `peek`, `dropStack` for operand sizes 2 and 4 (and 2 in 64-bit mode). */
export function buildStack(
  module: ModuleBuilder,
  helpers: Map<string, FuncRef>,
  memory: {
    loadSlow: ReadonlyMap<number, FuncRef>;
    storeSlow: ReadonlyMap<number, FuncRef>;
    raise: FuncRef;
  },
): void {
  const rsp = () => load.i64(CPU, i32(0), regOffset(Reg.rsp));
  const ss = segOffset(Seg.SS);
  /** Mask of the stack pointer: 64-bit mode all, else by SS.B. */
  const mask = (): Expr =>
    select(
      eq(and(state32(S.codeTag), CodeMode.sizeMask), i32(CodeMode.bits64)),
      i64(-1n),
      select(
        ne(and(state32(ss + SegField.attrs), SegAttr.db), i32(0)),
        i64(0xffffffffn),
        i64(0xffffn),
      ),
    );
  const is64 = () => eq(and(state32(S.codeTag), CodeMode.sizeMask), i32(CodeMode.bits64));
  const linear = (offset: Expr): Expr =>
    and(
      add(select(is64(), i64(0), state64(ss + SegField.base)), offset),
      state64(S.linearMask),
    );

  // Limit check of the stack segment where segments are not flat.
  const check = module.func([I64, I32, I32]);
  {
    const f = check;
    f.if(ne(and(state32(S.codeTag), CodeMode.segmented), i32(0)), () => {
      const last = f.let(add(f.param(0), extU(sub(f.param(1), 1))));
      const limit = extU(state32(ss + SegField.limit));
      const down = ne(and(state32(ss + SegField.attrs), SegAttr.expandDown), i32(0));
      const top = select(
        ne(and(state32(ss + SegField.attrs), SegAttr.db), i32(0)),
        i64(0xffffffffn),
        i64(0xffffn),
      );
      const bad = select(
        down,
        or(leUnsigned(f.param(0), limit), ltU(top, last)),
        ltU(limit, last),
      );
      f.if(bad, () => {
        f.call(memory.raise, i32(Vector.SS), i32(0), i32(1), f.param(2));
        f.unreachable();
      });
    });
  }

  const checkTarget = module.func([I64, I32]);
  {
    const f = checkTarget;
    // 64-bit mode asks only where the target is not canonical.
    const limit = extU(state32(segOffset(Seg.CS) + SegField.limit));
    f.if(or(is64(), ltU(limit, f.param(0))), () => {
      f.call(memory.raise, i32(Vector.GP), i32(0), i32(1), f.param(1));
      f.unreachable();
    });
  }
  helpers.set("checkTarget", checkTarget);

  const push = module.func([I64, I32, I32]);
  {
    const f = push;
    const [value, size, record] = [f.param(0), f.param(1), f.param(2)];
    const m = f.let(mask());
    const old = f.let(rsp());
    const top = f.let(and(sub(old, extU(size)), m));
    f.call(check, top, size, record);
    const at = f.let(linear(top));
    const store = (n: number) => {
      const func = memory.storeSlow.get(n);
      if (func === undefined) throw new TypeError("no store helper");
      f.call(func, at, value, record);
    };
    f.if(eq(size, i32(2)), () => store(2), () => store(4));
    f.store64(CPU, i32(0), merge(old, top, m), regOffset(Reg.rsp));
  }
  helpers.set("push", push);

  const peek = module.func([I32, I32], [I64]);
  {
    const f = peek;
    const top = f.let(and(rsp(), mask()));
    f.call(check, top, f.param(0), f.param(1));
    const at = f.let(linear(top));
    const loadOf = (n: number) => {
      const func = memory.loadSlow.get(n);
      if (func === undefined) throw new TypeError("no load helper");
      return call(func, at, f.param(1));
    };
    f.return(cond(eq(f.param(0), i32(2)), loadOf(2), loadOf(4)));
    f.unreachable();
  }
  helpers.set("peek", peek);

  const drop = module.func([I64]);
  {
    const f = drop;
    const m = f.let(mask());
    const old = f.let(rsp());
    f.store64(CPU, i32(0), merge(old, add(old, f.param(0)), m), regOffset(Reg.rsp));
  }
  helpers.set("dropStack", drop);
}

function leUnsigned(a: Expr, b: Expr): Expr {
  return eqz(ltU(b, a));
}

/** `value` in the bits of `mask`, `old` above; a 32-bit stack pointer clears the upper half. */
function merge(old: Expr, value: Expr, mask: Expr): Expr {
  return or(
    select(eq(mask, i64(0xffffn)), and(old, ~0xffffn), i64(0)),
    and(value, mask),
  );
}

/**
 * Adds `jump(rip) -> exit`, `interpretAt(rip) -> exit` and `branchSlow(record, target) -> exit`.
 * @param parts `handlerType`: type index of handlers.
 */
export function buildControl(
  module: ModuleBuilder,
  helpers: Map<string, FuncRef>,
  parts: { handlerType: number; mmu: Mmu; map: MemoryMap; decodeHere: FuncRef },
): FuncRef {
  const { handlerType, mmu, decodeHere } = parts;
  // The miss path for 64-bit code that is decoded already; anything else is TypeScript's.
  const findCode = module.func([I64], [I32]);
  {
    const f = findCode;
    const linear = f.param(0);
    const tag = f.let(state32(S.codeTag));
    f.if(ne(and(tag, ~CodeMode.user), i32(CodeMode.bits64)), () => f.return(i32(0)));
    const access = or(
      i32(Access.fetch | Access.quiet),
      select(and(tag, CodeMode.user), i32(Access.user), i32(0)),
    );
    const physical = f.let(call(mmu.walk, linear, access));
    f.if(ltS(physical, i64(0)), () => f.return(i32(0)));
    const ram = f.let(call(mmu.ramOffset, physical));
    f.if(eq(ram, i32(-1)), () => f.return(i32(0)));
    const pageMap = f.let(
      load.i32(CPU, add(i32(parts.map.codeIndex), shl(shrU(ram, 12), 2))),
    );
    // Devices write memory without a word to the processor.
    f.if(pageMap, () => {
      f.if(eqz(call(mmu.codeIntact, ram)), () => f.return(i32(0)));
      const entry = f.let(
        add(i32(ITLB), and(wrap(shrU(linear, 12 - 4)), (ITLB_ENTRIES - 1) << 4)),
      );
      f.store64(CPU, entry, or(and(linear, ~0xfffn), extU(tag)));
      f.store32(CPU, entry, pageMap, 8);
      const global = f.let(and(state32(S.walkFlags), WalkFlag.global));
      f.store32(CPU, entry, global, 12);
      f.if(eqz(global), () => noteCodeEntry(f, entry));
    });
    f.return(pageMap);
    f.unreachable();
  }
  helpers.set("findCode", findCode);

  // Whether the page at a linear address is the one that holds that part of a region.
  const holdsPart = module.func([I64, I32], [I32]);
  {
    const f = holdsPart;
    const [linear, part] = [f.param(0), f.param(1)];
    const entry = f.let(
      add(i32(ITLB), and(wrap(shrU(linear, 12 - 4)), (ITLB_ENTRIES - 1) << 4)),
    );
    const pageMap = f.let(
      cond(
        eq(or(and(linear, ~0xfffn), extU(state32(S.codeTag))), load.i64(CPU, entry)),
        load.i32(CPU, entry, 8),
        call(findCode, linear),
      ),
    );
    f.if(eqz(pageMap), () => f.return(i32(0)));
    const number = add(shrU(sub(pageMap, i32(parts.map.maps)), Math.log2(PAGE_MAP)), 1);
    f.return(eq(load.i32_16u(CPU, add(i32(parts.map.regionParts), part)), number));
    f.unreachable();
  }
  helpers.set("holdsPart", holdsPart);

  const pay = (f: FuncBuilder): Local => {
    const fuel = f.let(sub(state32(S.fuel), FuelCost.jump));
    f.store32(CPU, i32(0), fuel, S.fuel);
    return fuel;
  };
  const goOn = (f: FuncBuilder, handlerOf: (record: Local) => Expr) => {
    const rip = f.param(0);
    const linear = f.let(
      and(
        add(rip, state64(segOffset(Seg.CS) + SegField.base)),
        state64(S.linearMask),
      ),
    );
    const entry = f.let(
      add(i32(ITLB), and(wrap(shrU(linear, 12 - 4)), (ITLB_ENTRIES - 1) << 4)),
    );
    const offset = f.let(wrap(and(linear, 4095)));
    const pageMap = f.let(
      cond(
        eq(
          or(and(linear, ~0xfffn), extU(state32(S.codeTag))),
          load.i64(CPU, entry),
        ),
        load.i32(CPU, entry, 8),
        call(findCode, linear),
      ),
    );
    f.if(pageMap, () => {
      const record = f.let(load.i32(CPU, add(pageMap, shl(offset, 2))));
      f.ifUnlikely(eqz(record), () => f.set(record, call(decodeHere, pageMap, offset)));
      f.store32(CPU, i32(0), pageMap, S.pageMap);
      f.store64(CPU, i32(0), sub(rip, extU(offset)), S.ripBase);
      f.if(record, () => f.returnCallIndirect(handlerType, handlerOf(record), record));
    });
    f.store64(CPU, i32(0), rip, S.rip);
    f.return(i32(Exit.Lookup));
    f.unreachable();
  };
  const jump = module.func([I64], [I32]);
  jump.if(ltS(pay(jump), i32(0)), () => {
    jump.store64(CPU, i32(0), jump.param(0), S.rip);
    jump.return(i32(Exit.Fuel));
  });
  goOn(jump, (record) => load.i32_16u(CPU, record, Rec.handler));

  // The same, but where a region stands in the place of the instruction, not by that; and without a stop, as
  // the region would ask for it again.
  const interpretAt = module.func([I64], [I32]);
  pay(interpretAt);
  goOn(interpretAt, (record) => {
    const handler = interpretAt.let(load.i32_16u(CPU, record, Rec.handler));
    const own = add(i32(parts.map.ownHandlers), shrU(sub(record, i32(parts.map.arena)), 4));
    return cond(geU(handler, i32(HANDLER_SLOTS)), load.i32_16u(CPU, own), handler);
  });
  helpers.set("interpretAt", interpretAt);

  const branchSlow = module.func([I32, I64], [I32]);
  {
    const f = branchSlow;
    const [record, target] = [f.param(0), f.param(1)];
    const offset = f.let(sub(target, state64(S.ripBase)));
    f.if(ltU(offset, i64(4096)), () => {
      const found = f.let(
        load.i32(CPU, add(state32(S.pageMap), shl(wrap(offset), 2))),
      );
      f.store32(CPU, record, found, Rec.link);
    });
    f.returnCall(jump, target);
  }
  helpers.set("branchSlow", branchSlow);

  // What stands for `jump` where regions are compared with the interpreter: leaves in a comparison.
  const jumpOut = module.func([I64], [I32]);
  {
    const f = jumpOut;
    f.if(and(state32(S.checks), Check.log), () => {
      f.store64(CPU, i32(0), f.param(0), S.rip);
      f.return(i32(Exit.Fuel));
    });
    f.returnCall(jump, f.param(0));
  }
  helpers.set("jumpOut", jumpOut);
  return jump;
}
