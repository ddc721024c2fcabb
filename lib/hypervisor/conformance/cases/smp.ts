/**
 * Several vCPUs.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Assembler, at } from "../asm/mod.ts";
import { installFaultHandler64 } from "../faults.ts";
import type { GuestTest } from "../guest_case.ts";
import { FREE, Port } from "../layout.ts";
import { eoi, Lapic, maskPics, setLapicReg } from "../pc_hardware.ts";
import { result, writeGate64 } from "../tables.ts";
import { loadTrampoline, startAll, STARTED } from "./smp_start.ts";

const TURNS = 2000;

function smpTests(vcpus: number): GuestTest[] {
  return [
    {
      name: `${vcpus} vCPUs: INIT and SIPI start them, each with its own APIC id`,
      vcpus,
      async run(m) {
        m.startLong();
        loadTrampoline(m, (a) => {
          a.mov("eax", 1).op("cpuid").shr("ebx", 24);
          a.mov(at(result(8), { index: "rsi", scale: 8 }), "rbx");
          a.mov("eax", 0xb).mov("ecx", 1).op("cpuid");
          a.mov(at(result(16), { index: "rsi", scale: 8 }), "rdx");
          a.mov(at(result(24), { index: "rsi", scale: 8 }), "rbx");
          a.lock().add(at(STARTED, { size: 8 }), 1).label("stop").op("cli").op("hlt").jmp("stop");
        });
        m.load(64, (a) => {
          startAll(a);
          a.label("wait").op("pause").cmp(at(STARTED, { size: 8 }), vcpus - 1).jcc("ne", "wait");
          a.out(Port.Done, "al");
        });
        await m.startOtherVcpus();
        m.run();
        await m.stopOtherVcpus();
        for (let id = 1; id < vcpus; id++) {
          assert.equal(m.result(8 + id), BigInt(id), "initial APIC id");
          assert.equal(m.result(16 + id), BigInt(id), "x2APIC id");
          assert.equal(m.result(24 + id), BigInt(vcpus), "cores of the package");
        }
      },
    },
    {
      name: `${vcpus} vCPUs: locked instructions of all of them add up`,
      vcpus,
      async run(m) {
        const shared = FREE;
        m.startLong();
        const work = (a: Assembler, name: string) => {
          a.mov("ecx", TURNS).mov("rbx", shared).label(name);
          a.lock().add(at("rbx", { size: 8 }), 1);
          a.mov("eax", 1).lock().xadd(at("rbx", { disp: 8 }), "rax");
          a.label(`${name}retry`).mov("rax", at("rbx", { disp: 16 }));
          a.lea("rdx", at("rax", { disp: 3 })).lock().cmpxchg(at("rbx", { disp: 16 }), "rdx");
          a.jcc("ne", `${name}retry`).dec("ecx").jcc("ne", name);
        };
        loadTrampoline(m, (a) => {
          work(a, "ap");
          a.lock().add(at(STARTED, { size: 8 }), 1).label("stop").op("cli").op("hlt").jmp("stop");
        });
        m.load(64, (a) => {
          startAll(a);
          work(a, "bsp");
          a.label("wait").op("pause").cmp(at(STARTED, { size: 8 }), vcpus - 1).jcc("ne", "wait");
          a.out(Port.Done, "al");
        });
        await m.startOtherVcpus();
        m.run();
        await m.stopOtherVcpus();
        const total = BigInt(vcpus * TURNS);
        const sums = [0, 8, 16].map((offset) => m.memory.readU64(shared + offset));
        assert.deepEqual(sums, [total, total, 3n * total]);
      },
    },
    {
      name: `${vcpus} vCPUs: interrupts between processors`,
      vcpus,
      async run(m) {
        const VECTOR = 0x70;
        m.startLong();
        installFaultHandler64(m);
        m.load(64, (a) => {
          a.push("rdx").lock().add(at(result(1), { size: 8 }), 1);
          eoi(a).pop("rdx").iret();
        }, 0xe000);
        writeGate64(m.memory, VECTOR, { offset: 0xe000 });
        m.memory.writeU16(0x6e0, 0xfff);
        m.memory.writeU64(0x6e2, 0x2000n);
        loadTrampoline(m, (a) => {
          a.table("lidt", at(0x6e0));
          setLapicReg(a, Lapic.Spurious, 0x1ff);
          a.lock().add(at(STARTED, { size: 8 }), 1);
          a.label("stop").op("sti").op("hlt").jmp("stop");
        });
        m.load(64, (a) => {
          maskPics(a);
          startAll(a);
          a.label("wait").op("pause").cmp(at(STARTED, { size: 8 }), vcpus - 1).jcc("ne", "wait");
          // To all others, then to number 1 alone.
          setLapicReg(a, Lapic.IcrLow, 0xc0000 | VECTOR);
          a.label("all").op("pause").cmp(at(result(1), { size: 8 }), vcpus - 1).jcc("ne", "all");
          setLapicReg(a, Lapic.IcrHigh, 1 << 24);
          setLapicReg(a, Lapic.IcrLow, VECTOR);
          a.label("one").op("pause").cmp(at(result(1), { size: 8 }), vcpus).jcc("ne", "one");
          a.out(Port.Done, "al");
        });
        await m.startOtherVcpus();
        m.run();
        await m.stopOtherVcpus();
        assert.equal(m.result(1), BigInt(vcpus));
      },
    },
  ];
}

/** The guests. */
export const SMP_TESTS: readonly GuestTest[] = [
  ...smpTests(2),
  ...smpTests(4),
  {
    name: "vCPUs that nobody started wait, and can be kicked",
    vcpus: 2,
    async run(m) {
      m.load(64, (a) => a.out(Port.Done, "al"));
      m.startLong();
      await m.startOtherVcpus();
      m.run();
      await m.stopOtherVcpus();
    },
  },
];
