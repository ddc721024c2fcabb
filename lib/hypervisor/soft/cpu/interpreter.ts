/**
 * Makes the interpreter: one WebAssembly module with a handler for every row, operand size and form of
 * the opcode table.
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
  extU,
  type FuncRef,
  type FuncType,
  gtU,
  i32,
  i64,
  load,
  ModuleBuilder,
  ne,
  OpFc,
  opFc,
  or,
  select,
  shrU,
  sub,
  ValType,
  wrap,
} from "../wasm/mod.ts";
import { callIndex } from "../wasm/mod.ts";
import { cpuLayout } from "./cpu_memory.ts";
import { teamLayout } from "./cpu_team.ts";
import { Cx, type Runtime } from "./cx.ts";
import { buildArithmetic, buildControl, buildStack } from "./helpers.ts";
import type { HandlerInfo } from "./host_context.ts";
import { buildDelivery } from "./system/fast_delivery.ts";
import { decodeTables, type RowSlots } from "./decode_tables.ts";
import { buildDecode } from "./fast_decode.ts";
import { buildLocked } from "./locked.ts";
import { buildMmu, type Imports, type MemoryMap } from "./mmu/mod.ts";
import type { InterpreterImage } from "./interpreter_image.ts";
import { type Insn, insn } from "./opcode.ts";
import {
  CPU,
  DECODE_TABLES,
  Exit,
  HANDLER_SLOTS,
  ITLB,
  ITLB_ENTRIES,
  RAM,
  Rec,
  S,
  SegAttr,
  SegField,
  Vector,
} from "./state.ts";

const { I32, I64, F64 } = ValType;

/** Handlers that are not of the opcode table. */
export interface SpecialHandlers {
  /** Address with a segment base and a 64-bit immediate, into `S.tempEa`. */
  readonly addressWide: number;
  /** Address in the address size of `extra`, into `S.tempEa`. */
  readonly addressMasked: number;
  /** The same with limit and type checks; `imm` low: size, bit 31: write. */
  readonly addressChecked: number;
  /** Goes on at page offset `off`, by `link` where it is set. */
  readonly goTo: number;
  /** Leaves with Exit.Resume; `rip` is page offset `off`. */
  readonly stop: number;
  /** Goes on only where the page map at `link` is that of the next page; else leaves with Exit.Lookup. */
  readonly crossing: number;
  /** The code is stale: leaves with Exit.Lookup at this instruction. */
  readonly refetch: number;
  /** #UD. */
  readonly invalid: number;
  /** #GP(0). */
  readonly tooLong: number;
}

/** A function of the interpreter that translated code imports. */
export interface RuntimeExport {
  readonly name: string;
  readonly type: FuncType;
}

/** {@link Runtime} by export names. */
export interface RuntimeExports {
  readonly loadSlow: ReadonlyMap<number, RuntimeExport>;
  readonly storeSlow: ReadonlyMap<number, RuntimeExport>;
  readonly modifySlow: ReadonlyMap<number, RuntimeExport>;
  readonly probeWrite: RuntimeExport;
  readonly jump: RuntimeExport;
  readonly raise: RuntimeExport;
  readonly ram: number;
  readonly smp: boolean;
  readonly helpers: ReadonlyMap<string, RuntimeExport>;
}

/** The module and how records name its handlers. */
export interface Interpreter {
  readonly module: WebAssembly.Module;
  readonly runtime: RuntimeExports;
  /** True where it is made for a processor among several. */
  readonly smp: boolean;
  /** Slot of a row's handler. */
  slot(insn: Insn, size: number, form: { mem: boolean; locked: boolean }): number;
  /** What is behind a slot. */
  readonly handlers: readonly (HandlerInfo | undefined)[];
  readonly special: SpecialHandlers;
}

/** What an interpreter is made of. */
export interface InterpreterOptions {
  readonly rows: readonly Insn[];
  /** For a processor among several. */
  readonly smp: boolean;
  /** For state memory that holds RAM, too. */
  readonly holdsRam: boolean;
  /** Adds further helpers before the handlers. */
  readonly extend: (module: ModuleBuilder, runtime: Runtime) => void;
}

const sizeIndex: readonly number[] = [0, -1, 1, -1, 2, -1, -1, -1, 3];

/** Generates the interpreter. */
export function emitInterpreter(options: InterpreterOptions): InterpreterImage {
  const module = new ModuleBuilder();
  const memoryOf = (pages: number) => ({ minPages: pages, maxPages: 65536, shared: true });
  const { smp } = options;
  const { pages, regions, writers } = cpuLayout();
  const map: MemoryMap = {
    ...regions,
    writers,
    ramBase: options.holdsRam ? pages * 65536 : 0,
    ...(smp ? { shared: teamLayout() } : {}),
  };
  const ram = options.holdsRam ? CPU : RAM;
  module.importMemory("e", "cpu", memoryOf(pages));
  module.importMemory("e", "ram", memoryOf(1));
  if (map.shared !== undefined) module.importMemory("e", "vm", memoryOf(map.shared.pages));
  const imports: Imports = {
    host: module.importFunc("e", "host", { params: [I32, I32], results: [I32] }),
    mmioLoad: module.importFunc("e", "mmioLoad", { params: [F64, I32], results: [] }),
    mmioStore: module.importFunc("e", "mmioStore", { params: [F64, I32], results: [] }),
    codeWrite: module.importFunc("e", "codeWrite", { params: [I32, I32], results: [] }),
    dataAccess: module.importFunc("e", "dataAccess", { params: [I64, I32, I32], results: [] }),
    splitLock: module.importFunc("e", "splitLock", {
      params: [I32, I32, I32, I32, I64, I64],
      results: [I64],
    }),
    exchange16: module.importFunc("e", "exchange16", { params: [I32], results: [] }),
    now: module.importFunc("e", "now", { params: [], results: [F64] }),
    faultTag: module.importTag("e", "fault"),
  };
  module.importTable("e", "table", HANDLER_SLOTS);
  const handlerType = module.typeIndex({ params: [I32], results: [I32] });
  const helpers = new Map<string, FuncRef>();
  const mmu = buildMmu(module, imports, map);
  helpers.set("stackPage", mmu.stackPage);
  buildArithmetic(module, helpers);
  buildStack(module, helpers, mmu);
  const deliver = buildDelivery(module, { mmu, map, helpers });
  const decodeHere = buildDecode(module, { mmu, map });
  const jump = buildControl(module, helpers, { handlerType, mmu, map, decodeHere });
  const runtime: Runtime = { ...mmu, jump, host: imports.host, handlerType, helpers, ram, smp };
  buildTicks(module, helpers, imports.now);
  if (smp) buildLocked(module, helpers, { mmu, imports, map });
  options.extend(module, runtime);

  const special = buildSpecial(module, runtime);
  for (const info of handlersOf(options.rows, smp)) {
    const { insn, size, mem, locked } = info;
    const f = module.func([I32], [I32]);
    const c = new Cx(f, runtime, info);
    insn.semantics(c);
    if (!c.ended) c.next();
    f.unreachable();
    module.tableSlot(f);
    const name = `${locked ? "lock " : ""}${insn.mnemonic}${size || ""}${mem ? " mem" : ""}`;
    module.nameFunc(f, `interpret ${name}`);
    if (isCommon(info)) module.optimize(f);
  }

  buildRun(module, { imports, jump, handlerType, deliver });
  module.data(
    DECODE_TABLES,
    decodeTables(options.rows, { slots: slotsOf(options, special), special }),
  );
  return { runtime: exportRuntime(module, runtime), special, bytes: module.finish() };
}

/** Instructions that make up most of any guest's code, in the sizes in which they do. */
const commonInstructions = new Map<number, string>(
  Object.entries({
    0: "mov cmp test nop stos movs",
    4: "mov movzx lea add sub and or xor cmp test shl shr",
    8: "mov movsxd lea add sub and or xor cmp test shl shr push pop call ret jmp jz jnz js jns ja jae jb " +
      "jbe jl jle jg jge movs stos",
  }).map(([size, names]) => [Number(size), names]),
);

const commonHelpers = new Set([
  ...["jump", "helper:flagAuxOf", "helper:flagAuxOfStep", "helper:arithFlags", "helper:findCode"],
  ...["helper:holdsPart", "helper:interpretAt", "helper:branchSlow"],
]);

/** Those of them that often have an operand in memory. */
const commonInMemory = new Set(["mov", "movzx", "movsxd", "lea", "cmp", "test", "add", "call"]);

/** Kinds of operands in those forms of them that compilers choose. */
const commonOperands = new Set(["E", "G", "M", "Z", "I", "Is", "J", "X", "Y"]);

/** Instructions that are common without an operand. */
const commonAlone = new Set(["ret", "nop", "stos", "movs"]);

/** Whether V8 shall optimize a handler at once, as any guest needs it soon. */
function isCommon({ insn, size, mem, locked }: HandlerInfo): boolean {
  const { mnemonic, operands } = insn;
  return !locked && commonInstructions.get(size)?.split(" ").includes(mnemonic) === true &&
    (!mem || commonInMemory.has(mnemonic)) &&
    operands.every(({ kind }) => commonOperands.has(kind)) &&
    (operands.length > 0 || commonAlone.has(mnemonic));
}

/** Adds `ticks() -> i64`: the TSC, see guest_clock.ts. */
function buildTicks(module: ModuleBuilder, helpers: Map<string, FuncRef>, now: FuncRef): void {
  const ticks = module.func([], [I64]);
  const guestNs = opFc(I64, OpFc.i64_trunc_sat_f64_s, call(now));
  ticks.return(add(guestNs, load.i64(CPU, i32(0), S.tscOffset)));
  ticks.unreachable();
  helpers.set("ticks", ticks);
}

/** What handlers there are, in the order of their slots, behind the special ones. */
function* handlersOf(rows: readonly Insn[], smp: boolean): Generator<HandlerInfo> {
  for (const row of rows) {
    const mems = row.modrm && row.form === "any" && !row.words.has("regonly")
      ? [false, true]
      : [row.form === "mem" || row.operands.some((o) => o.kind === "O")];
    const forms = mems.map((mem) => ({ mem, locked: false }));
    if (smp && row.words.has("lock") && mems.includes(true)) {
      forms.push({ mem: true, locked: true });
    }
    for (const form of forms) {
      for (const size of row.sized ? [2, 4, 8] : [0]) yield { insn: row, size, ...form };
    }
  }
}

/** The slots of rows' handlers in the interpreter that `options` make. */
function slotsOf(
  options: InterpreterOptions,
  special: SpecialHandlers,
): (row: Insn) => RowSlots {
  const slots = new Map<Insn, { register: number; memory: number; locked: number }>();
  let slot = Object.keys(special).length;
  for (const { insn, size, mem, locked } of handlersOf(options.rows, options.smp)) {
    let of = slots.get(insn);
    if (of === undefined) slots.set(insn, of = { register: 0, memory: 0, locked: 0 });
    if (size === 0 || size === 2) {
      if (locked) of.locked = slot;
      else if (mem) of.memory = slot;
      else of.register = slot;
      if (mem && !options.smp) of.locked = slot;
    }
    slot++;
  }
  return (row) => slots.get(row) ?? { register: 0, memory: 0, locked: 0 };
}

/** Compiles the interpreter that `image` is, which was made with the same options. */
export function compileInterpreter(
  image: InterpreterImage,
  options: { rows: readonly Insn[] },
): Interpreter {
  const { runtime, special } = image;
  const { smp } = runtime;
  const handlers: (HandlerInfo | undefined)[] = Object.keys(special).map(() => undefined);
  const slots = new Map<Insn, Int32Array>(
    options.rows.map((row) => [row, new Int32Array(12).fill(-1)]),
  );
  for (const info of handlersOf(options.rows, smp)) {
    const table = slots.get(info.insn) as Int32Array;
    table[formIndex(info, smp) + (sizeIndex[info.size] as number)] = handlers.length;
    handlers.push(info);
  }
  let module: WebAssembly.Module | undefined;
  return {
    runtime,
    // Who only makes code for it needs none.
    get module() {
      return module ??= new WebAssembly.Module(image.bytes);
    },
    smp,
    slot: (row, size, form) =>
      slots.get(row)?.[formIndex(form, smp) + (sizeIndex[size] as number)] ?? -1,
    handlers,
    special,
  };
}

/** Where the slots of a form begin in a row's table. */
function formIndex(form: { mem: boolean; locked: boolean }, smp: boolean): number {
  return smp && form.locked ? 8 : form.mem ? 4 : 0;
}

function exportRuntime(module: ModuleBuilder, runtime: Runtime): RuntimeExports {
  const one = (name: string, func: FuncRef): RuntimeExport => {
    module.exportFunc(name, func);
    module.nameFunc(func, name);
    if (commonHelpers.has(name)) module.optimize(func);
    return { name, type: func.type };
  };
  const bySize = (name: string, funcs: ReadonlyMap<number, FuncRef>) =>
    new Map([...funcs].map(([size, func]) => [size, one(`${name}${size}`, func)]));
  return {
    loadSlow: bySize("load", runtime.loadSlow),
    storeSlow: bySize("store", runtime.storeSlow),
    modifySlow: bySize("modify", runtime.modifySlow),
    probeWrite: one("probeWrite", runtime.probeWrite),
    jump: one("jump", runtime.jump),
    raise: one("raise", runtime.raise),
    ram: runtime.ram,
    smp: runtime.smp,
    helpers: new Map(
      [...runtime.helpers].map(([name, func]) => [name, one(`helper:${name}`, func)]),
    ),
  };
}

const pseudo = insn("(address)", "00", "", () => {});

function buildSpecial(module: ModuleBuilder, runtime: Runtime): SpecialHandlers {
  const make = (body: (c: Cx) => void): number => {
    const f = module.func([I32], [I32]);
    const c = new Cx(f, runtime, { insn: pseudo, size: 0, mem: true });
    body(c);
    if (!c.ended) c.next();
    f.unreachable();
    return module.tableSlot(f);
  };
  const base = (c: Cx) => load.i64(CPU, c.rec16(Rec.seg));
  /** Offset in the segment, cut to the address size. */
  const offset = (c: Cx) => {
    const asize = c.f.let(c.extra());
    return c.f.let(
      and(
        c.ea(),
        select(
          eqz(asize),
          i64(-1n),
          select(eq(asize, i32(1)), i64(0xffffffffn), i64(0xffffn)),
        ),
      ),
    );
  };
  return {
    addressWide: make((c) =>
      c.setS64(S.tempEa, add(add(c.ea(), base(c)), load.i64(CPU, c.rec, Rec.imm)))
    ),
    // `seg` is the zero slot for LEA, which has no linear address to cut.
    addressMasked: make((c) => {
      c.setS64(
        S.tempEa,
        and(
          add(add(offset(c), load.i64(CPU, c.rec, Rec.imm)), base(c)),
          c.s64(S.linearMask),
        ),
      );
    }),
    addressChecked: make((c) => {
      const f = c.f;
      const seg = f.let(c.rec16(Rec.seg));
      const at = f.let(add(offset(c), load.i64(CPU, c.rec, Rec.imm)));
      const size = f.let(load.i32_16u(CPU, c.rec, Rec.a));
      const write = f.let(load.i32_16u(CPU, c.rec, Rec.b));
      const attrs = f.let(load.i32(CPU, seg, SegField.attrs));
      const limit = f.let(extU(load.i32(CPU, seg, SegField.limit)));
      const last = f.let(add(at, extU(sub(size, 1))));
      const isCode = ne(and(attrs, SegAttr.code), i32(0));
      const down = and(eqz(isCode), ne(and(attrs, SegAttr.expandDown), i32(0)));
      const top = select(
        ne(and(attrs, SegAttr.db), i32(0)),
        i64(0xffffffffn),
        i64(0xffffn),
      );
      const beyond = cond(
        down,
        or(eqz(gtU(at, limit)), gtU(last, top)),
        gtU(last, limit),
      );
      // Writable data has bit 9; readable code too. Writes need data, reads data or readable code.
      const denied = cond(
        write,
        or(isCode, eqz(and(attrs, SegAttr.writable))),
        and(isCode, eqz(and(attrs, SegAttr.writable))),
      );
      const unusable = or(
        and(attrs, SegAttr.unusable),
        eqz(and(attrs, SegAttr.present)),
      );
      f.if(
        or(or(beyond, ne(denied, i32(0))), ne(unusable, i32(0))),
        () => {
          f.if(
            eq(seg, i32(S.segs + 2 * 32)),
            () => c.raise(Vector.SS, i32(0)),
          );
          c.raise(Vector.GP, i32(0));
        },
      );
      c.setS64(S.tempEa, and(add(at, load.i64(CPU, seg)), c.s64(S.linearMask)));
    }),
    goTo: make((c) => {
      const link = c.f.let(load.i32(CPU, c.rec, Rec.link));
      c.f.if(link, () => c.dispatch(link));
      c.f.returnCall(c.helper("branchSlow"), c.rec, c.rip());
      c.end();
    }),
    stop: make((c) => {
      c.setS64(S.rip, c.rip());
      c.leave(Exit.Resume);
      c.end();
    }),
    crossing: make((c) => {
      const next = c.f.let(add(c.s64(S.ripBase), 4096));
      const entry = c.f.let(
        add(i32(ITLB), and(wrap(shrU(next, 12 - 4)), (ITLB_ENTRIES - 1) << 4)),
      );
      const pageMap = cond(
        eq(or(next, extU(c.s32(S.codeTag))), load.i64(CPU, entry)),
        load.i32(CPU, entry, 8),
        call(c.helper("findCode"), next),
      );
      c.f.if(ne(pageMap, load.i32(CPU, c.rec, Rec.link)), () => {
        c.setS64(S.rip, c.rip());
        c.leave(Exit.Lookup);
      });
    }),
    refetch: make((c) => {
      c.setS64(S.rip, c.rip());
      c.leave(Exit.Lookup);
      c.end();
    }),
    invalid: make((c) => {
      c.raise(Vector.UD);
      c.end();
    }),
    tooLong: make((c) => {
      c.raise(Vector.GP, i32(0));
      c.end();
    }),
  };
}

/** Exports `run` and `runRecord`. */
function buildRun(
  module: ModuleBuilder,
  parts: { imports: Imports; jump: FuncRef; handlerType: number; deliver: FuncRef },
): void {
  const run = module.func([], [I32]);
  const exit = run.local(I32);
  run.loop((again) => {
    run.set(exit, i32(Exit.Fault));
    run.tryCatch(parts.imports.faultTag, () => {
      run.set(exit, callIndex(I32, parts.jump.index, [load.i64(CPU, i32(0), S.rip)]));
    });
    run.if(ne(exit, i32(Exit.Fault)), () => run.return(exit));
    // Handlers of 64-bit kernels are entered without a detour through TypeScript.
    run.brIf(again, call(parts.deliver));
  });
  run.return(i32(Exit.Fault));
  run.unreachable();
  module.exportFunc("run", run);

  const one = module.func([I32], [I32]);
  one.tryCatch(parts.imports.faultTag, () => {
    one.callIndirect(
      parts.handlerType,
      load.i32_16u(CPU, one.param(0), Rec.handler),
      one.param(0),
    );
    one.return();
  });
  one.return(i32(Exit.Fault));
  one.unreachable();
  module.exportFunc("runRecord", one);
}
