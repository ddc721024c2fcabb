/**
 * Emits the decoder of LZ4 blocks as WebAssembly.
 *
 * @module
 */

import { assembler } from "../hypervisor/mod.ts";
import { SAFETY } from "./unpack_room.ts";

const { add, and, eq, eqz, geU, gtU, i32, load, ltU, ModuleBuilder, ne, or, shl } = assembler;
const { extU, select, shrU, sub, ValType } = assembler;
const { I32, I64 } = ValType;

const TARGET = 0;
const SOURCE = 1;
const MIN_MATCH = 4;
const VECTOR_BYTES = 16;
/** What a call unpacks, about: code that V8 optimized meanwhile is entered at the next one. */
const CHUNK_BYTES = 1 << 18;
/** Longer than any match may be. */
const TOO_LONG = 1 << 28;

/** The module: it imports memories `target` and `source`, which may be the same, and exports `run`. */
export function emitLz4(): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder();
  const memory = { minPages: 1, maxPages: 65536, shared: true };
  module.importMemory("e", "target", memory);
  module.importMemory("e", "source", memory);
  const f = module.func([I32, I32, I32, I32, I32, I32], [I64]);
  const [from, end, to, start, limit, targetEnd] = f.params as [
    ...[assembler.Local, assembler.Local, assembler.Local],
    ...[assembler.Local, assembler.Local, assembler.Local],
  ];
  const pause = f.local(I32, add(to, CHUNK_BYTES));
  // Below 0 where the target is small.
  const safe = f.local(I32, select(gtU(targetEnd, i32(SAFETY)), sub(targetEnd, SAFETY), i32(0)));
  const token = f.local(I32);
  const count = f.local(I32);
  const more = f.local(I32);
  const stop = f.local(I32);
  const match = f.local(I32);
  const result = (damaged: number) => {
    const high = or(from, i32(damaged << 31));
    f.return(or(shl(extU(high), 32), extU(to)));
  };
  const damagedIf = (condition: assembler.Expr) => f.ifUnlikely(condition, () => result(1));
  const byte = () => {
    f.set(more, load.i32_8u(SOURCE, from));
    f.set(from, add(from, 1));
  };
  /** Adds bytes to `count` where its 4 bits in the token are all set. */
  const extend = (full: number) => {
    f.if(eq(count, i32(full)), () => {
      f.loop((again) => {
        damagedIf(geU(from, end));
        byte();
        f.set(count, add(count, more));
        damagedIf(gtU(count, i32(TOO_LONG)));
        f.brIf(again, eq(more, i32(255)));
      });
    });
  };
  /** Where the target ends in the block, `count` is cut to what has room. */
  const cut = () => {
    f.ifUnlikely(gtU(count, sub(limit, to)), () => {
      damagedIf(ne(limit, targetEnd));
      f.set(count, sub(limit, to));
    });
  };
  const words = (copy: (step: () => void) => void) => {
    f.block((done) => {
      f.loop((again) => {
        f.brIf(done, geU(to, stop));
        copy(() => f.set(to, add(to, 8)));
        f.br(again);
      });
    });
  };
  /** Copies to `stop`, and up to 15 bytes more, from 16 bytes away or farther; mostly it is one copy. */
  const vectors = (mem: number, source: assembler.Local) => {
    f.storeV128(TARGET, to, load.v128(mem, source));
    f.if(gtU(count, i32(VECTOR_BYTES)), () => {
      f.loop((again) => {
        f.set(source, add(source, VECTOR_BYTES));
        f.set(to, add(to, VECTOR_BYTES));
        f.storeV128(TARGET, to, load.v128(mem, source));
        f.brIf(again, ltU(add(to, VECTOR_BYTES), stop));
      });
    });
  };
  const bytes = (copy: () => void) => {
    f.block((done) => {
      f.loop((again) => {
        f.brIf(done, eq(to, stop));
        copy();
        f.set(to, add(to, 1));
        f.br(again);
      });
    });
  };
  f.loop((next) => {
    f.if(geU(from, end), () => result(0));
    byte();
    f.set(token, more);
    f.set(count, shrU(token, 4));
    extend(15);
    damagedIf(gtU(count, sub(end, from)));
    cut();
    f.set(stop, add(to, count));
    f.ifLikely(ltU(stop, safe), () => {
      f.set(match, add(from, count));
      vectors(SOURCE, from);
      f.set(from, match);
      f.set(to, stop);
    }, () =>
      bytes(() => {
        f.store8(TARGET, to, load.i32_8u(SOURCE, from));
        f.set(from, add(from, 1));
      }));
    // The last sequence has no match; and a full target ends a prefix.
    f.if(or(geU(from, end), eq(to, targetEnd)), () => result(0));
    damagedIf(ltU(sub(end, from), i32(2)));
    f.set(match, load.i32_16u(SOURCE, from));
    f.set(from, add(from, 2));
    damagedIf(or(eqz(match), gtU(match, sub(to, start))));
    f.set(count, add(and(token, i32(15)), MIN_MATCH));
    extend(15 + MIN_MATCH);
    cut();
    f.set(stop, add(to, count));
    f.set(token, match);
    f.set(match, sub(to, match));
    f.if(and(geU(token, i32(VECTOR_BYTES)), ltU(stop, safe)), () => {
      vectors(TARGET, match);
      f.set(to, stop);
    }, () =>
      f.if(and(geU(token, i32(8)), ltU(stop, safe)), () => {
        words((step) => {
          f.store64(TARGET, to, load.i64(TARGET, match));
          f.set(match, add(match, 8));
          step();
        });
        f.set(to, stop);
      }, () =>
        f.if(eq(token, i32(1)), () => {
          f.memoryFill(TARGET, to, load.i32_8u(TARGET, match), count);
          f.set(to, stop);
        }, () =>
          bytes(() => {
            f.store8(TARGET, to, load.i32_8u(TARGET, match));
            f.set(match, add(match, 1));
          }))));
    f.brIf(next, and(ltU(to, pause), ltU(to, targetEnd)));
  });
  result(0);
  f.unreachable();
  module.exportFunc("run", f);
  module.optimize(f);
  return module.finish();
}
