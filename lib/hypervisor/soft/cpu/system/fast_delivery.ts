/**
 * Delivery of exceptions and interrupts in 64-bit mode as generated code, for what kernels do: flat
 * 64-bit handlers of privilege 0, tables and stack that can be read and written. Anything else is left
 * to `deliver`, which also raises the faults that come up on the way.
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
  extS,
  extU,
  type FuncRef,
  gtU,
  i32,
  i64,
  load,
  type Local,
  ltS,
  ltU,
  type ModuleBuilder,
  ne,
  or,
  select,
  shl,
  shrS,
  shrU,
  sub,
  ValType,
  wrap,
} from "../../wasm/mod.ts";
import { enterWritable, type MemoryMap, type Mmu, noteEntry } from "../mmu/mod.ts";
import {
  Access,
  CodeMode,
  CPU,
  Flag,
  PseudoRecord,
  RAM,
  Rec,
  Reg,
  regOffset,
  S,
  Seg,
  SegAttr,
  SegField,
  segOffset,
  TLB_ENTRIES,
  TLB_ENTRY,
  TLB_SUPER,
  TlbField,
  Vector,
  WalkFlag,
} from "../state.ts";

const { I32, I64 } = ValType;

/** Descriptor of flat 64-bit code of privilege 0, accessed. */
export const FLAT_CODE64 = 0x00af_9b00_0000_ffffn;
/** Its attributes in a segment register. */
export const FLAT_CODE64_ATTRS = 0x00a0_9b00;

/** Bits of the third parameter of `deliverFast`. */
export const Deliver = {
  hasError: 1,
  /** A fault: RF is set in the saved flags. */
  fault: 2,
  /** INT n: the gate's DPL counts. */
  software: 4,
} as const;

const NOT_FAULTS = (1 << Vector.DB) | (1 << Vector.NMI) | (1 << Vector.BP) | (1 << Vector.OF) |
  (1 << Vector.DF);

const state32 = (offset: number) => load.i32(CPU, i32(0), offset);
const state64 = (offset: number) => load.i64(CPU, i32(0), offset);
const field = (seg: Seg, name: keyof typeof SegField) => segOffset(seg) + SegField[name];

/**
 * Adds and exports `deliverFast(vector i32, error i32, how i32, rip i64) -> i32`: 1 where the handler is
 * entered, 0 where nothing has changed.
 * @returns `() -> i32`, the same for the fault that was thrown last.
 */
export function buildDelivery(
  module: ModuleBuilder,
  parts: { mmu: Mmu; map: MemoryMap; helpers: ReadonlyMap<string, FuncRef> },
): FuncRef {
  const arithFlags = parts.helpers.get("arithFlags");
  if (arithFlags === undefined) throw new TypeError("flag helpers are built first");
  const deliver = buildFast(module, buildFind(module, parts.mmu, parts.map), arithFlags);
  module.exportFunc("deliverFast", deliver);
  const f = module.func([], [I32]);
  const vector = f.let(state32(S.faultVector));
  // Those that are no faults, and double faults, take the long way.
  f.if(and(shrU(i32(NOT_FAULTS), vector), 1), () => f.return(i32(0)));
  const rip = f.let(
    cond(
      state32(S.faultRipSet),
      state64(S.rip),
      add(state64(S.ripBase), offsetOf(state32(S.record))),
    ),
  );
  const how = or(state32(S.faultHasError), Deliver.fault);
  f.return(call(deliver, vector, state32(S.faultError), how, rip));
  f.unreachable();
  return f;
}

/** Page offset (i64) of the instruction of `record`, or what a pseudo record says. */
function offsetOf(record: Expr): Expr {
  const unused = 32 - PseudoRecord.offsetBits;
  return cond(
    ltS(record, i32(0)),
    extS(shrS(shl(record, unused), unused)),
    load.i64_16u(CPU, record, Rec.off),
  );
}

function buildFast(module: ModuleBuilder, find: FuncRef, arithFlags: FuncRef): FuncRef {
  const f = module.func([I32, I32, I32, I64], [I32]);
  const [vector, error, how, rip] = [f.param(0), f.param(1), f.param(2), f.param(3)];
  const ram = f.local(I32);
  const refuse = (condition: Expr) => f.if(condition, () => f.return(i32(0)));
  const set32 = (offset: number, value: Expr) => f.store32(CPU, i32(0), value, offset);
  const set64 = (offset: number, value: Expr) => f.store64(CPU, i32(0), value, offset);
  /** `size` bytes at supervisor address `linear`, or the delivery is refused. */
  const fetch = (linear: Expr, size: 4 | 8): Local => {
    f.set(ram, call(find, linear, i32(size), i32(Access.read)));
    refuse(eq(ram, i32(-1)));
    return f.let(size === 8 ? load.i64(RAM, ram) : load.i64_32u(RAM, ram));
  };

  const other = f.let(state32(S.flagOther));
  const cpl = f.let(state32(S.cpl));
  refuse(ne(and(state32(S.codeTag), CodeMode.sizeMask), i32(CodeMode.bits64)));
  // With AC set the supervisor TLB is another; with checks every access is looked at.
  refuse(or(ne(and(other, Flag.AC), i32(0)), ne(state32(S.checks), i32(0))));

  const at = f.let(shl(vector, 4));
  refuse(ltU(and(state32(S.idtLimit), 0xffff), add(at, 15)));
  const gate = f.let(add(state64(S.idtBase), extU(at)));
  const low = fetch(gate, 8);
  const high = f.let(wrap(shrU(low, 32)));
  // S clear, type 14 or 15, present.
  refuse(ne(and(high, 0x9e00), i32(0x8e00)));
  refuse(and(
    ne(and(how, Deliver.software), i32(0)),
    ltU(and(shrU(high, 13), 3), cpl),
  ));
  const selector = f.let(and(wrap(shrU(low, 16)), 0xfffc));
  refuse(or(eqz(selector), ne(and(selector, 4), i32(0))));
  refuse(ltU(and(state32(S.gdtLimit), 0xffff), or(selector, 7)));
  const code = fetch(f.let(add(state64(S.gdtBase), extU(selector))), 8);
  refuse(ne(code, i64(FLAT_CODE64)));
  const upper = fetch(f.let(add(gate, 8)), 4);
  const target = f.let(
    or(
      or(and(low, 0xffff), extU(and(high, ~0xffff))),
      shl(upper, 32),
    ),
  );
  refuse(notCanonical(target));

  // The stack: an IST entry, that of privilege 0, or the one in use.
  const ist = f.let(and(high, 7));
  const pointer = f.local(I64, load.i64(CPU, i32(0), regOffset(Reg.rsp)));
  f.if(or(ist, cpl), () => {
    const slot = f.let(select(ist, add(shl(ist, 3), 0x1c), i32(4)));
    refuse(ltU(state32(field(Seg.TR, "limit")), add(slot, 7)));
    f.set(pointer, fetch(f.let(add(state64(field(Seg.TR, "base")), extU(slot))), 8));
  });
  refuse(notCanonical(pointer));
  const hasError = f.let(and(how, Deliver.hasError));
  const top = f.let(
    sub(and(pointer, ~15n), select(hasError, i64(48), i64(40))),
  );
  f.set(ram, call(find, top, select(hasError, i32(48), i32(40)), i32(Access.write)));
  refuse(eq(ram, i32(-1)));

  // Nothing can fail from here on.
  f.if(hasError, () => {
    f.store64(RAM, ram, extU(error));
    f.set(ram, add(ram, 8));
  });
  const saved = or(
    or(call(arithFlags), extU(other)),
    select(and(how, Deliver.fault), i64(Flag.RF), i64(0)),
  );
  f.store64(RAM, ram, rip);
  f.store64(RAM, ram, extU(state32(field(Seg.CS, "selector"))), 8);
  f.store64(RAM, ram, saved, 16);
  f.store64(RAM, ram, load.i64(CPU, i32(0), regOffset(Reg.rsp)), 24);
  f.store64(RAM, ram, extU(state32(field(Seg.SS, "selector"))), 32);
  f.if(cpl, () => {
    set64(field(Seg.SS, "base"), i64(0));
    set32(field(Seg.SS, "limit"), i32(0));
    set32(field(Seg.SS, "attrs"), i32(SegAttr.unusable));
    set32(field(Seg.SS, "selector"), i32(0));
  });
  set64(field(Seg.CS, "base"), i64(0));
  set32(field(Seg.CS, "limit"), i32(-1));
  set32(field(Seg.CS, "attrs"), i32(FLAT_CODE64_ATTRS));
  set32(field(Seg.CS, "selector"), selector);
  set32(S.cpl, i32(0));
  set32(S.codeTag, i32(CodeMode.bits64));
  set32(S.tlbBase, i32(TLB_SUPER));
  const clear = Flag.TF | Flag.NT | Flag.RF | Flag.VM;
  // An interrupt gate has type 14.
  set32(
    S.flagOther,
    and(other, select(and(high, 0x100), i32(~clear), i32(~(clear | Flag.IF)))),
  );
  set64(S.rip, target);
  set64(regOffset(Reg.rsp), top);
  f.return(i32(1));
  f.unreachable();
  return f;
}

function notCanonical(address: Expr): Expr {
  return ne(shrS(shl(address, 16), 16), address);
}

/**
 * `(linear i64, size i32, access i32) -> ram i32`: where the supervisor finds its tables, or writes its
 * stack; -1 where that would fault, crosses pages, is not in RAM, or decoded code is written. Enters the
 * page in the supervisor's TLB.
 */
function buildFind(module: ModuleBuilder, mmu: Mmu, map: MemoryMap): FuncRef {
  const f = module.func([I64, I32, I32], [I32]);
  const [linear, size, access] = [f.param(0), f.param(1), f.param(2)];
  f.if(gtU(and(wrap(linear), 4095), sub(i32(4096), size)), () => f.return(i32(-1)));
  const entry = f.let(
    add(
      i32(TLB_SUPER),
      and(wrap(shrU(linear, 12 - Math.log2(TLB_ENTRY))), (TLB_ENTRIES - 1) * TLB_ENTRY),
    ),
  );
  const page = f.let(and(linear, ~0xfffn));
  const tag = cond(
    access,
    load.i64(CPU, entry, TlbField.write),
    load.i64(CPU, entry, TlbField.read),
  );
  f.if(
    eq(page, tag),
    () => f.return(sub(add(load.i32(CPU, entry, TlbField.addend), wrap(linear)), map.ramBase | 0)),
  );
  const physical = f.let(call(mmu.walk, linear, or(access, Access.quiet)));
  f.if(eq(physical, i64(-1n)), () => f.return(i32(-1)));
  const ram = f.let(call(mmu.ramOffset, physical));
  f.if(eq(ram, i32(-1)), () => f.return(i32(-1)));
  const ramPage = f.let(and(ram, ~0xfff));
  f.store64(CPU, entry, page, TlbField.read);
  f.store64(CPU, entry, extU(ramPage), TlbField.physical);
  f.store32(CPU, entry, sub(add(ramPage, map.ramBase | 0), wrap(page)), TlbField.addend);
  const writable = and(state32(S.walkFlags), WalkFlag.writable);
  enterWritable(f, map, { entry, page, ram, writable });
  f.if(eqz(and(state32(S.walkFlags), WalkFlag.global)), () => noteEntry(f, entry));
  f.if(
    and(access, ne(load.i64(CPU, entry, TlbField.write), page)),
    () => f.return(i32(-1)),
  );
  f.return(ram);
  f.unreachable();
  return f;
}
