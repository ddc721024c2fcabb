/**
 * Functions of the module that SIMD handlers share.
 *
 * @module
 */

import {
  add,
  and,
  ctz,
  eqz,
  extU,
  type FuncBuilder,
  i32,
  load,
  type ModuleBuilder,
  or,
  sub,
  ValType,
} from "../../wasm/mod.ts";
import type { Runtime } from "../cx.ts";
import { CPU, S, Vector } from "../state.ts";
import { stringHelpers } from "./strings.ts";

const { I32, I64, V128 } = ValType;

const CR0_EM = 1 << 2;
const CR0_TS = 1 << 3;
const CR4_OSFXSR = 1 << 9;

function s32(offset: number) {
  return load.i32(CPU, i32(0), offset);
}

/** Adds the functions; before any handler is emitted. */
export function registerSimdHelpers(module: ModuleBuilder, runtime: Runtime): void {
  const helpers = new Map<string, FuncBuilder>();
  const raise = (f: FuncBuilder, vector: number) => {
    f.call(runtime.raise, i32(vector), i32(0), i32(0), f.param(0));
    f.unreachable();
  };
  // Each is called where S.fpuTrap (or a pending exception) says that something is to be raised.
  const sseTrap = module.func([I32]);
  sseTrap.if(
    or(and(s32(S.cr0), CR0_EM), eqz(and(s32(S.cr4), CR4_OSFXSR))),
    () => raise(sseTrap, Vector.UD),
  );
  raise(sseTrap, Vector.NM);
  helpers.set("sseTrap", sseTrap);

  const mmxTrap = module.func([I32]);
  mmxTrap.if(and(s32(S.cr0), CR0_EM), () => raise(mmxTrap, Vector.UD));
  mmxTrap.if(and(s32(S.cr0), CR0_TS), () => raise(mmxTrap, Vector.NM));
  raise(mmxTrap, Vector.MF);
  helpers.set("mmxTrap", mmxTrap);

  const x87Trap = module.func([I32]);
  x87Trap.if(and(s32(S.cr0), CR0_EM | CR0_TS), () => raise(x87Trap, Vector.NM));
  raise(x87Trap, Vector.MF);
  helpers.set("x87Trap", x87Trap);

  helpers.set("maskedStore", maskedStore(module, runtime));
  stringHelpers(module, helpers);
  for (const [name, helper] of helpers) runtime.helpers.set(name, helper);
}

/**
 * `(address i64, value v128, bits i32, record)`: stores the bytes of `value` whose bit is set. The
 * caller has checked the memory.
 */
function maskedStore(module: ModuleBuilder, runtime: Runtime): FuncBuilder {
  const f = module.func([I64, V128, I32, I32]);
  const [address, value, bits, record] = [f.param(0), f.param(1), f.param(2), f.param(3)];
  const storeByte = runtime.storeSlow.get(1);
  if (storeByte === undefined) throw new TypeError("no helper for stores of a byte");
  const left = f.local(I32);
  const place = f.local(I32);
  const each = (body: () => void) => {
    f.set(left, bits);
    f.block((done) => {
      f.loop((again) => {
        f.brIf(done, eqz(left));
        f.set(place, ctz(left));
        body();
        f.set(left, and(left, sub(left, 1)));
        f.br(again);
      });
    });
  };
  const at = () => add(address, extU(place));
  each(() => {
    // The store may use the scratch area.
    f.storeV128(CPU, i32(0), value, S.scratch);
    f.call(storeByte, at(), load.i64_8u(CPU, place, S.scratch), record);
  });
  return f;
}
