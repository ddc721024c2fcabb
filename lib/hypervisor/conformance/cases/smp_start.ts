/**
 * How the guests with several vCPUs start them.
 *
 * @module
 */

import { type Assembler, at } from "../asm/mod.ts";
import { FREE, GDT, PAGE_TABLES, Port, Selector } from "../layout.ts";
import { Control, type TestMachine } from "../machine.ts";
import { LAPIC, Lapic, setLapicReg } from "../pc_hardware.ts";
import { type PageTables, result } from "../tables.ts";

/** Where started processors begin: SIPI vector 0x0d. */
const TRAMPOLINE = 0xd000;
/** How many came up, or are done. */
export const STARTED = result(0);
/** INIT and SIPI to all others, as the SDM has it (vol. 3, 9.4.4.1) but for the waiting. */
export function startAll(a: Assembler): void {
  setLapicReg(a, Lapic.Spurious, 0x1ff);
  setLapicReg(a, Lapic.IcrLow, 0xc4500);
  setLapicReg(a, Lapic.IcrLow, 0xc4600 | TRAMPOLINE >> 12);
  setLapicReg(a, Lapic.IcrLow, 0xc4600 | TRAMPOLINE >> 12);
}

/** Real mode to long mode on a started processor; then `body`, with its APIC id in esi. */
export function loadTrampoline(m: TestMachine, body: (a: Assembler) => void): void {
  m.memory.writeU16(0x6f0, 0x67);
  m.memory.writeU32(0x6f2, GDT);
  m.load(16, (a) => {
    a.op("cli").xor("ax", "ax").mov("ds", "ax").table("lgdt", at(0x6f0));
    a.mov("eax", Number(Control.PAE | Control.OSFXSR)).mov("cr4", "eax");
    a.mov("eax", PAGE_TABLES).mov("cr3", "eax");
    a.mov("ecx", 0xc000_0080).op("rdmsr").or("eax", 0x900).op("wrmsr");
    a.mov("eax", "cr0").or("eax", 0x8000_0001).mov("cr0", "eax");
    a.jmpFar(Selector.Code64, TRAMPOLINE + 0x80, 4);
    a.org(TRAMPOLINE + 0x80).bits(64);
    a.mov("eax", Selector.Data).mov("ss", "ax").mov("ds", "ax").mov("es", "ax");
    a.mov("edx", LAPIC + Lapic.Id).mov("esi", at("rdx")).shr("esi", 24);
    // A stack of its own for each.
    a.mov("esp", "esi").shl("esp", 12).add("esp", FREE + 0x1_0000);
    body(a);
  }, TRAMPOLINE);
}

/** Where {@link runOnAll} puts the code that all execute. */
const WORK = 0x18_0000;

/**
 * Lets all vCPUs execute `body` in 64-bit mode, with their APIC id in esi, until all are through it.
 * @param map Changes the page tables before.
 */
export async function runOnAll(
  m: TestMachine,
  body: (a: Assembler) => void,
  map?: (tables: PageTables) => void,
): Promise<void> {
  const { vcpuCount } = m.vm;
  const tables = m.startLong();
  map?.(tables);
  m.load(64, (a) => {
    body(a);
    a.lock().add(at(STARTED, { size: 8 }), 1).test("esi", "esi").jcc("e", "first");
    a.label("stop").op("cli").op("hlt").jmp("stop");
    a.label("first").op("pause").cmp(at(STARTED, { size: 8 }), vcpuCount).jcc("ne", "first");
    a.out(Port.Done, "al");
  }, WORK);
  loadTrampoline(m, (a) => a.mov("eax", WORK).jmp("rax"));
  m.load(64, (a) => {
    startAll(a);
    a.xor("esi", "esi").mov("eax", WORK).jmp("rax");
  });
  await m.startOtherVcpus();
  m.run();
  await m.stopOtherVcpus();
}

/** Waits until all `vcpus` are here; `counter` is 64 bits of zeros. Clobbers rax. */
export function meet(a: Assembler, name: string, at_: { counter: number; vcpus: number }): void {
  const counter = at(at_.counter, { size: 8 });
  a.lock().add(counter, 1).label(name).op("pause").cmp(counter, at_.vcpus).jcc("b", name);
}
