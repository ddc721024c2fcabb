/**
 * Address translation as generated code: page walks (4-level, PAE and 32-bit), filling of the software
 * TLB, and the slow paths of loads and stores: TLB misses, accesses across pages, devices, pages that
 * hold decoded code.
 *
 * @module
 */

import {
  add,
  and,
  atomicRmw,
  call,
  cond,
  ctz,
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
  loadSized,
  ltS,
  ltU,
  ModuleBuilder,
  mul,
  ne,
  Op,
  op,
  OpFd,
  OpFe,
  or,
  rotl,
  select,
  shl,
  shrS,
  shrU,
  simd,
  sub,
  v,
  v128,
  ValType,
  wrap,
  xor,
} from "../wasm/mod.ts";
import {
  Access,
  Check,
  CPU,
  Flag,
  ITLB,
  ITLB_END,
  ITLB_ENTRIES,
  ITLB_ENTRY,
  PseudoRecord,
  RAM,
  Rec,
  Reg,
  regOffset,
  S,
  Seg,
  segOffset,
  STACK_ADDRESS,
  TLB_CHECKED,
  TLB_ENTRIES,
  TLB_ENTRY,
  TLB_SUPER,
  TLB_SUPER_AC,
  TLB_TABLE,
  TLB_USER,
  TlbField,
  TlbNotes,
  Vector,
  VM,
  WalkFlag,
} from "./state.ts";

const { I32, I64, F64 } = ValType;

/** Where the marks of code pages lie. */
export interface MemoryMap {
  /** Where RAM lies in the state memory as well, see createCpuMemory; 0 where it does not. */
  readonly ramBase: number;
  /** State offset of the code marks: an i64 a RAM page, a bit for every 64 bytes with decoded code. */
  readonly codeMarks: number;
  /** State offset of checksums of decoded code: an i64 a RAM page. */
  readonly codeSums: number;
  /** State offset of the page maps of 64-bit code: an i32 a RAM page, 0 where there is none. */
  readonly codeIndex: number;
  /**
   * State offset of an u16 a RAM page: the entry of the data TLBs that has its tag for writes, from 1 on,
   * 0xffff where there may be several, 0 where there is none.
   */
  readonly writers: number;
  /** State offset of the page maps, and of the pages that they are of, see CodeRegions. */
  readonly maps: number;
  readonly mapPages: number;
  /** State offset of decoded records, and that of the handlers of those that have a region in their place. */
  readonly arena: number;
  readonly ownHandlers: number;
  /** Where there are several vCPUs: the memory that they share. */
  readonly shared?: {
    /** Its 64 KiB pages. */
    readonly pages: number;
    /** Offset of the code marks of all of them. */
    readonly marks: number;
  };
}

/** Marks of decoded code in the page of RAM offset `ram`: this vCPU's, or those of all. */
export function codeMarksOf(map: MemoryMap, ram: Expr): Expr {
  const [mem, base] = map.shared === undefined ? [CPU, map.codeMarks] : [VM, map.shared.marks];
  return load.i64(mem, add(i32(base), shl(shrU(ram, 12), 3)));
}

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

/** In place of a TLB entry's number: there may be more than one. */
const MANY = 0xffff;

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

/** Behind a store of `size` bytes at `ram`: takes decoded code away that it hit. */
export function noticeCodeWrite(
  f: FuncBuilder,
  parts: { map: MemoryMap; imports: Imports },
  at: { ram: Expr; size: number },
): void {
  const { map, imports } = parts;
  if (map.shared !== undefined) f.fence();
  // Decoded code in any of the 64-byte lines touched?
  const line = (ram: Expr) => shl(i64(1), extU(and(shrU(ram, 6), 63)));
  const lines = or(line(at.ram), line(add(at.ram, at.size - 1)));
  f.if(
    ne(and(codeMarksOf(map, at.ram), lines), i64(0)),
    () => f.call(imports.codeWrite, at.ram, i32(at.size)),
  );
}

/** Functions that TypeScript gives to the module. */
export interface Imports {
  /** `(function i32, record i32) -> i32`. */
  readonly host: FuncRef;
  /** `(physical f64, size i32)`: device load into `S.mmioData`. */
  readonly mmioLoad: FuncRef;
  /** `(physical f64, size i32)`: device store of `S.mmioData`. */
  readonly mmioStore: FuncRef;
  /** `(ram i32, size i32)`: a store hits decoded code. */
  readonly codeWrite: FuncRef;
  /**
   * `(ram i32, next i32, size i32, kind i32, operand i64, expected i64) -> old i64`: a locked change of
   * misaligned bytes, from `next` on in another page where that is not -1.
   */
  readonly splitLock: FuncRef;
  /** `(ram i32)`: LOCK CMPXCHG16B, operands and result in `S.scratch`. */
  readonly exchange16: FuncRef;
  /** `(linear i64, size i32, write i32)`: an access while data breakpoints are armed. */
  readonly dataAccess: FuncRef;
  /** `() -> f64`: guest time in nanoseconds. */
  readonly now: FuncRef;
  /** Tag thrown for guest faults. */
  readonly faultTag: number;
}

/** Functions of this part. */
export interface Mmu {
  readonly loadSlow: ReadonlyMap<number, FuncRef>;
  readonly storeSlow: ReadonlyMap<number, FuncRef>;
  readonly modifySlow: ReadonlyMap<number, FuncRef>;
  /** `(linear i64) -> i64`: addend of a page that the TLB has for writing, zero-extended; else -1. */
  readonly stackPage: FuncRef;
  readonly probeWrite: FuncRef;
  /** `(linear i64, access i32) -> RAM offset i32`, -1 and `S.walkPhysical` for devices. */
  readonly translate: FuncRef;
  /** `(linear i64, size i32, write i32, record i32)`: what `S.checks` asks for. */
  readonly checked: FuncRef;
  readonly raise: FuncRef;
  /** `(linear i64, access i32) -> physical i64`. */
  readonly walk: FuncRef;
  /** `(physical i64) -> RAM offset i32`, -1 outside RAM. */
  readonly ramOffset: FuncRef;
  /** `(ram i32) -> i32`: whether the decoded lines of a RAM page are as they were. */
  readonly codeIntact: FuncRef;
  /** `(ram i32)`: keeps the checksum of the decoded lines of a RAM page. */
  readonly seal: FuncRef;
  /** `(ram i32)`: takes write tags of a RAM page out of all TLBs. */
  readonly protect: FuncRef;
}

const state64 = (offset: number) => load.i64(CPU, i32(0), offset);
const state32 = (offset: number) => load.i32(CPU, i32(0), offset);
const set64 = (f: FuncBuilder, offset: number, value: Expr) =>
  f.store64(CPU, i32(0), value, offset);
const set32 = (f: FuncBuilder, offset: number, value: Expr) =>
  f.store32(CPU, i32(0), value, offset);

/** Adds the translation functions to `module`. */
export function buildMmu(module: ModuleBuilder, imports: Imports, map: MemoryMap): Mmu {
  const raise = buildRaise(module, imports);
  const ramOffset = buildRamOffset(module);
  const walk = buildWalk(module, { raise, ramOffset });
  const fill = buildFill(module, { walk, ramOffset, map });
  const translate = buildTranslate(module, fill, map);
  const stackPage = buildStackPage(module);
  const probeWrite = buildProbe(module, translate);
  const checked = buildChecked(module, { raise, dataAccess: imports.dataAccess });
  const loadSlow = new Map<number, FuncRef>();
  const storeSlow = new Map<number, FuncRef>();
  const modifySlow = new Map<number, FuncRef>();
  for (const size of [1, 2, 4, 8]) {
    const parts = { size, translate, probeWrite, checked, imports, map };
    loadSlow.set(size, buildLoad(module, { ...parts, access: Access.read, byte: loadSlow.get(1) }));
    storeSlow.set(size, buildStore(module, { ...parts, byte: storeSlow.get(1) }));
    modifySlow.set(
      size,
      buildLoad(module, { ...parts, access: Access.write, byte: loadSlow.get(1) }),
    );
  }
  const protect = buildProtect(module, map);
  const { seal, codeIntact } = buildCodeSum(module, map);
  buildFlush(module);
  buildSystemAccess(module, { walk, ramOffset, imports, map });
  return {
    loadSlow,
    storeSlow,
    modifySlow,
    stackPage,
    probeWrite,
    translate,
    checked,
    raise,
    walk,
    ramOffset,
    codeIntact,
    seal,
    protect,
  };
}

function buildRaise(module: ModuleBuilder, imports: Imports): FuncRef {
  const f = module.func([I32, I32, I32, I32]);
  set32(f, S.faultVector, f.param(0));
  set32(f, S.faultError, f.param(1));
  set32(f, S.faultHasError, f.param(2));
  set32(f, S.record, f.param(3));
  set32(f, S.faultRipSet, i32(0));
  f.throw(imports.faultTag);
  return f;
}

function buildRamOffset(module: ModuleBuilder): FuncRef {
  const f = module.func([I64], [I32]);
  const physical = f.param(0);
  const low = load.i64(CPU, i32(0), S.ramLow);
  f.if(ltU(physical, low), () => f.return(wrap(physical)));
  const high = f.let(sub(physical, i64(0x1_0000_0000)));
  f.if(
    ltU(high, load.i64(CPU, i32(0), S.ramHigh)),
    () => f.return(wrap(add(high, low))),
  );
  f.return(i32(-1));
  f.unreachable();
  return f;
}

/**
 * Walks the page tables (Intel SDM vol. 3, chapter 4). Sets accessed and dirty bits, raises #PF, and
 * leaves in `S.walkFlags` whether the page may be entered as writable.
 */
function buildWalk(
  module: ModuleBuilder,
  parts: { raise: FuncRef; ramOffset: FuncRef },
): FuncRef {
  const f = module.func([I64, I32], [I64]);
  const linear = f.param(0);
  const access = f.param(1);
  const cr0 = f.let(state64(S.cr0));
  set32(f, S.walkFlags, i32(WalkFlag.writable));
  // Canonical in 64-bit mode: bits 47 to 63 are equal.
  f.if(
    and(
      ne(shrS(shl(linear, 16), 16), linear),
      eq(state64(S.linearMask), i64(-1n)),
    ),
    () => {
      f.if(and(access, Access.probe | Access.quiet), () => f.return(i64(-1n)));
      f.call(parts.raise, nonCanonicalVector(linear), i32(0), i32(1), state32(S.record));
      f.unreachable();
    },
  );
  f.if(eqz(and(cr0, 1n << 31n)), () => f.return(and(linear, 0xffffffffn)));
  const cr4 = f.let(state64(S.cr4));
  const efer = f.let(state64(S.efer));
  const lma = f.let(ne(and(efer, 1n << 10n), i64(0)));
  const nxe = f.let(ne(and(efer, 1n << 11n), i64(0)));
  const pae = f.let(or(lma, ne(and(cr4, 1n << 5n), i64(0))));
  const entrySize = f.let(select(pae, i32(8), i32(4)));
  const indexBits = f.let(select(pae, i64(9), i64(10)));
  // Highest level: 4 in long mode, 3 with PAE, 2 otherwise.
  const level = f.local(I32, select(lma, i32(4), select(pae, i32(3), i32(2))));
  const table = f.local(
    I64,
    select(
      pae,
      select(lma, and(state64(S.cr3), 0x000ffffffffff000n), and(state64(S.cr3), 0xffffffe0n)),
      and(state64(S.cr3), 0xfffff000n),
    ),
  );
  const user = f.local(I32, i32(1));
  const writable = f.local(I32, i32(1));
  const noExec = f.local(I32, i32(0));
  const entry = f.local(I64);
  const entryRam = f.local(I32);
  const present = f.local(I32, i32(0));
  const shift = f.local(I64);
  const reserved = f.local(I32, i32(0));
  /** Sets bits of the entry; begins again where somebody else changed it meanwhile. */
  const mark = (marks: Expr) => {
    const at = { mem: RAM, address: entryRam };
    const change = (size: number) => atomicRmw(OpFe.rmw_cmpxchg, size, at, entry, or(entry, marks));
    f.if(
      ne(cond(pae, change(8), change(4)), entry),
      () => f.returnCall(f, linear, access),
    );
  };
  f.block((done) => {
    f.loop((next) => {
      f.set(shift, add(i64(12), mulLevel(sub(level, 1), indexBits)));
      const index = and(
        shrU(linear, shift),
        select(pae, i64(511), i64(1023)),
      );
      f.set(
        entryRam,
        call(
          parts.ramOffset,
          add(table, select(pae, shl(index, 3), shl(index, 2))),
        ),
      );
      // Page tables outside RAM read as not present.
      f.brIf(done, eq(entryRam, i32(-1)));
      f.set(
        entry,
        cond(pae, load.i64(RAM, entryRam), load.i64_32u(RAM, entryRam)),
      );
      f.brIf(done, eqz(and(entry, 1n)));
      // NX without EFER.NXE, and physical bits above 46, are reserved.
      f.if(
        and(
          pae,
          or(
            ne(and(entry, 0x000fc00000000000n), i64(0)),
            and(ne(and(entry, 1n << 63n), i64(0)), eqz(nxe)),
          ),
        ),
        () => {
          f.set(reserved, i32(1));
          f.br(done);
        },
      );
      const isPdpte = and(eq(level, i32(3)), eqz(lma));
      f.if(eqz(isPdpte), () => {
        f.set(user, and(user, wrap(shrU(entry, 2))));
        f.set(writable, and(writable, wrap(shrU(entry, 1))));
        f.set(noExec, or(noExec, and(wrap(shrU(entry, 63)), pae)));
      });
      const large = f.let(
        and(
          and(
            ne(and(entry, 0x80n), i64(0)),
            gtU(level, i32(1)),
          ),
          or(
            and(lma, ltU(level, i32(4))),
            and(eq(level, i32(2)), or(pae, ne(and(cr4, 1n << 4n), i64(0)))),
          ),
        ),
      );
      f.if(and(eq(level, i32(4)), ne(and(entry, 0x80n), i64(0))), () => {
        f.set(reserved, i32(1));
        f.br(done);
      });
      f.if(or(large, eq(level, i32(1))), () => {
        f.set(present, i32(1));
        f.br(done);
      });
      // A table: mark it accessed (a PDPTE of PAE has no such bit).
      f.if(
        and(and(eqz(and(entry, 0x20n)), eqz(isPdpte)), eqz(and(access, Access.probe))),
        () => mark(i64(0x20)),
      );
      f.set(table, and(entry, select(pae, i64(0x000ffffffffff000n), i64(0xfffff000n))));
      f.set(level, sub(level, 1));
      f.br(next);
    });
  });
  // Permissions.
  const isWrite = f.let(and(access, Access.write));
  const isUser = f.let(ne(and(access, Access.user), i32(0)));
  const isFetch = f.let(ne(and(access, Access.fetch), i32(0)));
  const wp = f.let(ne(and(cr0, 1n << 16n), i64(0)));
  const denied = f.local(I32, eqz(present));
  // Reserved bits inside large pages.
  f.if(and(and(present, gtU(level, i32(1))), pae), () => {
    const below = sub(shl(i64(1), shift), 1);
    f.if(ne(and(and(entry, 0x000fffffffffe000n), below), i64(0)), () => {
      f.set(reserved, i32(1));
      f.set(denied, i32(1));
    });
  });
  f.if(present, () => {
    f.if(and(isUser, eqz(user)), () => f.set(denied, i32(1)));
    f.if(and(isWrite, eqz(writable)), () => f.if(or(isUser, wp), () => f.set(denied, i32(1))));
    f.if(and(isFetch, noExec), () => f.set(denied, i32(1)));
    f.if(and(eqz(isUser), user), () => {
      // SMEP and SMAP keep the supervisor off user pages.
      f.if(and(isFetch, ne(and(cr4, 1n << 20n), i64(0))), () => f.set(denied, i32(1)));
      f.if(
        and(
          and(eqz(isFetch), ne(and(cr4, 1n << 21n), i64(0))),
          eqz(and(access, Access.smapOff)),
        ),
        () => f.set(denied, i32(1)),
      );
    });
  });
  f.if(or(denied, reserved), () => {
    f.if(and(access, Access.probe | Access.quiet), () => f.return(i64(-1n)));
    set64(f, S.cr2, linear);
    const error = or(
      or(or(or(present, reserved), shl(isWrite, 1)), shl(isUser, 2)),
      or(
        shl(reserved, 3),
        shl(and(isFetch, or(and(nxe, pae), ne(and(cr4, 1n << 20n), i64(0)))), 4),
      ),
    );
    f.call(parts.raise, i32(Vector.PF), error, i32(1), state32(S.record));
    f.unreachable();
  });
  // Accessed and dirty.
  const marks = f.let(or(i64(0x20), extU(shl(isWrite, 6))));
  f.if(
    and(ne(and(entry, marks), marks), eqz(and(access, Access.probe))),
    () => {
      mark(marks);
      f.set(entry, or(entry, marks));
    },
  );
  const mayWrite = and(
    or(writable, and(eqz(isUser), eqz(wp))),
    ne(and(entry, 0x40n), i64(0)),
  );
  const global = and(
    ne(and(entry, 0x100n), i64(0)),
    ne(and(cr4, 1n << 7n), i64(0)),
  );
  set32(
    f,
    S.walkFlags,
    or(
      select(mayWrite, i32(WalkFlag.writable), i32(0)),
      select(global, i32(WalkFlag.global), i32(0)),
    ),
  );
  f.if(gtU(level, i32(1)), () => {
    set64(f, S.largePages, or(state64(S.largePages), rangeOf(linear)));
  });
  const offsetMask = f.let(sub(shl(i64(1), shift), 1));
  const pageBase = f.local(
    I64,
    and(and(entry, select(pae, i64(0x000ffffffffff000n), i64(0xfffff000n))), xorOnes(offsetMask)),
  );
  // PSE-36: bits 13 to 20 of a 4 MiB entry are physical bits 32 to 39.
  f.if(and(eqz(pae), gtU(level, i32(1))), () => {
    f.set(
      pageBase,
      or(and(entry, 0xffc00000n), shl(and(entry, 0x1fe000n), 19)),
    );
  });
  f.drop(entrySize);
  f.return(or(pageBase, and(linear, offsetMask)));
  f.unreachable();
  return f;
}

/**
 * #SS where the running instruction addresses the stack segment, as the decoder says of its operand, or
 * by PUSH, POP and the like, whose own access to the stack is near RSP; else #GP.
 */
function nonCanonicalVector(linear: Expr): Expr {
  const record = state32(S.record);
  const fromTop = add(sub(linear, load.i64(CPU, i32(0), regOffset(Reg.rsp))), 64);
  const stack = cond(
    ltS(record, i32(0)),
    and(record, PseudoRecord.stack),
    or(
      and(load.i32_8u(CPU, record, Rec.scale), STACK_ADDRESS),
      and(
        eq(load.i32_16u(CPU, record, Rec.seg), i32(segOffset(Seg.SS))),
        ltU(fromTop, i64(128)),
      ),
    ),
  );
  return select(stack, i32(Vector.SS), i32(Vector.GP));
}

/** `level * bits` as i64. */
function mulLevel(level: Expr, bits: Expr): Expr {
  return mul(extU(level), bits);
}

/** Bit of `S.largePages` for the 512 GiB around `linear`. User and kernel addresses share none. */
function rangeOf(linear: Expr): Expr {
  return shl(i64(1), or(and(shrU(linear, 39), 31), and(shrU(linear, 42), 32)));
}

function xorOnes(a: Expr): Expr {
  return xor(a, i64(-1n));
}

function entryOf(linear: Expr): Expr {
  return add(
    state32(S.tlbBase),
    and(wrap(shrU(linear, 12 - Math.log2(TLB_ENTRY))), (TLB_ENTRIES - 1) * TLB_ENTRY),
  );
}

/** `(linear i64, access i32) -> ram i32`: walks and enters the page in the present TLB. */
function buildFill(
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
function buildTranslate(module: ModuleBuilder, fill: FuncRef, map: MemoryMap): FuncRef {
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
function buildStackPage(module: ModuleBuilder): FuncRef {
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

/** `(linear, size, record)`: all of the bytes may be written, or #PF. */
function buildProbe(module: ModuleBuilder, translate: FuncRef): FuncRef {
  const f = module.func([I64, I32, I32]);
  const linear = f.param(0);
  set32(f, S.record, f.param(2));
  f.drop(call(translate, linear, i32(Access.write)));
  const last = f.let(
    and(add(linear, extU(sub(f.param(1), 1))), state64(S.linearMask)),
  );
  f.if(
    ne(and(last, ~0xfffn), and(linear, ~0xfffn)),
    // Of the second page the first byte is named in CR2.
    () => f.drop(call(translate, and(last, ~0xfffn), i32(Access.write))),
  );
  return f;
}

/** `(linear, size, write, record)`: what `S.checks` asks for. */
function buildChecked(
  module: ModuleBuilder,
  parts: { raise: FuncRef; dataAccess: FuncRef },
): FuncRef {
  const f = module.func([I64, I32, I32, I32]);
  const [linear, size, write, record] = [f.param(0), f.param(1), f.param(2), f.param(3)];
  f.if(
    and(
      and(state32(S.checks), Check.alignment),
      ne(and(wrap(linear), sub(size, 1)), i32(0)),
    ),
    () => {
      f.call(parts.raise, i32(Vector.AC), i32(0), i32(1), record);
      f.unreachable();
    },
  );
  f.if(
    and(state32(S.checks), Check.breakpoints | Check.log),
    () => f.call(parts.dataAccess, linear, size, write),
  );
  return f;
}

interface SlowParts {
  size: number;
  checked: FuncRef;
  translate: FuncRef;
  probeWrite: FuncRef;
  imports: Imports;
  map: MemoryMap;
  byte: FuncRef | undefined;
}

function physicalF64(): Expr {
  return op(F64, Op.f64_convert_i64_u, state64(S.walkPhysical));
}

function crosses(linear: Expr, size: number): Expr {
  return gtU(and(wrap(linear), 4095), i32(4096 - size));
}

/** Byte addresses `linear + i`, wrapped as the mode says. */
function byteAt(linear: Expr, i: number): Expr {
  return i === 0 ? linear : and(add(linear, i), state64(S.linearMask));
}

/** `(linear, record) -> value`; with write access it is the first half of a read-modify-write. */
function buildLoad(module: ModuleBuilder, parts: SlowParts & { access: number }): FuncRef {
  const { size, imports } = parts;
  const f = module.func([I64, I32], [I64]);
  const linear = f.param(0);
  const record = f.param(1);
  set32(f, S.record, record);
  f.if(
    state32(S.checks),
    () => f.call(parts.checked, linear, i32(size), i32(parts.access), record),
  );
  if (size > 1) {
    f.if(crosses(linear, size), () => {
      if (parts.access === Access.write) f.call(parts.probeWrite, linear, i32(size), record);
      else {
        // Both pages before any device is read.
        f.drop(call(parts.translate, linear, i32(Access.read)));
        const second = and(byteAt(linear, size - 1), ~0xfffn);
        f.drop(call(parts.translate, second, i32(Access.read)));
      }
      let value: Expr = i64(0);
      const acc = f.local(I64);
      for (let i = 0; i < size; i++) {
        value = call(byteOf(parts.byte), byteAt(linear, i), record);
        f.set(acc, i === 0 ? value : or(acc, shl(value, 8 * i)));
      }
      f.return(acc);
    });
  }
  const ram = f.let(call(parts.translate, linear, i32(parts.access)));
  f.if(ne(ram, i32(-1)), () => f.return(loadSized(size, RAM, ram)));
  set64(f, S.mmioData, i64(0));
  f.call(imports.mmioLoad, physicalF64(), i32(size));
  f.return(loadSized(size, CPU, i32(0), S.mmioData));
  f.unreachable();
  return f;
}

function byteOf(func: FuncRef | undefined): FuncRef {
  if (func === undefined) throw new TypeError("byte helpers are built first");
  return func;
}

/** `(linear, value, record)`. */
function buildStore(module: ModuleBuilder, parts: SlowParts): FuncRef {
  const { size, imports, map } = parts;
  const f = module.func([I64, I64, I32]);
  const linear = f.param(0);
  const value = f.param(1);
  const record = f.param(2);
  set32(f, S.record, record);
  f.if(state32(S.checks), () => f.call(parts.checked, linear, i32(size), i32(1), record));
  if (size > 1) {
    f.if(crosses(linear, size), () => {
      f.call(parts.probeWrite, linear, i32(size), record);
      for (let i = 0; i < size; i++) {
        f.call(byteOf(parts.byte), byteAt(linear, i), shrU(value, 8 * i), record);
      }
      f.return();
    });
  }
  const ram = f.let(call(parts.translate, linear, i32(Access.write)));
  f.if(eq(ram, i32(-1)), () => {
    set64(f, S.mmioData, value);
    f.call(imports.mmioStore, physicalF64(), i32(size));
    f.return();
  });
  f.storeSized(size, RAM, ram, value);
  noticeCodeWrite(f, { map, imports }, { ram, size });
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
function buildProtect(module: ModuleBuilder, map: MemoryMap): FuncRef {
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
 * Checksum of a RAM page's decoded lines, so that code which a device wrote over is found when its page
 * is entered again; exported as `sealCode(ram)`, which keeps it, and `codeIntact(ram) -> i32`.
 */
function buildCodeSum(
  module: ModuleBuilder,
  map: MemoryMap,
): { seal: FuncRef; codeIntact: FuncRef } {
  const sum = module.func([I32], [I64]);
  {
    const f = sum;
    const page = f.let(and(f.param(0), ~0xfff));
    const marks = f.local(
      I64,
      load.i64(CPU, add(i32(map.codeMarks), shl(shrU(page, 12), 3))),
    );
    // Odd factors: what changes in one lane of one line never cancels out.
    const lanes = (n: number) => {
      const bytes = new Uint8Array(16);
      new Uint32Array(bytes.buffer).fill(n);
      return v128(bytes);
    };
    const factors = [0x9e3779b1, 0x85ebca77, 0xc2b2ae3d, 0x27d4eb2f];
    const acc = f.local(ValType.V128, lanes(0));
    f.block((done) => {
      f.loop((next) => {
        f.brIf(done, eqz(marks));
        const line = f.let(add(page, shl(wrap(ctz(marks)), 6)));
        const [a, b, c, d] = factors.map((factor, i) =>
          v(OpFd.i32x4_mul, load.v128(RAM, line, 16 * i), lanes(factor))
        ) as [Expr, Expr, Expr, Expr];
        const sum = v(OpFd.v128_xor, v(OpFd.v128_xor, a, b), v(OpFd.v128_xor, c, d));
        f.set(acc, v(OpFd.i32x4_mul, v(OpFd.v128_xor, acc, sum), lanes(0x165667b1)));
        f.set(marks, and(marks, sub(marks, 1)));
        f.br(next);
      });
    });
    const half = (lane: number) => simd(I64, OpFd.i64x2_extract_lane, [acc], [lane]);
    f.return(xor(half(0), rotl(half(1), 17)));
    f.unreachable();
  }
  const slot = (ram: Expr) => add(i32(map.codeSums), shl(shrU(ram, 12), 3));
  const seal = module.func([I32]);
  seal.store64(CPU, slot(seal.param(0)), call(sum, seal.param(0)));
  module.exportFunc("sealCode", seal);
  const intact = module.func([I32], [I32]);
  intact.return(eq(call(sum, intact.param(0)), load.i64(CPU, slot(intact.param(0)))));
  intact.unreachable();
  module.exportFunc("codeIntact", intact);
  return { seal, codeIntact: intact };
}

/**
 * Exported `flushTlb()` (data), `flushLocal()` (data and code, but for global pages) and
 * `flushPage(linear) -> i32` (data and code; 0 where a large page may be there: flush all).
 */
function buildFlush(module: ModuleBuilder): void {
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
  local.if(state32(TlbNotes.code), () => {
    set32(local, TlbNotes.code, i32(0));
    const code = local.local(I32, i32(ITLB));
    local.loop((next) => {
      local.if(
        eqz(load.i32(CPU, code, 12)),
        () => local.store64(CPU, code, i64(-1n)),
      );
      local.set(code, add(code, ITLB_ENTRY));
      local.brIf(next, ltU(code, i32(ITLB_END)));
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

/**
 * Exports for TypeScript's instructions, all with the record of the running instruction in `S.record`:
 * `systemLoad(linear, size, access) -> i64` and `systemStore(linear, value, size, access)`, byte by byte
 * through page walks (access: Access bits), and `tryWalk(linear, access) -> i64` (-1: a fault is raised in
 * `fault*`).
 */
function buildSystemAccess(
  module: ModuleBuilder,
  parts: { walk: FuncRef; ramOffset: FuncRef; imports: Imports; map: MemoryMap },
): void {
  const load1 = module.func([I64, I32, I32], [I64]);
  {
    const f = load1;
    const acc = f.local(I64, i64(0));
    const i = f.local(I32, i32(0));
    f.loop((next) => {
      const at = and(add(f.param(0), extU(i)), state64(S.linearMask));
      const physical = f.let(call(parts.walk, at, f.param(2)));
      const ram = f.let(call(parts.ramOffset, physical));
      const byte = f.local(I64, i64(0xff));
      f.if(ne(ram, i32(-1)), () => f.set(byte, load.i64_8u(RAM, ram)), () => {
        set64(f, S.walkPhysical, physical);
        f.call(parts.imports.mmioLoad, physicalF64(), i32(1));
        f.set(byte, load.i64_8u(CPU, i32(0), S.mmioData));
      });
      f.set(acc, or(acc, shl(byte, extU(shl(i, 3)))));
      f.set(i, add(i, 1));
      f.brIf(next, ltU(i, f.param(1)));
    });
    f.return(acc);
    f.unreachable();
  }
  module.exportFunc("systemLoad", load1);

  const store1 = module.func([I64, I64, I32, I32]);
  {
    const f = store1;
    const access = f.let(or(f.param(3), Access.write));
    // All pages first, so that nothing is half written.
    f.drop(call(parts.walk, f.param(0), access));
    f.drop(
      call(
        parts.walk,
        and(add(f.param(0), extU(sub(f.param(2), 1))), state64(S.linearMask)),
        access,
      ),
    );
    const i = f.local(I32, i32(0));
    f.loop((next) => {
      const at = and(add(f.param(0), extU(i)), state64(S.linearMask));
      const physical = f.let(call(parts.walk, at, access));
      const ram = f.let(call(parts.ramOffset, physical));
      const byte = f.let(shrU(f.param(1), extU(shl(i, 3))));
      f.if(ne(ram, i32(-1)), () => {
        f.storeSized(1, RAM, ram, byte);
        noticeCodeWrite(f, parts, { ram, size: 1 });
      }, () => {
        set64(f, S.walkPhysical, physical);
        set64(f, S.mmioData, byte);
        f.call(parts.imports.mmioStore, physicalF64(), i32(1));
      });
      f.set(i, add(i, 1));
      f.brIf(next, ltU(i, f.param(2)));
    });
  }
  module.exportFunc("systemStore", store1);

  const tryWalk = module.func([I64, I32], [I64]);
  {
    const f = tryWalk;
    f.tryCatch(parts.imports.faultTag, () => {
      f.return(call(parts.walk, f.param(0), f.param(1)));
    });
    f.return(i64(-1n));
    f.unreachable();
  }
  module.exportFunc("tryWalk", tryWalk);
}
