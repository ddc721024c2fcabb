/**
 * The decoder in generated code: runs of 64-bit instructions of one page become records, as
 * {@link CodeCache.decode} makes them, which stays what it is held against and does all else:
 * instructions across pages, other modes.
 *
 * @module
 */

import {
  add,
  and,
  call,
  eq,
  eqz,
  type Expr,
  extU,
  type FuncBuilder,
  type FuncRef,
  geU,
  gtU,
  i32,
  i64,
  type Label,
  load,
  type Local,
  ltS,
  ltU,
  type ModuleBuilder,
  mul,
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
import { MAX_INSTRUCTION, RUN, RUN_BYTES } from "./decoder.ts";
import type { MemoryMap, Mmu } from "./mmu/mod.ts";
import { Extra } from "./opcode.ts";
import {
  CODE_BYTES,
  CodeNotes,
  CPU,
  PAGE_MAP,
  RAM,
  Rec,
  RECORD,
  Reg,
  regOffset,
  RUN_LOG,
  RUN_LOG_ENTRIES,
  RUN_LOG_ENTRY,
  S,
  Seg,
  SEG_SIZE,
  segOffset,
  STACK_ADDRESS,
} from "./state.ts";

const { I32, I64 } = ValType;

const PAGE = 4096;
const FS = segOffset(Seg.FS);

const note = (at: number) => load.i32(CPU, i32(0), at);
const setNote = (f: FuncBuilder, at: number, value: Expr) => f.store32(CPU, i32(0), value, at);

/** What the decoding of a run goes by. */
interface Run {
  readonly map: Local;
  /** Where the next record goes. */
  readonly record: Local;
  /** Page offset of the instruction. */
  readonly at: Local;
  /** Page offset of the byte that is next. */
  readonly p: Local;
}

/** Where decoding leaves to. */
interface Exits {
  /** Bytes up to `p` are asked for, which is too far. */
  readonly short: Label;
  /** The instruction is not one: `handler` says what takes its place. */
  readonly bad: Label;
}

/**
 * Adds `decodeRun(map i32, ram i32, offset i32) -> i32`, exported: makes records from `offset` of the
 * page at `ram` on, whose page map has none there; 1 where the first instruction reaches into the next
 * page. Gives `decodeHere(map i32, offset i32) -> record i32`, for generated code: 0 where TypeScript is
 * to do it.
 */
export function buildDecode(module: ModuleBuilder, parts: { mmu: Mmu; map: MemoryMap }): FuncRef {
  const { mmu, map } = parts;
  const run = buildRun(module, parts);
  module.exportFunc("decodeRun", run);
  module.nameFunc(run, "decodeRun");
  module.optimize(run);

  const here = module.func([I32, I32], [I32]);
  {
    const f = here;
    const [pageMap, offset] = [f.param(0), f.param(1)];
    const index = shrU(sub(pageMap, i32(map.maps)), Math.log2(PAGE_MAP));
    const ram = f.let(load.i32(CPU, shl(index, 2), map.mapPages));
    const isBusy = or(
      gtU(note(CodeNotes.arenaTop), note(CodeNotes.arenaLimit)),
      geU(note(CodeNotes.runs), i32(RUN_LOG_ENTRIES)),
    );
    f.if(or(eq(ram, i32(NOT_HERE)), isBusy), () => f.return(i32(0)));
    // Devices write memory without a word to the processor; a new checksum would hide it.
    f.if(eqz(call(mmu.codeIntact, ram)), () => f.return(i32(0)));
    f.if(call(run, pageMap, ram, offset), () => f.return(i32(0)));
    f.return(load.i32(CPU, add(pageMap, shl(offset, 2))));
    f.unreachable();
  }
  module.nameFunc(here, "decodeHere");
  return here;
}

/** In place of a page's offset in RAM: its code is decoded by TypeScript. */
export const NOT_HERE = -1;

function buildRun(module: ModuleBuilder, parts: { mmu: Mmu; map: MemoryMap }): FuncBuilder {
  const { mmu, map } = parts;
  const f = module.func([I32, I32, I32], [I32]);
  const [pageMap, ram, offset] = [f.param(0), f.param(1), f.param(2)];
  const start = f.let(note(CodeNotes.arenaTop));
  const run: Run = {
    map: pageMap,
    record: f.local(I32, start),
    at: f.local(I32, offset),
    p: f.local(I32),
  };
  const { record, at, p } = run;
  const count = f.local(I32, i32(0));
  const lines = f.local(I64, i64(0));
  const link = f.local(I32);
  const handler = f.local(I32);
  const mapped = () => add(pageMap, shl(at, 2));
  /** Marks the lines from the instruction's up to that of `last`. */
  const mark = (last: Expr) => {
    const line = (n: number, of: Expr) => shl(i64(n), extU(shrU(of, 6)));
    f.set(lines, or(lines, sub(line(2, last), line(1, at))));
  };
  const special = (slot: Expr, to: Expr) => {
    f.store32(CPU, record, slot);
    f.store32(CPU, record, or(at, shl(at, 16)), Rec.off);
    f.store32(CPU, record, i32(S.zero | (S.zero << 16)), Rec.a);
    f.store32(CPU, record, i32(S.zero | (S.zero << 16)), Rec.base);
    f.store32(CPU, record, i32(S.zero), Rec.seg);
    f.store32(CPU, record, i32(0), Rec.disp);
    f.store32(CPU, record, i32(0), Rec.imm);
    f.store32(CPU, record, to, Rec.link);
    f.set(record, add(record, RECORD));
  };

  // Others may write meanwhile: what was looked at once stays.
  const behind = sub(i32(PAGE), offset);
  f.memoryCopy(
    CPU,
    RAM,
    add(offset, CODE_BYTES),
    add(ram, offset),
    select(ltU(behind, i32(RUN_BYTES)), behind, i32(RUN_BYTES)),
  );
  f.block((done) => {
    f.block((stop) => {
      f.loop((next) => {
        f.set(link, i32(0));
        f.brIf(stop, or(geU(at, i32(PAGE)), eq(count, i32(RUN))));
        f.set(link, load.i32(CPU, mapped()));
        f.brIf(stop, link);
        f.block((bad) => {
          f.block((short) => {
            const first = f.local(I32, record);
            const flags = decodeOne(f, { run, handler, exits: { short, bad } });
            f.store32(CPU, mapped(), first);
            mark(sub(p, 1));
            f.set(count, add(count, 1));
            f.set(at, p);
            f.brIf(next, eqz(and(flags, RowFlag.end)));
            f.br(done);
          });
          f.if(gtU(sub(p, at), i32(MAX_INSTRUCTION)), () => {
            f.set(handler, note(Special.tooLong));
            f.br(bad);
          });
          f.if(eqz(count), () => f.return(i32(1)));
          f.br(stop);
        });
        f.store32(CPU, mapped(), record);
        // What an invalid instruction's bytes were decides too.
        const last = add(at, 15);
        mark(select(ltU(last, i32(PAGE - 1)), last, i32(PAGE - 1)));
        f.set(count, add(count, 1));
        special(handler, i32(0));
        f.br(done);
      });
    });
    special(note(Special.goTo), link);
  });

  setNote(f, CodeNotes.arenaTop, record);
  setNote(f, CodeNotes.decoded, add(note(CodeNotes.decoded), count));
  const runs = f.let(note(CodeNotes.runs));
  const entry = f.let(add(mul(runs, RUN_LOG_ENTRY), RUN_LOG));
  f.store32(CPU, entry, pageMap);
  f.store32(CPU, entry, start, 4);
  f.store32(CPU, entry, record, 8);
  setNote(f, CodeNotes.runs, add(runs, 1));
  const marks = f.let(add(i32(map.codeMarks), shl(shrU(ram, 12), 3)));
  const before = f.let(load.i64(CPU, marks));
  f.store64(CPU, marks, or(before, lines));
  f.if(eqz(before), () => f.call(mmu.protect, ram));
  f.call(mmu.seal, ram);
  f.return(i32(0));
  f.unreachable();
  return f;
}

/** Decodes the instruction at `run.at` and writes its records; leaves `run.p` behind it. Gives its flags. */
function decodeOne(f: FuncBuilder, parts: { run: Run; handler: Local; exits: Exits }): Local {
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

/** What the bytes of an instruction came to. */
interface Decoded {
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

function writeRecords(f: FuncBuilder, d: Decoded): void {
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
