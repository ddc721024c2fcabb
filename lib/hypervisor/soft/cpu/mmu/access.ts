/**
 * The slow paths of loads and stores as generated code: TLB misses, accesses across pages, devices, pages
 * that hold decoded code; and the accesses of TypeScript's instructions.
 *
 * @module
 */

import {
  add,
  and,
  call,
  eq,
  type Expr,
  extU,
  type FuncRef,
  gtU,
  i32,
  i64,
  load,
  loadSized,
  ltU,
  type ModuleBuilder,
  ne,
  or,
  shl,
  shrU,
  sub,
  ValType,
  wrap,
} from "../../wasm/mod.ts";
import { Access, Check, CPU, RAM, S, Vector } from "../state.ts";
import {
  type Imports,
  type MemoryMap,
  noticeCodeWrite,
  physicalF64,
  set32,
  set64,
  state32,
  state64,
} from "./parts.ts";

const { I32, I64 } = ValType;

/** `(linear, size, record)`: all of the bytes may be written, or #PF. */
export function buildProbe(module: ModuleBuilder, translate: FuncRef): FuncRef {
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
export function buildChecked(
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

function crosses(linear: Expr, size: number): Expr {
  return gtU(and(wrap(linear), 4095), i32(4096 - size));
}

/** Byte addresses `linear + i`, wrapped as the mode says. */
function byteAt(linear: Expr, i: number): Expr {
  return i === 0 ? linear : and(add(linear, i), state64(S.linearMask));
}

/** `(linear, record) -> value`; with write access it is the first half of a read-modify-write. */
export function buildLoad(module: ModuleBuilder, parts: SlowParts & { access: number }): FuncRef {
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
export function buildStore(module: ModuleBuilder, parts: SlowParts): FuncRef {
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

/**
 * Exports for TypeScript's instructions, all with the record of the running instruction in `S.record`:
 * `systemLoad(linear, size, access) -> i64` and `systemStore(linear, value, size, access)`, byte by byte
 * through page walks (access: Access bits), and `tryWalk(linear, access) -> i64` (-1: a fault is raised in
 * `fault*`).
 */
export function buildSystemAccess(
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
