/**
 * Arithmetic and comparing x87 instructions (Intel SDM vol. 2).
 *
 * @module
 */

import {
  and,
  call,
  type Expr,
  extU,
  i32,
  i64,
  type Local,
  or,
  select,
  shrU,
  signExtend,
} from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import type { Insn } from "../opcode.ts";
import { S } from "../state.ts";
import { Sw, x87 } from "./access.ts";
import { isEmpty, MEMORY, OPERAND } from "./helpers.ts";

/**
 * Notes where the instruction lies and that it begins without exceptions. After everything that can
 * fault.
 */
export function begin(c: Cx, address?: Local): void {
  c.setS64(S.fpuIp, c.rip());
  const opcode = (c.insn.opcode & 7) << 8;
  const mark = address === undefined ? 0 : 1 << 31;
  c.setS32(S.fpOpcode, or(c.extra(), opcode | mark));
  if (address !== undefined) c.setS64(S.fpDp, address);
  c.setS32(S.fpFlags, i32(0));
}

/** Number of ST(i) in the rm field. */
export function sti(c: Cx): Expr {
  return and(c.extra(), 7);
}

/** How a memory operand is made a number. */
export type Kind = "single" | "double" | "word" | "dword" | "qword";

/** The memory operand as a number at {@link OPERAND}; with `arithmetic` exceptions wait for the use. */
export function loadOperand(c: Cx, kind: Kind, arithmetic: boolean): void {
  const f = c.f;
  const value = f.let(c.get(0));
  begin(c, c.ea());
  const flag = i32(arithmetic ? 1 : 0);
  const sig = f.let(
    kind === "single"
      ? call(c.helper("x87.fromSingle"), value, flag)
      : kind === "double"
      ? call(c.helper("x87.fromDouble"), value, flag)
      : call(
        c.helper("x87.fromInteger"),
        kind === "word" ? signExtend(value, 2) : kind === "dword" ? signExtend(value, 4) : value,
      ),
  );
  c.setS64(OPERAND, sig);
  c.setS32(OPERAND + 8, c.s32(S.fpExponent));
}

interface Operation {
  readonly mnemonic: string;
  readonly helper: string;
  readonly reverse: number;
}

/** By the reg field of D8; of DC and DE with registers, the reverse forms change places. */
const operations: readonly (Operation | undefined)[] = [
  { mnemonic: "add", helper: "x87.add", reverse: 0 },
  { mnemonic: "mul", helper: "x87.mul", reverse: 0 },
  undefined,
  undefined,
  { mnemonic: "sub", helper: "x87.sub", reverse: 0 },
  { mnemonic: "subr", helper: "x87.sub", reverse: 1 },
  { mnemonic: "div", helper: "x87.div", reverse: 0 },
  { mnemonic: "divr", helper: "x87.div", reverse: 1 },
];

const memoryForms: readonly (readonly [opcode: string, operand: string, kind: Kind])[] = [
  ["d8", "Md", "single"],
  ["dc", "Mq", "double"],
  ["da", "Md", "dword"],
  ["de", "Mw", "word"],
];

function arithmeticRows(): Insn[] {
  return operations.flatMap((operation, digit) => {
    if (operation === undefined) return [];
    const { mnemonic, helper, reverse } = operation;
    // In DC and DE "sub" of the same digit subtracts the other way round.
    const swapped = digit < 4 ? digit : digit ^ 1;
    const other = operations[swapped]?.mnemonic ?? mnemonic;
    const from = reverse ^ (digit < 4 ? 0 : 1);
    return [
      ...memoryForms.map(([opcode, operand, kind]) =>
        x87(
          `${opcode === "da" || opcode === "de" ? "fi" : "f"}${mnemonic}`,
          `${opcode} /${digit} mem`,
          operand,
          (c) => {
            loadOperand(c, kind, true);
            c.f.call(c.helper(helper), i32(0), i32(MEMORY), i32(reverse), i32(0));
          },
        )
      ),
      x87(`f${mnemonic}`, `d8 /${digit} reg`, "", (c) => {
        begin(c);
        c.f.call(c.helper(helper), i32(0), sti(c), i32(reverse), i32(0));
      }),
      x87(`f${other}`, `dc /${digit} reg`, "", (c) => {
        begin(c);
        c.f.call(c.helper(helper), sti(c), i32(0), i32(digit < 4 ? 0 : from), i32(0));
      }),
      x87(`f${other}p`, `de /${digit} reg`, "", (c) => {
        begin(c);
        c.f.call(c.helper(helper), sti(c), i32(0), i32(digit < 4 ? 0 : from), i32(1));
      }),
    ];
  });
}

/** Compares with the operand of number `source` and sets the condition codes. */
function compare(c: Cx, source: Expr, how: { quiet?: boolean; pops?: number }): void {
  const codes = call(
    c.helper("x87.compare"),
    source,
    i32(how.quiet === true ? 1 : 0),
    i32(how.pops ?? 0),
  );
  c.f.call(c.helper("x87.setCodes"), codes);
}

function compareRegister(
  mnemonic: string,
  encoding: string,
  how: { quiet?: boolean; pops?: number },
): Insn {
  return x87(mnemonic, encoding, "", (c) => {
    begin(c);
    compare(c, sti(c), how);
  });
}

function compareFlags(
  mnemonic: string,
  encoding: string,
  how: { quiet: boolean; pops: number },
): Insn {
  return x87(mnemonic, encoding, "", (c) => {
    begin(c);
    const fault = or(isEmpty(i32(0)), isEmpty(sti(c)));
    const before = c.f.let(select(fault, i32(0), and(c.s32(S.fpuSw), Sw.c1)));
    const codes = c.f.let(
      call(c.helper("x87.compare"), sti(c), i32(how.quiet ? 1 : 0), i32(how.pops)),
    );
    // C1 stays where the stack is in order.
    c.setS32(S.fpuSw, or(c.s32(S.fpuSw), before));
    // C3, C2 and C0 lie as ZF, PF and CF do, 8 bits higher.
    c.setArithFlags(extU(shrU(codes, 8)));
  });
}

function compareRows(): Insn[] {
  return [
    ...memoryForms.flatMap(([opcode, operand, kind]) =>
      [2, 3].map((digit) => {
        const name = opcode === "da" || opcode === "de" ? "ficom" : "fcom";
        const pops = digit === 3 ? 1 : 0;
        return x87(`${name}${pops === 1 ? "p" : ""}`, `${opcode} /${digit} mem`, operand, (c) => {
          loadOperand(c, kind, true);
          compare(c, i32(MEMORY), { pops });
        });
      })
    ),
    compareRegister("fcom", "d8 /2 reg", {}),
    compareRegister("fcomp", "d8 /3 reg", { pops: 1 }),
    // Aliases of the same instructions.
    compareRegister("fcom", "dc /2 reg", {}),
    compareRegister("fcomp", "dc /3 reg", { pops: 1 }),
    compareRegister("fcomp", "de /2 reg", { pops: 1 }),
    compareRegister("fcompp", "de /3 reg rm1", { pops: 2 }),
    compareRegister("fucom", "dd /4 reg", { quiet: true }),
    compareRegister("fucomp", "dd /5 reg", { quiet: true, pops: 1 }),
    compareRegister("fucompp", "da /5 reg rm1", { quiet: true, pops: 2 }),
    compareFlags("fucomi", "db /5 reg", { quiet: true, pops: 0 }),
    compareFlags("fcomi", "db /6 reg", { quiet: false, pops: 0 }),
    compareFlags("fucomip", "df /5 reg", { quiet: true, pops: 1 }),
    compareFlags("fcomip", "df /6 reg", { quiet: false, pops: 1 }),
    x87("ftst", "d9 /4 reg rm4", "", (c) => {
      begin(c);
      c.setS64(OPERAND, i64(0));
      c.setS32(OPERAND + 8, i32(0));
      compare(c, i32(MEMORY), {});
    }),
  ];
}

/** A row of a helper function without arguments. */
function plain(mnemonic: string, encoding: string, helper: string): Insn {
  return x87(mnemonic, encoding, "", (c) => {
    begin(c);
    c.f.call(c.helper(helper));
  });
}

/** Rows of arithmetic and comparison. */
export const arithmeticX87Rows: readonly Insn[] = [
  ...arithmeticRows(),
  ...compareRows(),
  plain("fsqrt", "d9 /7 reg rm2", "x87.sqrt"),
  plain("frndint", "d9 /7 reg rm4", "x87.rint"),
  plain("fscale", "d9 /7 reg rm5", "x87.scale"),
  plain("fprem", "d9 /7 reg rm0", "x87.rem"),
  plain("fprem1", "d9 /6 reg rm5", "x87.rem1"),
  plain("fxtract", "d9 /6 reg rm4", "x87.extract"),
  x87("fchs", "d9 /4 reg rm0", "", (c) => {
    begin(c);
    c.f.call(c.helper("x87.sign"), i32(0xffff), i32(0x8000));
  }),
  x87("fabs", "d9 /4 reg rm1", "", (c) => {
    begin(c);
    c.f.call(c.helper("x87.sign"), i32(0x7fff), i32(0));
  }),
  plain("fxam", "d9 /4 reg rm5", "x87.examine"),
];
