/**
 * Features of the guest's processor, asked as a guest asks: by CPUID.
 *
 * @module
 */

import type { EngineKind, Hypervisor } from "../mod.ts";
import { type Helper, TestMachine } from "./machine.ts";
import { result } from "./tables.ts";
import { at } from "./asm/mod.ts";
import { Port } from "./layout.ts";

const FEATURES = {
  "TSC-deadline timer": { leaf: 1, register: 2, bit: 24 },
  x2APIC: { leaf: 1, register: 2, bit: 21 },
  RDTSCP: { leaf: 0x8000_0001, register: 3, bit: 27 },
  "1 GiB pages": { leaf: 0x8000_0001, register: 3, bit: 26 },
  NX: { leaf: 0x8000_0001, register: 3, bit: 20 },
  SMEP: { leaf: 7, register: 1, bit: 7 },
  SMAP: { leaf: 7, register: 1, bit: 20 },
  FSGSBASE: { leaf: 7, register: 1, bit: 0 },
  UMIP: { leaf: 7, register: 2, bit: 2 },
} as const;

/** Name of a feature. */
export type Feature = keyof typeof FEATURES;

/** EAX, EBX, ECX, EDX. */
export type CpuidResult = readonly [number, number, number, number];

const found = new Map<EngineKind, ReadonlySet<Feature>>();

/** The first of `features` that the processor lacks. */
export function missingFeature(
  features: readonly Feature[],
  options: { hypervisor: Hypervisor; helper: Helper },
): Feature | undefined {
  if (features.length === 0) return undefined;
  const { kind } = options.hypervisor;
  let present = found.get(kind);
  if (present === undefined) {
    using machine = new TestMachine({ ...options, vcpuCount: 1 });
    const names = Object.keys(FEATURES) as Feature[];
    present = new Set(names.filter((name) => {
      const { leaf, register, bit } = FEATURES[name];
      return (cpuid(machine, leaf)[register] >>> bit & 1) !== 0;
    }));
    found.set(kind, present);
  }
  return features.find((name) => !present.has(name));
}

/** What CPUID says on vCPU 0; zeros for a leaf beyond the last one. */
export function cpuid(machine: TestMachine, leaf: number, subleaf = 0): CpuidResult {
  machine.load(32, (a) => {
    a.mov("esi", "eax").mov("edi", "ecx").and("eax", 0xc000_0000).op("cpuid").cmp("eax", "esi");
    a.mov("eax", "esi").mov("ecx", "edi").jcc("b", "beyond").op("cpuid").jmp("store");
    a.label("beyond").xor("eax", "eax").mov("ebx", "eax").mov("ecx", "eax").mov("edx", "eax");
    a.label("store");
    a.mov(at(result(0)), "eax").mov(at(result(1)), "ebx");
    a.mov(at(result(2)), "ecx").mov(at(result(3)), "edx").out(Port.Done, "al");
  });
  machine.startProtected();
  machine.vcpu.setRegs({ rax: BigInt(leaf), rcx: BigInt(subleaf) });
  machine.run();
  const word = (index: number) => machine.memory.readU32(result(index));
  return [word(0), word(1), word(2), word(3)];
}
