/**
 * System instructions (Intel SDM vol. 3, 2.8). The frequent ones are generated, the others are host
 * calls.
 *
 * @module
 */

import { and, call, eqz, extU, i32, load, ltU, ne, or, shl, shrS, shrU } from "../../wasm/mod.ts";
import type { Cx } from "../cx.ts";
import { type Insn, insn, type Semantics } from "../opcode.ts";
import {
  CPU,
  Flag,
  Reg,
  S,
  Seg,
  SegField,
  segOffset,
  TLB_SUPER,
  TLB_SUPER_AC,
  Vector,
} from "../state.ts";
import { Host } from "../host_calls.ts";
import { Cr4 } from "../system/access.ts";

const rows: Insn[] = [];

const host = (id: Host): Semantics => (c) => c.host(id);

/** #GP(0) unless at privilege 0. */
function privileged(c: Cx): void {
  c.f.if(ne(c.s32(S.cpl), i32(0)), () => c.raise(Vector.GP, i32(0)));
}

/** #GP(0) unless CPL is at most IOPL. */
function ioPrivileged(c: Cx): void {
  const iopl = and(shrU(c.s32(S.flagOther), 12), 3);
  c.f.if(ltU(iopl, c.s32(S.cpl)), () => c.raise(Vector.GP, i32(0)));
}

rows.push(
  insn("cli", "fa", "", (c) => {
    ioPrivileged(c);
    c.setS32(S.flagOther, and(c.s32(S.flagOther), ~Flag.IF));
  }),
  insn("sti", "fb", "", (c) => {
    ioPrivileged(c);
    const f = c.f;
    const before = f.let(c.s32(S.flagOther));
    c.setS32(S.flagOther, or(before, Flag.IF));
    // With interrupt work waiting, the runtime runs one more instruction and then looks.
    f.if(
      and(eqz(and(before, Flag.IF)), ne(c.s32(S.mailbox), i32(0))),
      () => {
        c.setS32(S.shadow, i32(1));
        c.setS32(S.fuel, i32(-1));
        c.jump(c.nextRip());
      },
    );
  }),
  insn("hlt", "f4 end", "", host(Host.halt)),
  insn("in", "e4", "Ab Ib", host(Host.portIn)),
  insn("in", "e5 sz", "Ib", host(Host.portIn)),
  insn("out", "e6", "Ib Ab", host(Host.portOut)),
  insn("out", "e7 sz", "Ib", host(Host.portOut)),
  insn("in", "ec", "", host(Host.portIn)),
  insn("in", "ed sz", "", host(Host.portIn)),
  insn("out", "ee", "", host(Host.portOut)),
  insn("out", "ef sz", "", host(Host.portOut)),
);

/** Puts the address of a memory operand where host calls find it. */
const atAddress = (id: Host): Semantics => (c) => {
  c.setS64(S.tempEa, c.ea());
  c.host(id);
};
/** Puts the value of operand 0 where host calls find it. */
const withValue = (id: Host): Semantics => (c) => {
  c.setS64(S.scratch, c.get(0));
  c.host(id);
};

rows.push(
  insn("sldt", "0f 00 /0 mem", "Mw", (c) => c.set(0, selector(Seg.LDTR))),
  insn("sldt", "0f 00 /0 reg", "Rv", (c) => c.set(0, selector(Seg.LDTR))),
  insn("str", "0f 00 /1 mem", "Mw", (c) => c.set(0, selector(Seg.TR))),
  insn("str", "0f 00 /1 reg", "Rv", (c) => c.set(0, selector(Seg.TR))),
  insn("lldt", "0f 00 /2", "Ew", withValue(Host.loadSelector)),
  insn("ltr", "0f 00 /3", "Ew", withValue(Host.loadSelector)),
  insn("verr", "0f 00 /4", "Ew", withValue(Host.verify)),
  insn("verw", "0f 00 /5", "Ew", withValue(Host.verify)),
  insn("sgdt", "0f 01 /0 mem sz", "M", atAddress(Host.storeTable)),
  insn("sidt", "0f 01 /1 mem sz", "M", atAddress(Host.storeTable)),
  insn("lgdt", "0f 01 /2 mem sz f64", "M", atAddress(Host.loadTable)),
  insn("lidt", "0f 01 /3 mem sz f64", "M", atAddress(Host.loadTable)),
  insn("smsw", "0f 01 /4 mem", "Mw", (c) => c.set(0, c.s64(S.cr0))),
  insn("smsw", "0f 01 /4 reg", "Rv", (c) => c.set(0, c.s64(S.cr0))),
  insn("lmsw", "0f 01 /6", "Ew", withValue(Host.loadMachineStatus)),
  insn("invlpg", "0f 01 /7 mem", "M", atAddress(Host.invalidatePage)),
  insn("swapgs", "0f 01 /7 rm0 reg o64", "", (c) => {
    privileged(c);
    const gs = segOffset(Seg.GS) + SegField.base;
    const base = c.f.let(c.s64(gs));
    c.setS64(gs, c.s64(S.kernelGsBase));
    c.setS64(S.kernelGsBase, base);
  }),
  insn("rdtscp", "0f 01 /7 rm1 reg", "", (c) => {
    readTsc(c);
    c.setReg(Reg.rcx, and(c.s64(S.tscAux), 0xffff_ffffn), 8);
  }),
  insn("clac", "np 0f 01 /1 rm2 reg", "", (c) => setAc(c, false)),
  insn("stac", "np 0f 01 /1 rm3 reg", "", (c) => setAc(c, true)),
  insn("lar", "0f 02 /r", "Gv Ew", (c) => {
    c.setS64(S.scratch, c.get(1));
    c.host(Host.loadAccess);
  }),
  insn("lsl", "0f 03 /r", "Gv Ew", (c) => {
    c.setS64(S.scratch, c.get(1));
    c.host(Host.loadAccess);
  }),
  insn("clts", "0f 06", "", host(Host.clearTaskSwitched)),
  insn("invd", "0f 08", "", host(Host.writeBackCaches)),
  insn("wbinvd", "0f 09", "", host(Host.writeBackCaches)),
  insn("ud2", "0f 0b end", "", (c) => {
    c.raise(Vector.UD);
    c.end();
  }),
  insn("wrmsr", "0f 30", "", host(Host.writeMsr)),
  insn("rdtsc", "0f 31", "", readTsc),
  insn("rdmsr", "0f 32", "", host(Host.readMsr)),
  insn("rdpmc", "0f 33", "", host(Host.readPmc)),
  insn("sysenter", "0f 34 end", "", host(Host.sysenter)),
  insn("sysexit", "0f 35 sz end", "", host(Host.sysexit)),
  insn("cpuid", "0f a2", "", host(Host.cpuid)),
  insn("rdrand", "0f c7 /6 reg", "Rv", host(Host.random)),
  insn("rdseed", "0f c7 /7 reg", "Rv", host(Host.random)),
);

function selector(seg: Seg) {
  return extU(load.i32(CPU, i32(0), segOffset(seg) + SegField.selector));
}

/** TSC into EDX:EAX; #GP where CR4.TSD keeps it from programs. */
function readTsc(c: Cx): void {
  const kept = ne(and(c.s32(S.cr4), Cr4.TSD), i32(0));
  c.f.if(and(kept, ne(c.s32(S.cpl), i32(0))), () => c.raise(Vector.GP, i32(0)));
  const ticks = c.f.let(call(c.helper("ticks")));
  c.setReg(Reg.rax, and(ticks, 0xffff_ffffn), 8);
  c.setReg(Reg.rdx, shrU(ticks, 32), 8);
}

// Bases of FS and GS, which programs may set where CR4.FSGSBASE says so.
for (const [n, seg] of [Seg.FS, Seg.GS].entries()) {
  const name = seg === Seg.FS ? "fs" : "gs";
  const base = segOffset(seg) + SegField.base;
  const allowed = (c: Cx) => {
    const off = eqz(and(c.s32(S.cr4), Cr4.FSGSBASE));
    c.f.if(off, () => c.raise(Vector.UD));
  };
  rows.push(
    insn(`rd${name}base`, `f3 0f ae /${n} reg o64`, "Ry", (c) => {
      allowed(c);
      c.set(0, c.s64(base));
    }),
    insn(`wr${name}base`, `f3 0f ae /${n + 2} reg o64`, "Ry", (c) => {
      allowed(c);
      const value = c.f.let(c.get(0));
      c.f.if(ne(shrS(shl(value, 16), 16), value), () => c.raise(Vector.GP, i32(0)));
      c.setS64(base, value);
    }),
  );
}

/** STAC and CLAC: which supervisor TLB is in force follows EFLAGS.AC. */
function setAc(c: Cx, on: boolean): void {
  privileged(c);
  const other = c.s32(S.flagOther);
  c.setS32(S.flagOther, on ? or(other, Flag.AC) : and(other, ~Flag.AC));
  c.f.if(
    eqz(c.s32(S.checks)),
    () => c.setS32(S.tlbBase, i32(on ? TLB_SUPER_AC : TLB_SUPER)),
  );
}

// Control and debug registers: the ModRM mod field is ignored, the operand is always a register.
rows.push(
  insn("mov", "0f 20 /r regonly f64 sz", "", host(Host.readControl)),
  insn("mov", "0f 21 /r regonly f64 sz", "", host(Host.readDebug)),
  insn("mov", "0f 22 /r regonly f64 sz", "", host(Host.writeControl)),
  insn("mov", "0f 23 /r regonly f64 sz", "", host(Host.writeDebug)),
);

// Far pointers into segment registers.
for (
  const [opcode, words, seg] of [
    ["c4", "i64", Seg.ES],
    ["c5", "i64", Seg.DS],
    ["0f b2", "", Seg.SS],
    ["0f b4", "", Seg.FS],
    ["0f b5", "", Seg.GS],
  ] as const
) {
  rows.push(
    insn(
      "lfs",
      `${opcode} /r mem seg${seg} ${words}`.trim(),
      "Gv M",
      atAddress(Host.loadFarPointer),
    ),
  );
}
rows.push(insn("arpl", "63 /r i64", "Ew Gw", (c) => {
  const f = c.f;
  const src = f.let(c.get(1));
  const dst = f.let(c.modify(0));
  const lower = f.let(ltU(and(dst, 3), and(src, 3)));
  f.if(lower, () => c.set(0, or(and(dst, ~3n), and(src, 3))));
  c.setZero(lower);
}));

/** Rows of system instructions. */
export const systemRows: readonly Insn[] = rows;

/** Those of them that do not need the processor's other parts to look at what they did. */
export const quickSystemRows: readonly Insn[] = rows.filter(({ mnemonic }) =>
  /^(cli|sti|clac|stac|swapgs|rd[fg]sbase|wr[fg]sbase)$/.test(mnemonic)
);

/** Those that read the clock, so that no two runs of them give the same. */
export const clockRows: readonly Insn[] = rows.filter(({ mnemonic }) => /^rdtscp?$/.test(mnemonic));
