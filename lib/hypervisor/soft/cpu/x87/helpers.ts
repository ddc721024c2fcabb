/**
 * Functions of the module that x87 handlers share.
 *
 * @module
 */

import {
  and,
  eqz,
  i32,
  load,
  type ModuleBuilder,
  or,
  select,
  ValType,
  xor,
} from "../../wasm/mod.ts";
import type { Runtime } from "../cx.ts";
import { CPU, S, Vector } from "../state.ts";
import { Sw } from "./access.ts";

/** Adds the functions; before any handler is emitted. */
export function registerX87Helpers(module: ModuleBuilder, runtime: Runtime): void {
  const s32 = (offset: number) => load.i32(CPU, i32(0), offset);

  // Sets or clears the summary of unmasked exceptions.
  const summary = module.func([]);
  const pending = and(and(s32(S.fpuSw), xor(s32(S.fpuCw), -1)), 0x3f);
  const clear = and(s32(S.fpuSw), ~(Sw.summary | Sw.busy));
  summary.store32(
    CPU,
    i32(0),
    or(clear, select(eqz(pending), i32(0), i32(Sw.summary | Sw.busy))),
    S.fpuSw,
  );
  runtime.helpers.set("x87Summary", summary);

  const raisePending = module.func([ValType.I32]);
  raisePending.call(runtime.raise, i32(Vector.MF), i32(0), i32(0), raisePending.param(0));
  raisePending.unreachable();
  runtime.helpers.set("x87Pending", raisePending);
}
