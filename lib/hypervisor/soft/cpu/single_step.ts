/**
 * One instruction at a time: the trap flag, breakpoints, and what holds interrupts back for an instruction.
 *
 * @module
 */

import type { CodeCache } from "./code_cache.ts";
import type { CodeFetch } from "./code_fetch.ts";
import type { HostContext } from "./host_context.ts";
import { CodeMode, Exit, Flag, S, Seg, Vector } from "./state.ts";

/** Steps of one processor. */
export class SingleStep {
  readonly #cpu: HostContext;
  readonly #code: CodeCache;
  readonly #fetch: CodeFetch;
  /** Data breakpoints that the running instruction hit. */
  #hits = 0;

  constructor(cpu: HostContext, code: CodeCache, fetch: CodeFetch) {
    this.#cpu = cpu;
    this.#code = code;
    this.#fetch = fetch;
  }

  /** An access while data breakpoints are armed (Intel SDM vol. 3, 18.2.4). */
  dataAccess(linear: bigint, access: { size: number; write: boolean }): void {
    const dr7 = this.#cpu.get32(S.dr + 8 * 7);
    for (let n = 0; n < 4; n++) {
      if (((dr7 >>> (2 * n)) & 3) === 0) continue;
      const type = (dr7 >>> (16 + 4 * n)) & 3;
      if (type === 0 || type === 2 || (type === 1 && !access.write)) continue;
      const length = [1n, 2n, 8n, 4n][(dr7 >>> (18 + 4 * n)) & 3] as bigint;
      const start = this.#cpu.get64(S.dr + 8 * n) & ~(length - 1n);
      if (linear < start + length && start < linear + BigInt(access.size)) this.#hits |= 1 << n;
    }
  }

  /** Breakpoints of instructions at `linear`. */
  #instructionHits(linear: bigint): number {
    const dr7 = this.#cpu.get32(S.dr + 8 * 7);
    let hits = 0;
    for (let n = 0; n < 4; n++) {
      if (((dr7 >>> (2 * n)) & 3) === 0 || ((dr7 >>> (16 + 4 * n)) & 3) !== 0) continue;
      if (this.#cpu.get64(S.dr + 8 * n) === linear) hits |= 1 << n;
    }
    return hits;
  }

  /** Sets bits of DR6. */
  #noteDebug(bits: number): void {
    this.#cpu.set32(S.dr + 8 * 6, this.#cpu.get32(S.dr + 8 * 6) | bits);
  }

  /** Executes exactly one instruction; with `trap` it ends in #DB, with `debug` breakpoints count. */
  run(how: { trap: boolean; debug: boolean }): number {
    const cpu = this.#cpu;
    const rip = cpu.get64(S.rip);
    const linear = (rip + cpu.segBase(Seg.CS)) & cpu.get64(S.linearMask);
    const resume = (cpu.get32(S.flagOther) & Flag.RF) !== 0;
    if (how.debug && !resume) {
      const hits = this.#instructionHits(linear);
      if (hits !== 0) {
        this.#noteDebug(hits);
        return this.#fetch.setFault(Vector.DB);
      }
    }
    this.#hits = 0;
    const ram = this.#fetch.address(linear);
    if (ram < 0) return Exit.Fault;
    const page = this.#code.page(ram - (ram & 4095), cpu.get32(S.codeTag) & ~CodeMode.user);
    this.#fetch.enterTlb(linear, cpu.get32(S.codeTag), page);
    const enabled = cpu.get32(S.flagOther) & Flag.IF;
    const exit = this.#fetch.runScratch(linear, { page, stop: true });
    if (exit === Exit.Fault) return exit;
    // STI holds interrupts back for one instruction more, HLT most of all.
    if (
      enabled === 0 && (cpu.get32(S.flagOther) & Flag.IF) !== 0 && this.#fetch.bytes[0] === 0xfb
    ) {
      cpu.set32(S.shadow, 1);
    }
    if (resume) cpu.set32(S.flagOther, cpu.get32(S.flagOther) & ~Flag.RF);
    const trap = how.trap &&
      ((cpu.get32(S.flagOther) & Flag.TF) !== 0 || !entersHandler(this.#fetch.bytes));
    if (!trap && this.#hits === 0) return exit;
    this.#noteDebug((trap ? 0x4000 : 0) | this.#hits);
    return this.#fetch.setFault(Vector.DB);
  }
}

/**
 * True for INT n, INT3, INTO, INT1 and SYSCALL: where they clear TF, the step that they are is not
 * trapped in their handler (Intel SDM vol. 3, 18.3.1.4; SYSCALL looks at the new flags).
 */
function entersHandler(code: Uint8Array): boolean {
  const [first, second] = code;
  return first === 0xcc || first === 0xcd || first === 0xce || first === 0xf1 ||
    (first === 0x0f && second === 0x05);
}
