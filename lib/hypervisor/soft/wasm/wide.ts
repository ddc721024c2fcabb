/**
 * Whether the runtime has WebAssembly's wide arithmetic (a proposal that V8 has behind a flag, which the
 * executable sets).
 *
 * @module
 */

import { ValType } from "./types.ts";
import { ModuleBuilder } from "./module.ts";

/** True where a function may hold `i64.mul_wide_s` and `i64.mul_wide_u`. */
export const hasWideArithmetic: boolean = (() => {
  const module = new ModuleBuilder();
  const f = module.func([ValType.I64, ValType.I64], [ValType.I64]);
  f.return(f.mulWide(false, f.param(0), f.param(1)).high);
  f.unreachable();
  return WebAssembly.validate(module.finish());
})();
