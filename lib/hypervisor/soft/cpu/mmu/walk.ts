/**
 * Page walks as generated code: 4-level, PAE and 32-bit (Intel SDM vol. 3, chapter 4).
 *
 * @module
 */

import {
  add,
  and,
  atomicRmw,
  call,
  cond,
  eq,
  eqz,
  type Expr,
  extU,
  type FuncRef,
  gtU,
  i32,
  i64,
  load,
  ltS,
  ltU,
  type ModuleBuilder,
  mul,
  ne,
  OpFe,
  or,
  select,
  shl,
  shrS,
  shrU,
  sub,
  ValType,
  wrap,
  xor,
} from "../../wasm/mod.ts";
import {
  Access,
  CPU,
  PseudoRecord,
  RAM,
  Rec,
  Reg,
  regOffset,
  S,
  Seg,
  segOffset,
  STACK_ADDRESS,
  Vector,
  WalkFlag,
} from "../state.ts";
import { type Imports, set32, set64, state32, state64 } from "./parts.ts";

const { I32, I64 } = ValType;

/** `(vector, error, hasError, record)`: leaves for the guest fault. */
export function buildRaise(module: ModuleBuilder, imports: Imports): FuncRef {
  const f = module.func([I32, I32, I32, I32]);
  set32(f, S.faultVector, f.param(0));
  set32(f, S.faultError, f.param(1));
  set32(f, S.faultHasError, f.param(2));
  set32(f, S.record, f.param(3));
  set32(f, S.faultRipSet, i32(0));
  f.throw(imports.faultTag);
  return f;
}

/** `(physical i64) -> i32`: offset in RAM, -1 outside of it. */
export function buildRamOffset(module: ModuleBuilder): FuncRef {
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
export function buildWalk(
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
export function rangeOf(linear: Expr): Expr {
  return shl(i64(1), or(and(shrU(linear, 39), 31), and(shrU(linear, 42), 32)));
}

function xorOnes(a: Expr): Expr {
  return xor(a, i64(-1n));
}
