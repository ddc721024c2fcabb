/**
 * The slow paths of locked instructions where there are several vCPUs: pages that are not in the TLB or
 * hold decoded code, misaligned operands, devices, 16 bytes.
 *
 * @module
 */

import {
  add,
  and,
  atomicRmw,
  call,
  cond,
  eq,
  type Expr,
  type FuncRef,
  gtU,
  i32,
  i64,
  load,
  type ModuleBuilder,
  ne,
  or,
  select,
  sub,
  ValType,
  wrap,
  xor,
  zeroExtend,
} from "../wasm/mod.ts";
import { Locked, lockedOpcode } from "./cx.ts";
import { type Imports, type MemoryMap, type Mmu, noticeCodeWrite } from "./mmu/mod.ts";
import { Access, CPU, RAM, S } from "./state.ts";

const { I32, I64 } = ValType;
const state32 = (offset: number) => load.i32(CPU, i32(0), offset);
const state64 = (offset: number) => load.i64(CPU, i32(0), offset);

interface Parts {
  readonly mmu: Mmu;
  readonly imports: Imports;
  readonly map: MemoryMap;
}

/**
 * Adds `locked1` to `locked8`: `(linear i64, operand i64, expected i64, kind i32, record i32) -> old i64`,
 * and `locked16`: `(linear i64, record i32)`, CMPXCHG16B at an aligned address with its operands in
 * `S.scratch` (RAX, RDX, RBX, RCX), which leaves the old value there.
 */
export function buildLocked(
  module: ModuleBuilder,
  helpers: Map<string, FuncRef>,
  parts: Parts,
): void {
  for (const size of [1, 2, 4, 8]) helpers.set(`locked${size}`, buildSized(module, parts, size));
  helpers.set("locked16", build16(module, parts));
}

/** What memory becomes. */
function changed(kind: Expr, old: Expr, args: { operand: Expr; expected: Expr }): Expr {
  const { operand, expected } = args;
  const is = (k: Locked) => eq(kind, i32(k));
  let value: Expr = operand;
  value = select(is(Locked.add), add(old, operand), value);
  value = select(is(Locked.sub), sub(old, operand), value);
  value = select(is(Locked.and), and(old, operand), value);
  value = select(is(Locked.or), or(old, operand), value);
  value = select(is(Locked.xor), xor(old, operand), value);
  return select(and(is(Locked.cmpxchg), ne(old, expected)), old, value);
}

function buildSized(module: ModuleBuilder, parts: Parts, size: number): FuncRef {
  const { mmu, imports } = parts;
  const f = module.func([I64, I64, I64, I32, I32], [I64]);
  const [linear, operand, expected] = [f.param(0), f.param(1), f.param(2)];
  const [kind, record] = [f.param(3), f.param(4)];
  const old = f.local(I64);
  f.store32(CPU, i32(0), record, S.record);
  f.if(state32(S.checks), () => f.call(mmu.checked, linear, i32(size), i32(1), record));
  if (size > 1) {
    f.if(ne(and(linear, size - 1), i64(0)), () => {
      f.call(mmu.probeWrite, linear, i32(size), record);
      const ram = f.let(call(mmu.translate, linear, i32(Access.write)));
      const last = f.let(and(add(linear, size - 1), state64(S.linearMask)));
      const crosses = gtU(and(wrap(linear), 4095), i32(4096 - size));
      const next = f.let(cond(
        crosses,
        call(mmu.translate, and(last, ~0xfffn), i32(Access.write)),
        ram,
      ));
      f.if(and(ne(ram, i32(-1)), ne(next, i32(-1))), () => {
        const beyond = cond(crosses, next, i32(-1));
        f.return(
          call(
            imports.splitLock,
            ram,
            beyond,
            i32(size),
            kind,
            operand,
            zeroExtend(expected, size),
          ),
        );
      });
      changeDevice(f);
    });
  }
  const ram = f.let(call(mmu.translate, linear, i32(Access.write)));
  f.if(eq(ram, i32(-1)), () => changeDevice(f));
  for (const k of [0, 1, 2, 3, 4, 5, 6] as Locked[]) {
    const at = { mem: RAM, address: ram };
    const args = k === Locked.cmpxchg ? [zeroExtend(expected, size), operand] : [operand];
    f.if(eq(kind, i32(k)), () => f.set(old, atomicRmw(lockedOpcode(k), size, at, ...args)));
  }
  noticeCodeWrite(f, parts, { ram, size });
  f.return(old);
  f.unreachable();
  return f;

  /** Devices know no locks. */
  function changeDevice(f: ReturnType<ModuleBuilder["func"]>): void {
    const [loader, storer] = [mmu.loadSlow.get(size), mmu.storeSlow.get(size)];
    if (loader === undefined || storer === undefined) throw new TypeError(`no access of ${size}`);
    const value = f.let(call(loader, linear, record));
    f.call(storer, linear, changed(kind, value, { operand, expected }), record);
    f.return(value);
  }
}

function build16(module: ModuleBuilder, parts: Parts): FuncRef {
  const { mmu, imports } = parts;
  const f = module.func([I64, I32]);
  const [linear, record] = [f.param(0), f.param(1)];
  const halves = [linear, f.let(add(linear, 8))];
  f.store32(CPU, i32(0), record, S.record);
  for (const half of halves) {
    f.if(state32(S.checks), () => f.call(mmu.checked, half, i32(8), i32(1), record));
  }
  const ram = f.let(call(mmu.translate, linear, i32(Access.write)));
  f.if(ne(ram, i32(-1)), () => {
    f.call(imports.exchange16, ram);
    noticeCodeWrite(f, parts, { ram, size: 16 });
    f.return();
  });
  const [loader, storer] = [mmu.loadSlow.get(8), mmu.storeSlow.get(8)];
  if (loader === undefined || storer === undefined) throw new TypeError("no access of 8");
  const old = halves.map((half) => f.let(call(loader, half, record)));
  const differs = (i: number) => ne(old[i] as Expr, state64(S.scratch + 8 * i));
  const equal = f.let(eq(or(differs(0), differs(1)), i32(0)));
  halves.forEach((half, i) => {
    const value = select(equal, state64(S.scratch + 16 + 8 * i), old[i] as Expr);
    f.call(storer, half, value, record);
  });
  halves.forEach((_, i) => f.store64(CPU, i32(0), old[i] as Expr, S.scratch + 8 * i));
  return f;
}
