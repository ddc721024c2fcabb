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
  load,
  ltU,
  type ModuleBuilder,
  mul,
  or,
  select,
  shl,
  shrU,
  sub,
  ValType,
} from "../wasm/mod.ts";
import { RowFlag, Special } from "./decode_tables.ts";
import { MAX_INSTRUCTION, RUN, RUN_BYTES } from "./decoder.ts";
import type { MemoryMap, Mmu } from "./mmu/mod.ts";
import {
  CODE_BYTES,
  CodeNotes,
  CPU,
  PAGE_MAP,
  RAM,
  Rec,
  RECORD,
  RUN_LOG,
  RUN_LOG_ENTRIES,
  RUN_LOG_ENTRY,
  S,
} from "./state.ts";
import { decodeOne } from "./fast_insn.ts";
import type { Run } from "./fast_records.ts";

const { I32, I64 } = ValType;

const PAGE = 4096;
const note = (at: number) => load.i32(CPU, i32(0), at);
const setNote = (f: FuncBuilder, at: number, value: Expr) => f.store32(CPU, i32(0), value, at);

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
