/**
 * The software TLB as generated code: how it is filled, looked at, write-protected and emptied.
 *
 * @module
 */

import {
  add,
  and,
  call,
  cond,
  eq,
  eqz,
  type Expr,
  extU,
  type FuncBuilder,
  type FuncRef,
  gtU,
  i32,
  i64,
  leU,
  load,
  ltU,
  ModuleBuilder,
  ne,
  or,
  select,
  shl,
  shrU,
  sub,
  ValType,
  wrap,
} from "../../wasm/mod.ts";
import {
  Access,
  CPU,
  Flag,
  ITLB,
  ITLB_END,
  ITLB_ENTRIES,
  ITLB_ENTRY,
  S,
  TLB_CHECKED,
  TLB_ENTRIES,
  TLB_ENTRY,
  TLB_SUPER,
  TLB_SUPER_AC,
  TLB_TABLE,
  TLB_USER,
  TlbField,
  TlbNotes,
  WalkFlag,
} from "../state.ts";
import { codeMarksOf, type MemoryMap, set32, set64, state32, state64 } from "./parts.ts";
import { rangeOf } from "./walk.ts";

const { I32, I64 } = ValType;

/** In place of a TLB entry's number: there may be more than one. */
const MANY = 0xffff;

/**
 * Gives `entry` of a TLB its tag for writes: linear `page` where that is `writable` and holds no decoded
 * code, which is written through the slow path.
 */
export function enterWritable(
  f: FuncBuilder,
  map: MemoryMap,
  at: { entry: Expr; page: Expr; ram: Expr; writable: Expr },
): void {
  const marks = codeMarksOf(map, at.ram);
  const tag = f.let(select(and(eqz(marks), at.writable), at.page, i64(-1n)));
  f.store64(CPU, at.entry, tag, TlbField.write);
  f.if(ne(tag, i64(-1n)), () => noteWriter(f, map, at));
  if (map.shared === undefined) return;
  // Who decodes code sets the mark first and then takes tags away, so one of the two sees the other.
  f.fence();
  f.if(ne(marks, i64(0)), () => f.store64(CPU, at.entry, i64(-1n), TlbField.write));
}

/** Notes that `entry` of a TLB has a tag for writes to the page of `ram`, for {@link buildProtect}. */
function noteWriter(f: FuncBuilder, map: MemoryMap, at: { entry: Expr; ram: Expr }): void {
  const slot = f.let(shl(shrU(at.ram, 12), 1));
  const known = f.let(load.i32_16u(CPU, slot, map.writers));
  const number = f.let(add(shrU(sub(at.entry, TLB_USER), Math.log2(TLB_ENTRY)), 1));
  f.if(ne(known, number), () => {
    // Most often, the entry that had it is another page's by now.
    const has = eq(
      load.i64(CPU, entryOfWriter(known), TlbField.physical),
      extU(and(at.ram, ~0xfff)),
    );
    const more = or(eq(known, i32(MANY)), and(ne(known, i32(0)), has));
    f.store16(CPU, slot, select(more, i32(MANY), number), map.writers);
  });
}

/** Entry of the TLBs that {@link noteWriter} has as `number`, which is not 0. */
function entryOfWriter(number: Expr): Expr {
  return add(shl(number, Math.log2(TLB_ENTRY)), TLB_USER - TLB_ENTRY);
}

/** Notes that `entry` of a TLB was filled with what a load of CR3 takes away. */
export function noteEntry(f: FuncBuilder, entry: Expr): void {
  const count = f.let(state32(TlbNotes.count));
  f.if(
    ltU(count, i32(TlbNotes.most)),
    () => f.store32(CPU, shl(count, 2), entry, TlbNotes.entries),
  );
  f.if(leU(count, i32(TlbNotes.most)), () => set32(f, TlbNotes.count, add(count, 1)));
}

/** The same of `entry` of the instruction TLB. */
export function noteCodeEntry(f: FuncBuilder, entry: Expr): void {
  const count = f.let(state32(TlbNotes.code));
  f.if(ltU(count, i32(TlbNotes.mostCode)), () => {
    const number = shrU(sub(entry, i32(ITLB)), Math.log2(ITLB_ENTRY));
    f.store16(CPU, shl(count, 1), number, TlbNotes.codeEntries);
  });
  f.if(leU(count, i32(TlbNotes.mostCode)), () => set32(f, TlbNotes.code, add(count, 1)));
}

function entryOf(linear: Expr): Expr {
  return add(
    state32(S.tlbBase),
    and(wrap(shrU(linear, 12 - Math.log2(TLB_ENTRY))), (TLB_ENTRIES - 1) * TLB_ENTRY),
  );
}

/** `(linear i64, access i32) -> ram i32`: walks and enters the page in the present TLB. */
export function buildFill(
  module: ModuleBuilder,
  parts: { walk: FuncRef; ramOffset: FuncRef; map: MemoryMap },
): FuncRef {
  const f = module.func([I64, I32], [I32]);
  const linear = f.param(0);
  const access = f.param(1);
  const how = or(
    or(access, select(eq(state32(S.cpl), i32(3)), i32(Access.user), i32(0))),
    select(and(state32(S.flagOther), Flag.AC), i32(Access.smapOff), i32(0)),
  );
  const physical = f.let(call(parts.walk, linear, how));
  set64(f, S.walkPhysical, physical);
  const ram = f.let(call(parts.ramOffset, physical));
  f.if(eq(ram, i32(-1)), () => f.return(i32(-1)));
  f.if(state32(S.checks), () => f.return(ram));
  const entry = f.let(entryOf(linear));
  const page = f.let(and(linear, ~0xfffn));
  const ramPage = f.let(and(ram, ~0xfff));
  set64(f, S.tlbFills, add(state64(S.tlbFills), 1));
  const table = f.let(state32(S.tlbBase));
  f.if(
    or(ne(table, i32(TLB_SUPER)), eqz(and(state32(S.walkFlags), WalkFlag.global))),
    () => noteEntry(f, entry),
  );
  // Before the tag: who takes tags away looks at it.
  f.if(ne(table, i32(TLB_SUPER)), () => {
    const note = select(eq(table, i32(TLB_USER)), i32(TlbNotes.user), i32(TlbNotes.ac));
    f.store32(CPU, note, i32(1));
  });
  f.store64(CPU, entry, page, TlbField.read);
  f.store64(CPU, entry, extU(ramPage), TlbField.physical);
  f.store32(CPU, entry, sub(add(ramPage, parts.map.ramBase | 0), wrap(page)), TlbField.addend);
  const writable = and(state32(S.walkFlags), WalkFlag.writable);
  enterWritable(f, parts.map, { entry, page, ram, writable });
  f.return(ram);
  f.unreachable();
  return f;
}

/** `(linear, access) -> ram`: through the TLB, filled where needed; -1 and `S.walkPhysical` for devices. */
export function buildTranslate(module: ModuleBuilder, fill: FuncRef, map: MemoryMap): FuncRef {
  const f = module.func([I64, I32], [I32]);
  const linear = f.param(0);
  const access = f.param(1);
  const entry = f.let(entryOf(linear));
  const page = and(linear, ~0xfffn);
  f.if(
    eq(
      page,
      cond(
        access,
        load.i64(CPU, entry, TlbField.write),
        load.i64(CPU, entry, TlbField.read),
      ),
    ),
    () => f.return(sub(add(load.i32(CPU, entry, TlbField.addend), wrap(linear)), map.ramBase | 0)),
  );
  f.return(call(fill, linear, access));
  f.unreachable();
  return f;
}

/** `(linear) -> i64`: addend of a page that the TLB has for writing, zero-extended; else -1. */
export function buildStackPage(module: ModuleBuilder): FuncRef {
  const f = module.func([I64], [I64]);
  const linear = f.param(0);
  const entry = f.let(entryOf(linear));
  f.if(
    ne(load.i64(CPU, entry, TlbField.write), and(linear, ~0xfffn)),
    () => f.return(i64(-1n)),
  );
  f.return(load.i64_32u(CPU, entry, TlbField.addend));
  f.unreachable();
  return f;
}

/** A module that exports `protectPage(ram)` for the TLBs in the state memory that it imports as `e.cpu`. */
export function protectModule(cpuPages: number): WebAssembly.Module {
  const module = new ModuleBuilder();
  module.importMemory("e", "cpu", { minPages: cpuPages, maxPages: 65536, shared: true });
  buildProtectAll(module);
  return new WebAssembly.Module(module.finish());
}

/** Exported `protectPage(ram i32)`: takes write tags of a RAM page out of all TLBs, wherever they are. */
function buildProtectAll(module: ModuleBuilder): void {
  const f = module.func([I32]);
  takeTags(f);
  module.exportFunc("protectPage", f);
}

/** The same for the processor's own TLBs: mostly there is one such tag or none, and it is known where. */
export function buildProtect(module: ModuleBuilder, map: MemoryMap): FuncRef {
  const f = module.func([I32]);
  const ram = f.param(0);
  const slot = f.let(shl(shrU(ram, 12), 1));
  const known = f.let(load.i32_16u(CPU, slot, map.writers));
  f.if(eqz(known), () => f.return());
  f.store16(CPU, slot, i32(0), map.writers);
  f.if(ne(known, i32(MANY)), () => {
    const entry = f.let(entryOfWriter(known));
    f.if(
      eq(load.i64(CPU, entry, TlbField.physical), extU(and(ram, ~0xfff))),
      () => f.store64(CPU, entry, i64(-1n), TlbField.write),
    );
    f.return();
  });
  takeTags(f);
  module.exportFunc("protectPage", f);
  return f;
}

function takeTags(f: FuncBuilder): void {
  const page = f.let(extU(and(f.param(0), ~0xfff)));
  const entry = f.local(I32);
  const protect = (base: number) => {
    f.set(entry, i32(base));
    f.loop((next) => {
      f.if(
        eq(load.i64(CPU, entry, TlbField.physical), page),
        () => f.store64(CPU, entry, i64(-1n), TlbField.write),
      );
      f.set(entry, add(entry, TLB_ENTRY));
      f.brIf(next, ltU(entry, i32(base + TLB_TABLE)));
    });
  };
  f.if(state32(TlbNotes.user), () => protect(TLB_USER));
  f.if(state32(TlbNotes.ac), () => protect(TLB_SUPER_AC));
  protect(TLB_SUPER);
}

/**
 * Exported `flushTlb()` (data), `flushLocal()` (data and code, but for global pages) and
 * `flushPage(linear) -> i32` (data and code; 0 where a large page may be there: flush all).
 */
export function buildFlush(module: ModuleBuilder): void {
  const empty = (f: FuncBuilder, base: number) =>
    f.memoryFill(CPU, i32(base), i32(0xff), i32(TLB_TABLE));
  const emptyAll = (f: FuncBuilder) => {
    for (const [note, base] of [[TlbNotes.user, TLB_USER], [TlbNotes.ac, TLB_SUPER_AC]] as const) {
      f.if(state32(note), () => {
        empty(f, base);
        set32(f, note, i32(0));
      });
    }
    empty(f, TLB_SUPER);
    set32(f, TlbNotes.count, i32(0));
  };
  const all = module.func([]);
  emptyAll(all);
  set64(all, S.largePages, i64(0));
  module.exportFunc("flushTlb", all);
  const reset = module.func([]);
  for (const base of [TLB_USER, TLB_SUPER, TLB_SUPER_AC, TLB_CHECKED]) empty(reset, base);
  module.exportFunc("resetTlb", reset);

  // What a load of CR3 flushes. User pages are in the other tables, whatever says that they are global.
  // Kernels that patch themselves load CR3 twice for each patch, so it matters what is not searched.
  const local = module.func([]);
  const left = local.local(I32, state32(TlbNotes.count));
  local.if(gtU(left, i32(TlbNotes.most)), () => {
    emptyAll(local);
    local.set(left, i32(0));
  });
  local.if(left, () => {
    set32(local, TlbNotes.count, i32(0));
    local.loop((next) => {
      local.set(left, sub(left, 1));
      const entry = local.let(load.i32(CPU, shl(left, 2), TlbNotes.entries));
      local.store64(CPU, entry, i64(-1n), TlbField.read);
      local.store64(CPU, entry, i64(-1n), TlbField.write);
      local.brIf(next, left);
    });
  });
  const code = local.local(I32);
  // Another page, which is global, may be in it by now.
  const emptyCode = () =>
    local.if(eqz(load.i32(CPU, code, 12)), () => local.store64(CPU, code, i64(-1n)));
  local.set(left, state32(TlbNotes.code));
  local.if(left, () => {
    set32(local, TlbNotes.code, i32(0));
    local.if(gtU(left, i32(TlbNotes.mostCode)), () => {
      local.set(code, i32(ITLB));
      local.loop((next) => {
        emptyCode();
        local.set(code, add(code, ITLB_ENTRY));
        local.brIf(next, ltU(code, i32(ITLB_END)));
      });
      local.return();
    });
    local.loop((next) => {
      local.set(left, sub(left, 1));
      const number = load.i32_16u(CPU, shl(left, 1), TlbNotes.codeEntries);
      local.set(code, add(i32(ITLB), shl(number, Math.log2(ITLB_ENTRY))));
      emptyCode();
      local.brIf(next, left);
    });
  });
  module.exportFunc("flushLocal", local);

  const one = module.func([I64], [I32]);
  const linear = one.param(0);
  one.if(
    ne(
      and(state64(S.largePages), rangeOf(linear)),
      i64(0),
    ),
    () => one.return(i32(0)),
  );
  for (const base of [TLB_USER, TLB_SUPER, TLB_SUPER_AC]) {
    const entry = one.let(
      add(
        i32(base),
        and(wrap(shrU(linear, 12 - Math.log2(TLB_ENTRY))), (TLB_ENTRIES - 1) * TLB_ENTRY),
      ),
    );
    one.store64(CPU, entry, i64(-1n), TlbField.read);
    one.store64(CPU, entry, i64(-1n), TlbField.write);
  }
  const codeEntry = add(
    i32(ITLB),
    and(wrap(shrU(linear, 12 - Math.log2(ITLB_ENTRY))), (ITLB_ENTRIES - 1) * ITLB_ENTRY),
  );
  one.store64(CPU, codeEntry, i64(-1n));
  one.return(i32(1));
  one.unreachable();
  module.exportFunc("flushPage", one);
}
