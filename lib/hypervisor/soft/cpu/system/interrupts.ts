/**
 * Delivery of exceptions and interrupts (Intel SDM vol. 3, 6.8 to 6.15).
 *
 * @module
 */

import { HostResult } from "../cx.ts";
import type { HostContext, HostFunction } from "../host_context.ts";
import { isException } from "../../wasm/mod.ts";
import { Access, CodeMode, Flag, Reg, S, Seg, SegAttr, Vector } from "../state.ts";
import { immediate, is64, isCanonical, isLong, isProtected, loadImplicit } from "./access.ts";
import {
  checkRip,
  enterCode,
  enterReal,
  enterStack,
  type InnerStack,
  innerStack,
  taskStackPointer,
} from "./code_segments.ts";
import {
  dplOf,
  isCode,
  isConforming,
  isPresent,
  readDescriptor,
  SystemType,
  typeOf,
} from "./descriptors.ts";
import { Deliver } from "./fast_delivery.ts";
import { setOtherFlags, updateMode } from "./mode.ts";
import { loadNull } from "./segments.ts";
import { currentStack, Stack } from "./stack.ts";

/** What is delivered. */
export interface Delivery {
  readonly vector: number;
  /** Error code, where `hasError`. */
  readonly error?: number;
  readonly hasError: boolean;
  /** INT n, INT3, INTO: the gate's DPL counts. */
  readonly software?: boolean;
  /** An interrupt, or NMI: not caused by the running instruction. */
  readonly external?: boolean;
  /** RIP to save. */
  readonly rip: bigint;
}

/** Exceptions that make a double fault of a second one. */
function isContributory(vector: number): boolean {
  return vector === Vector.DE || (vector >= Vector.TS && vector <= Vector.GP);
}

/** Exceptions whose saved RIP is behind the instruction, or that have no instruction: RF stays. */
function isTrap(vector: number): boolean {
  return vector === Vector.DB || vector === Vector.BP || vector === Vector.OF ||
    vector === Vector.NMI;
}

/**
 * Delivers an exception or interrupt; a fault on the way is delivered instead, or #DF is.
 * @returns `"triple"` where the processor shuts down.
 */
export function deliver(cpu: HostContext, what: Delivery): "ok" | "triple" {
  let now = what;
  for (;;) {
    try {
      enter(cpu, now);
      return "ok";
    } catch (error) {
      if (!isException(error, cpu.tag)) throw error;
    }
    if (now.vector === Vector.DF && now.external !== true) return "triple";
    const first = now.external === true || now.software === true ? -1 : now.vector;
    const second = cpu.get32(S.faultVector);
    const double = isContributory(first)
      ? isContributory(second)
      : first === Vector.PF && (isContributory(second) || second === Vector.PF);
    now = double ? { vector: Vector.DF, error: 0, hasError: true, rip: what.rip } : {
      vector: second,
      error: cpu.get32(S.faultError),
      hasError: cpu.get32(S.faultHasError) !== 0,
      rip: what.rip,
    };
  }
}

/** One attempt; throws the guest fault that comes up, with nothing of the state changed. */
function enter(cpu: HostContext, what: Delivery): void {
  // Error codes of faults on the way say whether a program or an event caused them.
  const ext = what.software === true ? 0 : 1;
  if (is64(cpu)) {
    const how = (what.hasError ? Deliver.hasError : 0) | (isFault(what) ? Deliver.fault : 0) |
      (what.software === true ? Deliver.software : 0);
    if (cpu.exports.deliverFast(what.vector, what.error ?? 0, how, what.rip) !== 0) return;
  }
  if (!isProtected(cpu)) enterRealMode(cpu, what);
  else if (isLong(cpu)) enterLong(cpu, what, ext);
  else enterProtected(cpu, what, ext);
}

function isFault(what: Delivery): boolean {
  return what.software !== true && what.external !== true && !isTrap(what.vector);
}

function savedFlags(cpu: HostContext, what: Delivery): bigint {
  const flags = cpu.getRflags() & 0xffff_ffffn;
  return isFault(what) ? flags | BigInt(Flag.RF) : flags;
}

function enterRealMode(cpu: HostContext, what: Delivery): void {
  const at = 4 * what.vector;
  if (at + 3 > (cpu.get32(S.idtLimit) & 0xffff)) cpu.raise(Vector.GP, at * 2 + 2);
  const entry = Number(loadImplicit(cpu, cpu.get64(S.idtBase) + BigInt(at), 4));
  const stack = Stack.current(cpu);
  stack.reserve(6);
  stack.push(cpu.getRflags(), 2);
  stack.push(BigInt(cpu.selector(Seg.CS)), 2);
  stack.push(what.rip, 2);
  enterReal(cpu, entry >>> 16, BigInt(entry & 0xffff));
  stack.commit();
  setOtherFlags(cpu, cpu.get32(S.flagOther) & ~(Flag.IF | Flag.TF | Flag.AC | Flag.RF));
  updateMode(cpu);
}

/** Checks the code segment of a gate; returns the level that the handler runs at. */
function checkHandler(
  cpu: HostContext,
  selector: number,
  ext: number,
) {
  const error = (selector & 0xfffc) | ext;
  if ((selector & 0xfffc) === 0) cpu.raise(Vector.GP, ext);
  const d = readDescriptor(cpu, selector, { ext });
  if (!isCode(d) || dplOf(d) > cpu.get32(S.cpl)) cpu.raise(Vector.GP, error);
  if (!isPresent(d)) cpu.raise(Vector.NP, error);
  return d;
}

function enterProtected(cpu: HostContext, what: Delivery, ext: number): void {
  const at = 8 * what.vector;
  const idtError = at + 2 + ext;
  if (at + 7 > (cpu.get32(S.idtLimit) & 0xffff)) cpu.raise(Vector.GP, idtError);
  const bits = loadImplicit(cpu, cpu.get64(S.idtBase) + BigInt(at), 8);
  const low = Number(BigInt.asUintN(32, bits));
  const high = Number(BigInt.asIntN(32, bits >> 32n));
  const type = (high & SegAttr.s) !== 0 ? 0 : typeOf({ high });
  const wide = type === SystemType.interruptGate || type === SystemType.trapGate;
  // A task gate would switch tasks, which this processor does not do.
  if (!wide && type !== SystemType.interruptGate16 && type !== SystemType.trapGate16) {
    cpu.raise(Vector.GP, idtError);
  }
  const cpl = cpu.get32(S.cpl);
  if (what.software === true && dplOf({ high }) < cpl) cpu.raise(Vector.GP, idtError);
  if (!isPresent({ high })) cpu.raise(Vector.NP, idtError);
  const size = wide ? 4 : 2;
  const selector = low >>> 16;
  const rip = BigInt(((low & 0xffff) | (wide ? high & 0xffff_0000 : 0)) >>> 0);
  const descriptor = checkHandler(cpu, selector, ext);
  const level = isConforming(descriptor) ? cpl : dplOf(descriptor);
  let inner: InnerStack | undefined;
  let stack: Stack;
  const items = what.hasError ? 4 : 3;
  if (level < cpl) {
    inner = innerStack(cpu, level, ext);
    stack = new Stack(cpu, inner.space, inner.pointer);
    stack.reserve(size * (items + 2));
    checkRip(cpu, descriptor, rip);
    stack.push(BigInt(cpu.selector(Seg.SS)), size);
    stack.push(cpu.reg(Reg.rsp), size);
  } else {
    stack = new Stack(cpu, { ...currentStack(cpu), error: ext }, cpu.reg(Reg.rsp));
    stack.reserve(size * items);
    checkRip(cpu, descriptor, rip);
  }
  stack.push(savedFlags(cpu, what), size);
  stack.push(BigInt(cpu.selector(Seg.CS)), size);
  stack.push(what.rip, size);
  if (what.hasError) stack.push(BigInt(what.error ?? 0), size);
  if (inner !== undefined) enterStack(cpu, inner, level);
  enterCode(cpu, { selector, descriptor, rip }, level);
  stack.commit();
  finish(cpu, type === SystemType.interruptGate || type === SystemType.interruptGate16);
}

/** Flags and mode behind the delivery through a gate. */
function finish(cpu: HostContext, interruptGate: boolean): void {
  const clear = Flag.TF | Flag.NT | Flag.RF | Flag.VM | (interruptGate ? Flag.IF : 0);
  cpu.set32(S.flagOther, cpu.get32(S.flagOther) & ~clear);
  updateMode(cpu);
}

const ALL = 0xffff_ffff_ffff_ffffn;

function enterLong(cpu: HostContext, what: Delivery, ext: number): void {
  if (is64(cpu)) {
    enterLong64(cpu, what, ext);
    return;
  }
  // From compatibility mode: tables and the new stack are above 4 GiB.
  cpu.set64(S.linearMask, ALL);
  const tag = cpu.get32(S.codeTag);
  cpu.set32(S.codeTag, (tag & ~CodeMode.sizeMask) | CodeMode.bits64);
  let done = false;
  try {
    enterLong64(cpu, what, ext);
    done = true;
  } finally {
    if (!done) {
      cpu.set32(S.codeTag, tag);
      cpu.set64(S.linearMask, 0xffff_ffffn);
    }
  }
}

function enterLong64(cpu: HostContext, what: Delivery, ext: number): void {
  const { exports } = cpu;
  const at = 16 * what.vector;
  const idtError = 8 * what.vector + 2 + ext;
  if (at + 15 > (cpu.get32(S.idtLimit) & 0xffff)) cpu.raise(Vector.GP, idtError);
  const idt = cpu.get64(S.idtBase) + BigInt(at);
  const bits = exports.systemLoad(idt, 8, Access.read);
  const low = Number(BigInt.asUintN(32, bits));
  const high = Number(BigInt.asIntN(32, bits >> 32n));
  const type = (high >>> 8) & 31;
  if (type !== SystemType.interruptGate && type !== SystemType.trapGate) {
    cpu.raise(Vector.GP, idtError);
  }
  const cpl = cpu.get32(S.cpl);
  if (what.software === true && ((high >>> 13) & 3) < cpl) cpu.raise(Vector.GP, idtError);
  if ((high & SegAttr.present) === 0) cpu.raise(Vector.NP, idtError);
  const selector = low >>> 16;
  const descriptor = checkHandler(cpu, selector, ext);
  if ((descriptor.high & (SegAttr.long | SegAttr.db)) !== SegAttr.long) {
    cpu.raise(Vector.GP, (selector & 0xfffc) | ext);
  }
  const upper = exports.systemLoad(idt + 8n, 4, Access.read);
  const rip = BigInt.asUintN(
    64,
    (upper << 32n) | BigInt(((low & 0xffff) | (high & 0xffff_0000)) >>> 0),
  );
  const level = isConforming(descriptor) ? cpl : dplOf(descriptor);
  const ist = high & 7;
  const pointer = ist !== 0
    ? taskStackPointer(cpu, 0x1c + 8 * ist, ext)
    : level < cpl
    ? taskStackPointer(cpu, 4 + 8 * level, ext)
    : cpu.reg(Reg.rsp);
  if (!isCanonical(rip)) cpu.raise(Vector.GP, ext);
  const frame = pushFrame(cpu, what, { pointer: pointer & ~15n, level });
  if (level < cpl) loadNull(cpu, Seg.SS, level);
  enterCode(cpu, { selector, descriptor, rip }, level);
  cpu.setReg(Reg.rsp, frame);
  finish(cpu, type === SystemType.interruptGate);
}

/** Pushes the 64-bit frame below `pointer`; returns the new top. */
function pushFrame(
  cpu: HostContext,
  what: Delivery,
  at: { pointer: bigint; level: number },
): bigint {
  const { exports } = cpu;
  const ac = (cpu.get32(S.flagOther) & Flag.AC) !== 0;
  const access = at.level === 3 ? Access.user : ac ? Access.smapOff : 0;
  let top = BigInt.asUintN(64, at.pointer - (what.hasError ? 48n : 40n));
  const frame = top;
  if (what.hasError) {
    exports.systemStore(top, BigInt((what.error ?? 0) >>> 0), 8, access);
    top += 8n;
  }
  exports.systemStore(top, what.rip, 8, access);
  exports.systemStore(top + 8n, BigInt(cpu.selector(Seg.CS)), 8, access);
  exports.systemStore(top + 16n, savedFlags(cpu, what), 8, access);
  exports.systemStore(top + 24n, cpu.reg(Reg.rsp), 8, access);
  exports.systemStore(top + 32n, BigInt(cpu.selector(Seg.SS)), 8, access);
  return frame;
}

/** A software interrupt: faults on the way are those of the instruction itself. */
function interrupt(cpu: HostContext, vector: number): HostResult {
  enter(cpu, { vector, hasError: false, software: true, rip: cpu.get64(S.rip) });
  return HostResult.Jump;
}

/** INT n. */
export const softwareInterrupt: HostFunction = (cpu, record) =>
  interrupt(cpu, immediate(cpu, record) & 0xff);

/** INT3. */
export const breakpoint: HostFunction = (cpu) => interrupt(cpu, Vector.BP);

/** INTO, where OF is set. */
export const overflow: HostFunction = (cpu) => interrupt(cpu, Vector.OF);

/** INT1: a trap that no gate privilege stops. */
export const icebp: HostFunction = (cpu) => {
  enter(cpu, { vector: Vector.DB, hasError: false, rip: cpu.get64(S.rip) });
  return HostResult.Jump;
};
