/**
 * Loads, stores and moves of the x87 (Intel SDM vol. 2).
 *
 * @module
 */

import {
  add,
  call,
  cond,
  eqz,
  type Expr,
  extU,
  i32,
  i64,
  load,
  or,
  ValType,
  wrap,
  xor,
} from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import type { Insn } from "../opcode.ts";
import { CPU, S } from "../state.ts";
import { x87 } from "./access.ts";
import { begin, type Kind, loadOperand, sti } from "./arithmetic.ts";
import { isEmpty, OPERAND, stAddress } from "./helpers.ts";
import { Fp } from "./softfloat.ts";
import { NAN_EXPONENT, NAN_SIGNIFICAND } from "./values.ts";

const { I64 } = ValType;

function pushOperand(c: Cx): void {
  c.f.call(c.helper("x87.push"), c.s32(OPERAND + 8), c.s64(OPERAND));
}

function loadNumber(kind: Kind): (c: Cx) => void {
  return (c) => {
    loadOperand(c, kind, false);
    pushOperand(c);
  };
}

/** What is stored of ST(0), and what where it is empty. */
interface Store {
  /** i64 of the value; exceptions in `fpFlags`. */
  value(c: Cx): Expr;
  readonly empty: bigint;
}

const stores: Readonly<Record<string, Store>> = {
  single: {
    value: (c) => call(c.helper("x87.toSingle"), stAddress(i32(0))),
    empty: 0xffc0_0000n,
  },
  double: {
    value: (c) => call(c.helper("x87.toDouble"), stAddress(i32(0))),
    empty: 0xfff8_0000_0000_0000n,
  },
};

function integerStore(bits: number, mode: number): Store {
  return {
    value: (c) => call(c.helper("x87.toInteger"), stAddress(i32(0)), i32(bits), i32(mode)),
    empty: 1n << BigInt(bits - 1),
  };
}

/** Stores ST(0); nothing is changed where an exception that is not masked keeps it from that. */
function storeNumber(
  store: Store,
  how: { pop: boolean; write?: (c: Cx, value: Expr) => void },
): (c: Cx) => void {
  return (c) => {
    const f = c.f;
    const address = c.ea();
    const value = f.local(I64, i64(store.empty));
    c.setS32(S.fpFlags, i32(0));
    f.if(
      isEmpty(i32(0)),
      () => c.setS32(S.fpFlags, i32(Fp.invalid | Fp.stack)),
      () => f.set(value, store.value(c)),
    );
    const refused = f.let(call(c.helper("x87.storeRefused")));
    const flags = f.let(c.s32(S.fpFlags));
    // The store may fault, and then nothing has happened.
    c.setS32(S.fpFlags, i32(0));
    f.if(eqz(refused), () => {
      if (how.write === undefined) c.set(0, value);
      else how.write(c, value);
    });
    begin(c, address);
    c.setS32(S.fpFlags, flags);
    f.drop(call(c.helper("x87.commit")));
    if (how.pop) {
      f.if(eqz(refused), () => f.call(c.helper("x87.pop")));
    }
  };
}

/** Stores 10 bytes: `low`, then the low half of i32 `high`. Where that faults, `low` is stored. */
export function storeTen(c: Cx, low: Expr, high: Expr): void {
  const f = c.f;
  const address = c.ea();
  c.store(address, low, 8);
  c.store(f.let(add(address, 8)), extU(high), 2);
}

const loadExtended = (c: Cx) => {
  const f = c.f;
  const low = c.load(c.ea(), 8);
  const high = c.load(f.let(add(c.ea(), 8)), 2);
  begin(c, c.ea());
  f.call(c.helper("x87.push"), wrap(high), low);
};

const storeExtended = (c: Cx) => {
  const store: Store = {
    value: () => load.i64(CPU, stAddress(i32(0))),
    empty: NAN_SIGNIFICAND,
  };
  storeNumber(store, {
    pop: true,
    write: (c, value) => {
      const high = cond(
        isEmpty(i32(0)),
        i32(NAN_EXPONENT),
        load.i32_16u(CPU, stAddress(i32(0)), 8),
      );
      storeTen(c, value, c.f.let(high));
    },
  })(c);
};

const loadBcd = (c: Cx) => {
  const f = c.f;
  const low = c.load(c.ea(), 8);
  const high = c.load(f.let(add(c.ea(), 8)), 2);
  begin(c, c.ea());
  f.call(c.helper("x87.fromBcd"), low, wrap(high));
  pushOperand(c);
};

const storeBcd = (c: Cx) => {
  const store: Store = {
    value: (c) => call(c.helper("x87.toBcd")),
    empty: 0xc000_0000_0000_0000n,
  };
  storeNumber(store, {
    pop: true,
    write: (c, value) => {
      const high = cond(isEmpty(i32(0)), i32(0xffff), c.s32(S.fpExponent));
      storeTen(c, value, c.f.let(high));
    },
  })(c);
};

function storeRow(
  mnemonic: string,
  encoding: string,
  how: { operand: string; store: Store | undefined; pop: boolean },
): Insn {
  const { operand, store, pop } = how;
  if (store === undefined) throw new TypeError(`${mnemonic}: unknown format`);
  return x87(mnemonic, encoding, operand, storeNumber(store, { pop }));
}

const TRUNCATE = 3;
const AS_SET = 4;

function integerRows(
  size: { operand: string; bits: number },
  at: { load: string; truncate: string; store?: string; pop: string; kind: Kind },
): Insn[] {
  const { operand, bits } = size;
  const plain = integerStore(bits, AS_SET);
  return [
    x87("fild", at.load, operand, loadNumber(at.kind)),
    storeRow("fisttp", at.truncate, { operand, store: integerStore(bits, TRUNCATE), pop: true }),
    ...(at.store === undefined
      ? []
      : [storeRow("fist", at.store, { operand, store: plain, pop: false })]),
    storeRow("fistp", at.pop, { operand, store: plain, pop: true }),
  ];
}

/** FCMOVcc by opcode and digit: which flags, and whether they are to be clear. */
const conditions: readonly (readonly [string, (c: Cx) => Expr])[] = [
  ["b", (c) => wrap(c.cf())],
  ["e", (c) => c.zf()],
  ["be", (c) => or(wrap(c.cf()), c.zf())],
  ["u", (c) => wrap(c.pf())],
];

function conditionalRows(): Insn[] {
  return conditions.flatMap(([name, condition], digit) => [
    x87(`fcmov${name}`, `da /${digit} reg`, "", (c) => {
      begin(c);
      c.f.call(c.helper("x87.conditional"), sti(c), condition(c));
    }),
    x87(`fcmovn${name}`, `db /${digit} reg`, "", (c) => {
      begin(c);
      c.f.call(c.helper("x87.conditional"), sti(c), xor(condition(c), 1));
    }),
  ]);
}

function exchange(encoding: string): Insn {
  return x87("fxch", encoding, "", (c) => {
    begin(c);
    c.f.call(c.helper("x87.exchange"), sti(c));
  });
}

function storeRegister(mnemonic: string, encoding: string, pops: number): Insn {
  return x87(mnemonic, encoding, "", (c) => {
    begin(c);
    c.f.call(c.helper("x87.storeRegister"), sti(c), i32(pops));
  });
}

const constantNames = ["fld1", "fldl2t", "fldl2e", "fldpi", "fldlg2", "fldln2", "fldz"];

/** Rows of loads, stores and moves. */
export const dataRows: readonly Insn[] = [
  x87("fld", "d9 /0 mem", "Md", loadNumber("single")),
  x87("fld", "dd /0 mem", "Mq", loadNumber("double")),
  x87("fld", "db /5 mem", "Mt", loadExtended),
  x87("fld", "d9 /0 reg", "", (c) => {
    begin(c);
    c.f.call(c.helper("x87.duplicate"), sti(c));
  }),
  storeRow("fst", "d9 /2 mem", { operand: "Md", store: stores["single"], pop: false }),
  storeRow("fstp", "d9 /3 mem", { operand: "Md", store: stores["single"], pop: true }),
  storeRow("fst", "dd /2 mem", { operand: "Mq", store: stores["double"], pop: false }),
  storeRow("fstp", "dd /3 mem", { operand: "Mq", store: stores["double"], pop: true }),
  x87("fstp", "db /7 mem", "Mt", storeExtended),
  storeRegister("fst", "dd /2 reg", 0),
  storeRegister("fstp", "dd /3 reg", 1),
  // Aliases of the same instructions.
  storeRegister("fstp", "df /2 reg", 1),
  storeRegister("fstp", "df /3 reg", 1),
  ...integerRows({ operand: "Mw", bits: 16 }, {
    load: "df /0 mem",
    truncate: "df /1 mem",
    store: "df /2 mem",
    pop: "df /3 mem",
    kind: "word",
  }),
  ...integerRows({ operand: "Md", bits: 32 }, {
    load: "db /0 mem",
    truncate: "db /1 mem",
    store: "db /2 mem",
    pop: "db /3 mem",
    kind: "dword",
  }),
  ...integerRows({ operand: "Mq", bits: 64 }, {
    load: "df /5 mem",
    truncate: "dd /1 mem",
    pop: "df /7 mem",
    kind: "qword",
  }),
  x87("fbld", "df /4 mem", "Mt", loadBcd),
  x87("fbstp", "df /6 mem", "Mt", storeBcd),
  exchange("d9 /1 reg"),
  exchange("dd /1 reg"),
  exchange("df /1 reg"),
  ...conditionalRows(),
  x87("ffree", "dd /0 reg", "", (c) => {
    begin(c);
    c.f.call(c.helper("x87.free"), sti(c), i32(0));
  }),
  x87("ffreep", "df /0 reg", "", (c) => {
    begin(c);
    c.f.call(c.helper("x87.free"), sti(c), i32(1));
  }),
  x87("fdecstp", "d9 /6 reg rm6", "", (c) => {
    begin(c);
    c.f.call(c.helper("x87.moveTop"), i32(-1));
  }),
  x87("fincstp", "d9 /6 reg rm7", "", (c) => {
    begin(c);
    c.f.call(c.helper("x87.moveTop"), i32(1));
  }),
  x87("fnop", "d9 /2 reg rm0", "", (c) => begin(c)),
  ...constantNames.map((name, i) =>
    x87(name, `d9 /5 reg rm${i}`, "", (c) => {
      begin(c);
      c.f.call(c.helper("x87.constant"), i32(i));
    })
  ),
];
