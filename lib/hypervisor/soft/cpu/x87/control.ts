/**
 * Control instructions of the x87 (Intel SDM vol. 1, 8.1 and vol. 2).
 *
 * @module
 */

import { and, eq, extU, i32, wrap } from "../../wasm/mod.ts";
import { type Insn, insn } from "../opcode.ts";
import { S } from "../state.ts";
import { controlWord, noWait, resetX87, Sw, x87 } from "./access.ts";

const CR0_MP_TS = 0xa;

/** Rows of the control instructions. */
export const controlRows: readonly Insn[] = [
  noWait("fninit", "db /4 reg rm3", "", resetX87),
  noWait("fnclex", "db /4 reg rm2", "", (c) => c.setS32(S.fpuSw, and(c.s32(S.fpuSw), 0x7f00))),
  noWait("fneni", "db /4 reg rm0", "", () => {}),
  noWait("fndisi", "db /4 reg rm1", "", () => {}),
  noWait("fnsetpm", "db /4 reg rm4", "", () => {}),
  x87("fldcw", "d9 /5 mem", "Mw", (c) => {
    c.setS32(S.fpuCw, controlWord(wrap(c.get(0))));
    c.f.call(c.helper("x87Summary"));
  }),
  noWait("fnstcw", "d9 /7 mem", "Mw", (c) => c.set(0, extU(c.s32(S.fpuCw)))),
  noWait("fnstsw", "dd /7 mem", "Mw", (c) => c.set(0, extU(c.s32(S.fpuSw)))),
  noWait("fnstsw", "df /4 reg rm0", "Aw", (c) => c.set(0, extU(c.s32(S.fpuSw)))),
  insn("fwait", "9b", "", (c) => {
    const trap = () => c.trap("x87Trap");
    c.f.if(
      and(c.s32(S.fpuTrap), 1),
      () => c.f.if(eq(and(c.s32(S.cr0), CR0_MP_TS), i32(CR0_MP_TS)), trap),
    );
    c.f.if(and(c.s32(S.fpuSw), Sw.summary), () => c.trap("x87Pending"));
  }),
];
