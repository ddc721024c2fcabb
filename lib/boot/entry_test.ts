import assert from "node:assert/strict";
import { MIB } from "../base/mod.ts";
import type { Regs, Sregs, Vcpu } from "../hypervisor/mod.ts";
import { GuestMemory } from "../memory/mod.ts";
import { type BootEntry, configureBootVcpu, writeEntryState } from "./entry.ts";

/** What an entry sets, without an engine. */
function registersFor(entry: BootEntry): { regs: Partial<Regs>; sregs: Partial<Sregs> } {
  let regs: Partial<Regs> = {};
  let sregs: Partial<Sregs> = {};
  const vcpu: Pick<Vcpu, "setRegs" | "setSregs"> = {
    setRegs: (value) => regs = value,
    setSregs: (value) => sregs = value,
  };
  configureBootVcpu(vcpu as Vcpu, entry);
  return { regs, sregs };
}

Deno.test("the 64-bit entry has long mode on and the first 4 GiB mapped to themselves", () => {
  using memory = GuestMemory.create({ sizeBytes: MIB, backing: "mmap" });
  const entry = { kind: "long64", rip: 0x100_0000 } as const;
  writeEntryState(memory, entry);
  const { regs, sregs } = registersFor(entry);
  assert.equal(regs.rip, 0x100_0000n);
  assert.equal(regs.rsi, 0x7000n);
  assert.equal(sregs.efer, 0x500n);
  assert.equal(sregs.cr0! & 0x8000_0001n, 0x8000_0001n);
  assert.equal(sregs.cs?.l, true);
  assert.equal(sregs.cs?.selector, 0x10);

  const translate = (address: number) => {
    const index = (level: number) => Math.floor(address / 2 ** (12 + 9 * level)) % 512;
    let table = Number(sregs.cr3);
    for (const level of [3, 2]) {
      table = Number(memory.readU64(table + index(level) * 8) & ~0xfffn);
    }
    const last = memory.readU64(table + index(1) * 8);
    assert.equal(last & 0x83n, 0x83n, "expected a present, writable 2 MiB page");
    return Number(last & ~0x1f_ffffn) + address % 0x20_0000;
  };
  for (const address of [0, 0x7000, 0x100_0000, 0xbfff_ffff, 0xfee0_0000, 0xffff_ffff]) {
    assert.equal(translate(address), address);
  }
});

Deno.test("descriptors in memory agree with the segment registers", () => {
  for (const kind of ["long64", "pvh32"] as const) {
    using memory = GuestMemory.create({ sizeBytes: MIB, backing: "mmap" });
    const entry = { kind, rip: 0x100_0000 };
    writeEntryState(memory, entry);
    const { sregs } = registersFor(entry);
    const code = kind === "long64" ? 0x00af_9b00_0000_ffffn : 0x00cf_9b00_0000_ffffn;
    assert.equal(memory.readU64(Number(sregs.gdt!.base) + sregs.cs!.selector), code);
    assert.equal(
      memory.readU64(Number(sregs.gdt!.base) + sregs.ds!.selector),
      0x00cf_9300_0000_ffffn,
    );
    assert.equal(
      memory.readU64(Number(sregs.gdt!.base) + sregs.tr!.selector),
      0x0000_8b00_0000_0067n,
    );
    assert.equal(sregs.gdt!.limit, 0x2f);
  }
});

Deno.test("the PVH entry is flat, 32-bit and without paging", () => {
  const { regs, sregs } = registersFor({ kind: "pvh32", rip: 0x100_0850 });
  assert.equal(regs.rbx, 0x6000n);
  assert.equal(sregs.cr0, 0x11n);
  assert.equal(sregs.cr4, 0n);
  assert.equal(sregs.efer, 0n);
  assert.equal(sregs.cs?.db, true);
  assert.equal(sregs.cs?.l, false);
});
