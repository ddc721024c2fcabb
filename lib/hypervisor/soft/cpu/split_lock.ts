/**
 * Locked instructions that no atomic operation of WebAssembly does: misaligned ones, and 16 bytes.
 *
 * @module
 */

import { bufferAddress, compareExchange16 } from "../../../host/mod.ts";
import type { CpuTeam } from "./cpu_team.ts";
import { Locked } from "./cx.ts";
import { S } from "./state.ts";

/** Does them for one vCPU. */
export class SplitLocks {
  readonly #team: CpuTeam;
  readonly #bytes: Uint8Array;
  readonly #words: BigUint64Array;
  readonly #ramAddress: bigint;
  readonly #scratchAddress: bigint;

  /** @param parts `ram` and `cpu`: memories of RAM and of this vCPU's state. */
  constructor(parts: { team: CpuTeam; ram: WebAssembly.Memory; cpu: WebAssembly.Memory }) {
    this.#team = parts.team;
    this.#bytes = new Uint8Array(parts.ram.buffer);
    this.#words = new BigUint64Array(parts.ram.buffer);
    this.#ramAddress = bufferAddress(parts.ram.buffer);
    this.#scratchAddress = bufferAddress(parts.cpu.buffer) + BigInt(S.scratch);
  }

  /**
   * Changes `size` bytes at RAM offset `ram`, from `next` on in another page where that is not -1, and
   * gives what they were.
   */
  change(
    at: { ram: number; next: number; size: number },
    how: { kind: Locked; operand: bigint; expected: bigint },
  ): bigint {
    const { ram, next, size } = at;
    if (next === -1 && (ram & 7) + size <= 8) return this.#within(ram, size, how);
    const bytes = this.#bytes;
    const inPage = next === -1 ? size : 4096 - (ram & 4095);
    const place = (i: number) => i < inPage ? ram + i : next + i - inPage;
    return this.#team.exclusively(() => {
      let old = 0n;
      for (let i = 0; i < size; i++) {
        old |= BigInt(bytes[place(i)] as number) << BigInt(8 * i);
      }
      const value = changed(old, how);
      for (let i = 0; i < size; i++) {
        bytes[place(i)] = Number((value >> BigInt(8 * i)) & 0xffn);
      }
      return old;
    });
  }

  /** Bytes within an aligned word: that is exchanged where it has not changed meanwhile. */
  #within(
    ram: number,
    size: number,
    how: { kind: Locked; operand: bigint; expected: bigint },
  ): bigint {
    const index = ram >>> 3;
    const shift = BigInt(8 * (ram & 7));
    const mask = (1n << BigInt(8 * size)) - 1n;
    for (;;) {
      const word = Atomics.load(this.#words, index);
      const old = (word >> shift) & mask;
      const value = (word & ~(mask << shift)) | ((changed(old, how) & mask) << shift);
      if (Atomics.compareExchange(this.#words, index, word, value) === word) return old;
    }
  }

  /** LOCK CMPXCHG16B at RAM offset `ram` with the operands in `S.scratch`. */
  exchange16(ram: number): void {
    compareExchange16(this.#ramAddress + BigInt(ram), this.#scratchAddress);
  }
}

function changed(
  old: bigint,
  how: { kind: Locked; operand: bigint; expected: bigint },
): bigint {
  const { kind, operand, expected } = how;
  switch (kind) {
    case Locked.add:
      return old + operand;
    case Locked.sub:
      return old - operand;
    case Locked.and:
      return old & operand;
    case Locked.or:
      return old | operand;
    case Locked.xor:
      return old ^ operand;
    case Locked.xchg:
      return operand;
    case Locked.cmpxchg:
      return old === expected ? operand : old;
  }
}
