/**
 * Port input and output (Intel SDM vol. 1, chapter 19).
 *
 * @module
 */

import { createException } from "../../wasm/mod.ts";
import { HostResult } from "../cx.ts";
import type { HostContext, HostFunction } from "../host_context.ts";
import { Extra } from "../opcode.ts";
import { Access, Flag, Rec, Reg, regOffset, S, Seg, Vector } from "../state.ts";
import {
  field16,
  immediate,
  iopl,
  isProtected,
  loadImplicit,
  loadOwn,
  ownAccess,
  segLimit,
  setZeroExtended,
  storeOwn,
} from "./access.ts";
import { hasTask32 } from "./code_segments.ts";
import { segmented } from "./stack.ts";

/** Elements of a REP string that one turn moves, so that interrupts come in between. */
const BATCH = 256;

/** #GP(0) where IOPL and the permission bitmap of the TSS deny `size` ports from `port` on. */
function checkPort(cpu: HostContext, port: number, size: number): void {
  if (!isProtected(cpu) || cpu.get32(S.cpl) <= iopl(cpu)) return;
  const limit = segLimit(cpu, Seg.TR);
  if (!hasTask32(cpu) || limit < 0x67) cpu.raise(Vector.GP, 0);
  const base = cpu.segBase(Seg.TR);
  const map = Number(loadImplicit(cpu, base + 0x66n, 2)) + (port >>> 3);
  if (map + 1 > limit) cpu.raise(Vector.GP, 0);
  const bits = Number(loadImplicit(cpu, base + BigInt(map), 2)) >>> (port & 7);
  if ((bits & ((1 << size) - 1)) !== 0) cpu.raise(Vector.GP, 0);
}

/** Immediate forms have opcodes E4 to E7, the others take DX. */
function portOf(cpu: HostContext, record: number, opcode: number): number {
  return opcode < 0xe8
    ? immediate(cpu, record) & 0xff
    : cpu.u16[regOffset(Reg.rdx) >>> 1] as number;
}

function sizeOf(info: { size: number }): number {
  return info.size === 0 ? 1 : Math.min(info.size, 4);
}

/** After an access: out of generated code where the platform asks for it (it has emptied the fuel). */
function afterAccess(cpu: HostContext): HostResult {
  if (cpu.get32(S.fuel) > 0) return HostResult.Next;
  cpu.set32(S.fuel, -1);
  return HostResult.Jump;
}

function input(cpu: HostContext, port: number, size: number): number {
  const data = cpu.portData;
  data.setUint32(0, 0xffff_ffff, true);
  cpu.platform.portIn(port, size, data);
  if (size === 1) return data.getUint8(0);
  return size === 2 ? data.getUint16(0, true) : data.getUint32(0, true);
}

/** IN. */
export const portIn: HostFunction = (cpu, record) => {
  const info = cpu.info(record);
  const size = sizeOf(info);
  const port = portOf(cpu, record, info.insn.opcode);
  checkPort(cpu, port, size);
  setZeroExtended(cpu, regOffset(Reg.rax), { value: input(cpu, port, size), size });
  return afterAccess(cpu);
};

/** OUT. */
export const portOut: HostFunction = (cpu, record) => {
  const info = cpu.info(record);
  const size = sizeOf(info);
  const port = portOf(cpu, record, info.insn.opcode);
  checkPort(cpu, port, size);
  const data = cpu.portData;
  data.setUint32(0, cpu.get32(regOffset(Reg.rax)), true);
  cpu.platform.portOut(port, size, data);
  return afterAccess(cpu);
};

interface StringMove {
  readonly port: number;
  readonly size: number;
  readonly repeat: boolean;
  readonly mask: bigint;
  readonly step: bigint;
}

function stringMove(cpu: HostContext, record: number): StringMove {
  const size = sizeOf(cpu.info(record));
  const extra = cpu.u8[record + Rec.extra] as number;
  const address = extra & Extra.addressMask;
  const port = cpu.u16[regOffset(Reg.rdx) >>> 1] as number;
  checkPort(cpu, port, size);
  return {
    port,
    size,
    repeat: extra >>> Extra.repShift !== 0,
    mask: address === 0 ? 0xffff_ffff_ffff_ffffn : address === 1 ? 0xffff_ffffn : 0xffffn,
    step: (cpu.get32(S.flagOther) & Flag.DF) !== 0 ? BigInt(-size) : BigInt(size),
  };
}

/** Adds `delta` to a register in the address size; 16-bit addressing keeps the upper bits. */
function advance(cpu: HostContext, n: number, by: { delta: bigint; mask: bigint }): void {
  const old = cpu.reg(n);
  const kept = by.mask === 0xffffn ? old & ~0xffffn : 0n;
  cpu.setReg(n, BigInt.asUintN(64, kept | ((old + by.delta) & by.mask)));
}

/** Repeats `element` as the prefix says; goes on at this instruction after a batch. */
function repeat(cpu: HostContext, record: number, how: {
  move: StringMove;
  element: () => void;
}): HostResult {
  const { move } = how;
  if (!move.repeat) {
    how.element();
    return afterAccess(cpu);
  }
  for (let n = 0; n < BATCH; n++) {
    if ((cpu.reg(Reg.rcx) & move.mask) === 0n) return afterAccess(cpu);
    how.element();
    advance(cpu, Reg.rcx, { delta: -1n, mask: move.mask });
    if (cpu.get32(S.fuel) <= 0) break;
  }
  if ((cpu.reg(Reg.rcx) & move.mask) !== 0n) {
    const offset = field16(cpu, record, Rec.off);
    cpu.set64(S.rip, cpu.get64(S.ripBase) + BigInt(offset));
  }
  // The runtime looks at timers and interrupts between batches.
  cpu.set32(S.fuel, -1);
  return HostResult.Jump;
}

/** INS. */
export const portInString: HostFunction = (cpu, record) => {
  const move = stringMove(cpu, record);
  const { size, mask } = move;
  const slot = field16(cpu, record, Rec.b);
  return repeat(cpu, record, {
    move,
    element: () => {
      const offset = cpu.reg(Reg.rdi) & mask;
      const linear = segmented(cpu, { slot, offset, size, write: true });
      // The destination must be writable before the device is read.
      checkWritable(cpu, linear);
      if ((linear & 0xfffn) + BigInt(size) > 0x1000n) {
        checkWritable(cpu, (linear + BigInt(size - 1)) & cpu.get64(S.linearMask));
      }
      const value = BigInt(input(cpu, move.port, size));
      storeOwn(cpu, linear, { value, size });
      advance(cpu, Reg.rdi, { delta: move.step, mask });
    },
  });
};

function checkWritable(cpu: HostContext, linear: bigint): void {
  if (cpu.exports.tryWalk(linear, ownAccess(cpu) | Access.write) >= 0n) return;
  throw createException(cpu.tag);
}

/** OUTS. */
export const portOutString: HostFunction = (cpu, record) => {
  const move = stringMove(cpu, record);
  const { size, mask } = move;
  const slot = field16(cpu, record, Rec.seg);
  return repeat(cpu, record, {
    move,
    element: () => {
      const offset = cpu.reg(Reg.rsi) & mask;
      const linear = segmented(cpu, { slot, offset, size });
      const value = Number(loadOwn(cpu, linear, size));
      cpu.portData.setUint32(0, value, true);
      cpu.platform.portOut(move.port, size, cpu.portData);
      advance(cpu, Reg.rsi, { delta: move.step, mask });
    },
  });
};
