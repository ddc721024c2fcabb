/**
 * One instruction in the generated decoder: prefixes, opcode, ModRM, immediates.
 *
 * @module
 */

import {
  add,
  and,
  eq,
  eqz,
  type Expr,
  type FuncBuilder,
  geU,
  gtU,
  i32,
  type Label,
  load,
  type Local,
  ltS,
  ne,
  or,
  select,
  shl,
  shrS,
  shrU,
  sub,
  ValType,
} from "../wasm/mod.ts";
import {
  From,
  GROUP_MODRM,
  GROUPS,
  Key,
  KEY_PREFIXES,
  Prefix,
  PREFIXES,
  ROW,
  Row,
  RowFlag,
  Special,
} from "./decode_tables.ts";
import { MAX_INSTRUCTION } from "./decoder.ts";
import { Extra } from "./opcode.ts";
import { CODE_BYTES, CPU, Reg, regOffset, S, Seg, SEG_SIZE, segOffset } from "./state.ts";
import { type Run, writeRecords } from "./fast_records.ts";

const { I32 } = ValType;

const PAGE = 4096;
const FS = segOffset(Seg.FS);
const note = (at: number) => load.i32(CPU, i32(0), at);

/** Where decoding leaves to. */
interface Exits {
  /** Bytes up to `p` are asked for, which is too far. */
  readonly short: Label;
  /** The instruction is not one: `handler` says what takes its place. */
  readonly bad: Label;
}

/** Decodes the instruction at `run.at` and writes its records; leaves `run.p` behind it. Gives its flags. */
export function decodeOne(
  f: FuncBuilder,
  parts: { run: Run; handler: Local; exits: Exits },
): Local {
  const { run, handler, exits } = parts;
  const { at, p } = run;
  const u8 = () => load.i32_8u(CPU, p, CODE_BYTES);
  /** Leaves where fewer than `n` bytes follow. */
  const need = (n: Expr) => {
    f.ifUnlikely(gtU(add(p, n), i32(PAGE)), () => {
      f.set(p, add(p, n));
      f.br(exits.short);
    });
  };
  const take = (to: Local) => {
    f.brIfUnlikely(exits.short, geU(p, i32(PAGE)));
    f.set(to, u8());
    f.set(p, add(p, 1));
  };
  const bad = (slot: number) => {
    f.set(handler, note(slot));
    f.br(exits.bad);
  };

  // Prefixes.
  const byte = f.local(I32);
  const prefixes = f.local(I32, i32(0));
  const rex = f.local(I32, i32(0));
  const segment = f.local(I32, i32(0));
  f.set(p, at);
  f.block((opcode) => {
    f.loop((next) => {
      f.ifUnlikely(geU(sub(p, at), i32(MAX_INSTRUCTION)), () => bad(Special.tooLong));
      take(byte);
      const kind = f.let(load.i32_8u(CPU, byte, PREFIXES));
      f.brIf(opcode, eqz(kind));
      f.if(eq(kind, i32(Prefix.rex)), () => {
        f.set(rex, byte);
        f.br(next);
      });
      // A REX that is not right before the opcode has no effect.
      f.set(rex, i32(0));
      f.if(geU(kind, i32(Prefix.fs)), () => {
        f.set(segment, add(i32(FS), shl(and(kind, 1), Math.log2(SEG_SIZE))));
        f.br(next);
      });
      const reps = Prefix.rep | Prefix.repne;
      f.if(and(kind, reps), () => f.set(prefixes, and(prefixes, ~reps)));
      f.set(prefixes, or(prefixes, kind));
      f.br(next);
    });
  });

  // Opcode, and the row that fits.
  const group = f.local(I32, byte);
  f.if(eq(byte, i32(0x0f)), () => {
    take(byte);
    f.set(group, add(byte, 256));
    f.if(eq(and(byte, ~2), i32(0x38)), () => {
      f.set(group, select(eq(byte, i32(0x38)), i32(512), i32(768)));
      take(byte);
      f.set(group, add(group, byte));
    });
  });
  const row = f.let(load.i32(CPU, shl(group, 2), GROUPS));
  f.ifUnlikely(eqz(row), () => bad(Special.invalid));
  const modrm = f.local(I32, i32(0));
  f.if(ltS(row, i32(0)), () => {
    take(modrm);
    f.set(row, and(row, ~GROUP_MODRM));
  });
  const rexB = () => and(rex, 1);
  const key = f.let(
    or(
      or(modrm, shl(and(prefixes, KEY_PREFIXES), 8)),
      or(
        or(shl(and(rex, 8), Math.log2(Key.rexW / 8)), shl(rexB(), Math.log2(Key.rexB))),
        shl(geU(modrm, i32(0xc0)), Math.log2(Key.register)),
      ),
    ),
  );
  const flags = f.local(I32);
  f.block((found) => {
    f.loop((next) => {
      const asked = f.let(load.i32(CPU, row));
      f.set(flags, load.i32(CPU, row, Row.flags));
      f.brIf(found, eq(and(key, and(asked, 0xffff)), shrU(asked, 16)));
      f.if(and(flags, RowFlag.last), () => bad(Special.invalid));
      f.set(row, add(row, ROW));
      f.br(next);
    });
  });
  const has = (flag: number) => and(flags, flag);
  const size = f.let(
    select(
      or(has(RowFlag.f64), and(rex, 8)),
      i32(8),
      select(
        has(RowFlag.mandatory66),
        i32(4),
        select(
          and(prefixes, Prefix.opsize),
          i32(2),
          select(has(RowFlag.d64), i32(8), i32(4)),
        ),
      ),
    ),
  );

  // Memory operand.
  const mem = f.local(I32, i32(0));
  const base = f.local(I32, i32(S.zero));
  const index = f.local(I32, i32(S.zero));
  const scale = f.local(I32, i32(0));
  const disp = f.local(I32, i32(0));
  const ripRelative = f.local(I32, i32(0));
  const onStack = f.local(I32, i32(0));
  const isNarrow = () => and(prefixes, Prefix.addressSize);
  f.if(and(ne(has(RowFlag.memory), i32(0)), eqz(and(key, Key.register))), () => {
    f.set(mem, i32(1));
    const number = f.let(and(modrm, 7));
    const mod = f.let(shrU(modrm, 6));
    const hasBase = f.local(I32, i32(1));
    const none = () => and(eq(number, i32(5)), eqz(mod));
    f.if(eq(number, i32(4)), () => {
      const sib = f.local(I32);
      take(sib);
      f.set(number, and(sib, 7));
      const indexNumber = f.let(or(and(shrU(sib, 3), 7), shl(and(rex, 2), 2)));
      f.if(ne(indexNumber, i32(4)), () => {
        f.set(index, shl(indexNumber, 3));
        f.set(scale, shrU(sib, 6));
      });
      f.if(none(), () => f.set(hasBase, i32(0)));
    }, () => {
      f.if(none(), () => {
        f.set(hasBase, i32(0));
        f.set(ripRelative, i32(1));
      });
    });
    f.if(hasBase, () => {
      const wide = f.let(or(number, shl(rexB(), 3)));
      f.set(base, shl(wide, 3));
      f.set(onStack, eq(and(wide, ~1), i32(Reg.rsp)));
    });
    f.if(eq(mod, i32(1)), () => {
      need(i32(1));
      f.set(disp, load.i32_8s(CPU, p, CODE_BYTES));
      f.set(p, add(p, 1));
    }, () => {
      f.if(or(mod, eqz(hasBase)), () => {
        need(i32(4));
        f.set(disp, load.i32(CPU, p, CODE_BYTES));
        f.set(p, add(p, 4));
      });
    });
  });

  // Registers.
  const old = (n: Local, isByte: number) =>
    and(and(shrU(flags, Math.log2(isByte)), eqz(rex)), and(shrU(n, 2), 1));
  const a = f.local(I32, load.i32_16u(CPU, row, Row.a));
  f.if(has(RowFlag.aFromMask), () => {
    const from = f.let(has(RowFlag.aFromMask));
    const n = f.local(I32, and(shrU(modrm, 3), 7));
    f.if(eq(from, i32(From.reg)), () => f.set(n, or(n, shl(and(rex, 4), 1))), () => {
      f.if(
        eq(from, i32(From.opcode)),
        () => f.set(n, or(and(byte, 7), shl(rexB(), 3))),
      );
    });
    f.if(has(RowFlag.segment), () => {
      const isCs = and(eq(n, i32(Seg.CS)), ne(has(RowFlag.notCs), i32(0)));
      f.if(or(gtU(n, i32(Seg.GS)), isCs), () => bad(Special.invalid));
    });
    f.set(a, add(a, shl(n, and(shrU(flags, RowFlag.aShiftAt), 7))));
    // AH is byte 1 of what number 0 is.
    f.if(old(n, RowFlag.aByte), () => f.set(a, sub(a, 4 * 8 - 1)));
  });
  const b = f.local(I32, load.i32_16u(CPU, row, Row.b));
  const fromRm = f.let(has(RowFlag.bReg | RowFlag.bRegLow));
  f.if(fromRm, () => {
    f.if(mem, () => f.set(b, i32(S.zero)), () => {
      const n = f.local(I32, and(modrm, 7));
      f.if(has(RowFlag.bReg), () => f.set(n, or(n, shl(rexB(), 3))));
      const shift = add(i32(3), and(shrU(flags, Math.log2(RowFlag.bWide)), 1));
      f.set(b, add(b, shl(n, shift)));
      f.if(old(n, RowFlag.bByte), () => f.set(b, sub(b, 4 * 8 - 1)));
    });
  });

  // Immediates.
  const low = f.local(I32, i32(0));
  const high = f.local(I32, i32(0));
  const lengths = f.let(load.i32_16u(CPU, row, Row.immediates));
  f.if(lengths, () => {
    // Those for sizes 2, 4, 8 are at bits 0, 4, 8.
    const n = f.let(and(shrU(lengths, and(size, 12)), 15));
    need(n);
    f.if(eq(n, i32(1)), () => f.set(low, load.i32_8s(CPU, p, CODE_BYTES)), () => {
      f.if(
        eq(n, i32(2)),
        () => f.set(low, load.i32_16s(CPU, p, CODE_BYTES)),
        () => f.set(low, load.i32(CPU, p, CODE_BYTES)),
      );
    });
    f.set(high, shrS(low, 31));
    f.if(eq(n, i32(8)), () => f.set(high, load.i32(CPU, p, CODE_BYTES + 4)));
    f.set(p, add(p, n));
    const second = f.let(shrU(lengths, 12));
    f.if(second, () => {
      need(second);
      f.set(low, or(and(low, 0xffff), shl(u8(), 16)));
      f.set(high, i32(0));
      f.set(p, add(p, second));
    });
  });
  f.if(has(RowFlag.absolute), () => {
    const bytes = f.let(select(isNarrow(), i32(4), i32(8)));
    need(bytes);
    f.set(mem, i32(1));
    f.set(low, load.i32(CPU, p, CODE_BYTES));
    f.set(high, i32(0));
    f.if(eqz(isNarrow()), () => f.set(high, load.i32(CPU, p, CODE_BYTES + 4)));
    f.set(p, add(p, bytes));
  });
  f.ifUnlikely(gtU(sub(p, at), i32(MAX_INSTRUCTION)), () => bad(Special.tooLong));
  const lock = f.let(ne(and(prefixes, Prefix.lock), i32(0)));
  f.if(lock, () => {
    f.if(eqz(and(mem, ne(has(RowFlag.lock), i32(0)))), () => bad(Special.invalid));
  });

  // Strings.
  const extra = f.local(I32, modrm);
  const seg = f.local(I32, i32(S.zero));
  f.if(has(RowFlag.az), () => {
    const isRepne = and(
      ne(and(prefixes, Prefix.repne), i32(0)),
      ne(has(RowFlag.comparing), i32(0)),
    );
    const isRep = ne(and(prefixes, Prefix.rep | Prefix.repne), i32(0));
    const rep = select(isRepne, i32(Extra.repne), isRep);
    f.set(extra, or(ne(isNarrow(), i32(0)), shl(rep, Extra.repShift)));
    f.if(segment, () => f.set(seg, segment));
  });
  f.if(has(RowFlag.stack), () => f.set(seg, i32(segOffset(Seg.SS))));
  f.if(has(RowFlag.di), () => f.set(base, i32(regOffset(Reg.rdi))));
  f.if(has(RowFlag.pop), () => {
    f.if(and(mem, eq(base, i32(regOffset(Reg.rsp)))), () => f.set(disp, add(disp, size)));
  });
  f.if(segment, () => f.set(onStack, i32(0)));

  writeRecords(f, {
    ...{ run, row, flags, prefixes, segment, lock, size, mem, base, index, scale, disp },
    ...{ ripRelative, onStack, a, b, low, high, extra, seg },
  });
  return flags;
}
