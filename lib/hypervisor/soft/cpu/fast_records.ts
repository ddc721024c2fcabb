/**
 * The records of an instruction in the generated decoder, as {@link RecordWriter} writes them.
 *
 * @module
 */

import {
  add,
  and,
  eqz,
  type FuncBuilder,
  i32,
  load,
  type Local,
  ltS,
  ltU,
  ne,
  or,
  select,
  shl,
  shrU,
  ValType,
} from "../wasm/mod.ts";
import { Prefix, Row, RowFlag, Special } from "./decode_tables.ts";
import { CPU, Rec, RECORD, S, STACK_ADDRESS } from "./state.ts";

const { I32 } = ValType;

const PAGE = 4096;
const note = (at: number) => load.i32(CPU, i32(0), at);

/** What the decoding of a run goes by. */
export interface Run {
  readonly map: Local;
  /** Where the next record goes. */
  readonly record: Local;
  /** Page offset of the instruction. */
  readonly at: Local;
  /** Page offset of the byte that is next. */
  readonly p: Local;
}

/** What the bytes of an instruction came to. */
export interface Decoded {
  readonly run: Run;
  readonly row: Local;
  readonly flags: Local;
  readonly prefixes: Local;
  /** State offset of the segment that a prefix says: FS, GS or 0. */
  readonly segment: Local;
  readonly lock: Local;
  readonly size: Local;
  readonly mem: Local;
  readonly base: Local;
  readonly index: Local;
  readonly scale: Local;
  readonly disp: Local;
  readonly ripRelative: Local;
  readonly onStack: Local;
  readonly a: Local;
  readonly b: Local;
  readonly low: Local;
  readonly high: Local;
  readonly extra: Local;
  readonly seg: Local;
}

/** Writes the records of an instruction, and moves `run.record` behind them. */
export function writeRecords(f: FuncBuilder, d: Decoded): void {
  const { run, flags, mem, base, index, scale, disp, low, high } = d;
  const { record, at } = run;
  const next = run.p;
  const has = (flag: number) => and(flags, flag);
  const offsets = () => or(at, shl(next, 16));
  const isNarrow = () => ne(and(d.prefixes, Prefix.addressSize), i32(0));
  const isLea = () => ne(has(RowFlag.lea), i32(0));
  // Masked moves store at DS:rDI, which is no operand.
  f.if(or(mem, has(RowFlag.di)), () => {
    // The bits of `wide` ask for an address that is computed apart: with a segment base, from an
    // absolute address, or with a displacement of more than 32 bits.
    const isSegmented = () => and(ne(d.segment, i32(0)), eqz(isLea()));
    const wide = f.let(or(isSegmented(), ne(has(RowFlag.absolute), i32(0))));
    const more = f.local(I32, i32(0));
    f.if(d.ripRelative, () => {
      f.set(base, i32(S.ripBase));
      const sum = f.let(add(disp, next));
      // `next` is positive, so a sum that is less went over.
      f.if(or(or(wide, isNarrow()), ltS(sum, disp)), () => {
        f.set(more, next);
        f.set(wide, i32(1));
      }, () => f.set(disp, sum));
    });
    f.if(or(wide, isNarrow()), () => {
      f.store32(
        CPU,
        record,
        select(isNarrow(), note(Special.addressMasked), note(Special.addressWide)),
      );
      f.store32(CPU, record, offsets(), Rec.off);
      f.store32(CPU, record, i32(S.zero | (S.zero << 16)), Rec.a);
      f.store32(CPU, record, or(base, shl(index, 16)), Rec.base);
      const seg = select(isSegmented(), d.segment, i32(S.zero));
      f.store32(CPU, record, or(or(seg, shl(scale, 16)), shl(isNarrow(), 24)), Rec.seg);
      f.store32(CPU, record, disp, Rec.disp);
      const isAbsolute = () => has(RowFlag.absolute);
      f.store32(CPU, record, select(isAbsolute(), low, more), Rec.imm);
      f.store32(CPU, record, select(isAbsolute(), high, i32(0)), Rec.imm + 4);
      f.set(base, i32(S.tempEa));
      f.set(index, i32(S.zero));
      f.set(scale, i32(0));
      f.set(disp, i32(0));
      f.set(record, add(record, RECORD));
    });
  }, () => f.set(d.onStack, ne(has(RowFlag.stack), i32(0))));

  const isLocked = or(d.lock, and(mem, ne(has(RowFlag.xchg), i32(0))));
  // The slots lie behind each other in the row.
  const slotAt = add(d.row, shl(add(mem, isLocked), 1));
  const slot = f.let(load.i32_16u(CPU, slotAt, Row.slotRegister));
  f.if(has(RowFlag.sized), () => f.set(slot, add(slot, shrU(d.size, 2))));
  f.if(has(RowFlag.branch), () => {
    f.set(high, i32(0));
    const target = f.let(add(next, low));
    f.if(
      ltU(target, i32(PAGE)),
      () => f.set(high, load.i32(CPU, add(run.map, shl(target, 2)))),
    );
  });
  const stack = shl(d.onStack, Math.log2(STACK_ADDRESS));
  f.store32(CPU, record, slot);
  f.store32(CPU, record, offsets(), Rec.off);
  f.store32(CPU, record, or(d.a, shl(d.b, 16)), Rec.a);
  f.store32(CPU, record, or(base, shl(index, 16)), Rec.base);
  f.store32(
    CPU,
    record,
    or(or(d.seg, shl(or(scale, stack), 16)), shl(d.extra, 24)),
    Rec.seg,
  );
  f.store32(CPU, record, disp, Rec.disp);
  f.store32(CPU, record, low, Rec.imm);
  f.store32(CPU, record, high, Rec.link);
  f.set(record, add(record, RECORD));
}
