/**
 * CPUID of this processor: x86-64-v2 without AVX and XSAVE. It calls itself an AMD part of family 12h,
 * which Linux knows to be free of most speculation bugs, and says for the others that they are mended,
 * so that a stock kernel takes no slow detours for what cannot happen here.
 *
 * Sources: Intel SDM vol. 2, CPUID; AMD64 manual vol. 3, appendix E.
 *
 * @module
 */

import { HostResult } from "../cx.ts";
import type { HostContext, HostFunction } from "../host_context.ts";
import { Reg, regOffset } from "../state.ts";
import { GUEST_TSC_HZ } from "../../irqchip/mod.ts";
import { SIGNATURE } from "./mode.ts";

/** Bits of a physical address. */
export const PHYSICAL_BITS = 46;
const LINEAR_BITS = 48;

const MAX_BASIC = 0x16;
const MAX_EXTENDED = 0x8000_0021;
const HYPERVISOR = 0x4000_0000;
const MAX_HYPERVISOR = 0x4000_0010;

const bits = (...numbers: number[]): number => numbers.reduce((all, n) => all | (1 << n), 0);

// FPU DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2
const FEATURES_EDX = bits(
  ...[0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26],
);
// SSE3 SSSE3 CX16 SSE4.1 SSE4.2 x2APIC POPCNT TSC-deadline RDRAND, hypervisor present
const FEATURES_ECX = bits(0, 9, 13, 19, 20, 21, 23, 24, 30, 31);
const HTT = 1 << 28;
// FSGSBASE TSC_ADJUST SMEP ERMS RDSEED SMAP
const FEATURES7_EBX = bits(0, 1, 7, 9, 18, 20);
// Fast short REP MOV
const FEATURES7_EDX = bits(4);
// Those of leaf 1 that AMD repeats; SYSCALL NX MMX FXSR PDPE1GB RDTSCP LM
const EXTENDED_EDX = bits(
  ...[0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 20, 23, 24, 26, 27, 29],
);
const LAHF_LM = 1;
const CMP_LEGACY = 1 << 1;
// FXSAVE always stores the error pointers; not vulnerable to speculative store bypass, nor to branch type
// confusion
const MORE_EBX = bits(2, 26, 29);
// No nested data breakpoints, LFENCE serializes, null selectors clear the base, automatic IBRS, not
// vulnerable to speculative return stack overflow
const EXTENDED2_EAX = bits(0, 2, 6, 8, 29);
// Not vulnerable to transient scheduler attacks (stores, L1)
const EXTENDED2_ECX = bits(1, 2);

const BRAND = "vmctl software x86-64 processor";

/** Four characters of `text` from `at` on, as a little-endian word. */
function chars(text: string, at: number): number {
  let value = 0;
  for (let i = 0; i < 4; i++) value |= (text.charCodeAt(at + i) || 0) << (8 * i);
  return value;
}

/** Result of {@link cpuidLeaf}: EAX, EBX, ECX, EDX. */
export type CpuidResult = readonly [number, number, number, number];

const NONE: CpuidResult = [0, 0, 0, 0];

/** What CPUID gives for `leaf` and `subleaf` on processor `id` of `count`. */
export function cpuidLeaf(
  leaf: number,
  subleaf: number,
  cpu: { id: number; count: number },
): CpuidResult {
  const { id, count } = cpu;
  const idBits = Math.ceil(Math.log2(count));
  switch (leaf) {
    case 0: {
      const [b, d, c] = [
        chars("AuthenticAMD", 0),
        chars("AuthenticAMD", 4),
        chars("AuthenticAMD", 8),
      ];
      return [MAX_BASIC, b, c, d];
    }
    case 1:
      return [
        SIGNATURE,
        (8 << 8) | (count << 16) | (id << 24),
        FEATURES_ECX,
        FEATURES_EDX | (count > 1 ? HTT : 0),
      ];
    case 6:
      // The local APIC timer always runs.
      return [1 << 2, 0, 0, 0];
    case 7:
      return subleaf === 0 ? [0, FEATURES7_EBX, 0, FEATURES7_EDX] : NONE;
    case 0xb:
      if (subleaf === 0) return [0, 1, 1 << 8, id];
      if (subleaf === 1) return [idBits, count, 1 | (2 << 8), id];
      return [0, 0, subleaf & 0xff, id];
    case 0x15:
      // A crystal as fast as the TSC.
      return [1, 1, GUEST_TSC_HZ, 0];
    case 0x16:
      return [GUEST_TSC_HZ / 1e6, GUEST_TSC_HZ / 1e6, 100, 0];
    case HYPERVISOR:
      return [
        MAX_HYPERVISOR,
        chars("vmctl vmctl ", 0),
        chars("vmctl vmctl ", 4),
        chars("vmctl vmctl ", 8),
      ];
    case MAX_HYPERVISOR:
      // TSC and APIC bus frequency in kHz, as several hypervisors have it.
      return [GUEST_TSC_HZ / 1000, GUEST_TSC_HZ / 1000, 0, 0];
    case 0x8000_0000: {
      const [, b, c, d] = cpuidLeaf(0, 0, cpu);
      return [MAX_EXTENDED, b, c, d];
    }
    case 0x8000_0001:
      return [SIGNATURE, 0, LAHF_LM | (count > 1 ? CMP_LEGACY : 0), EXTENDED_EDX];
    case 0x8000_0002:
    case 0x8000_0003:
    case 0x8000_0004: {
      const at = 16 * (leaf - 0x8000_0002);
      return [chars(BRAND, at), chars(BRAND, at + 4), chars(BRAND, at + 8), chars(BRAND, at + 12)];
    }
    case 0x8000_0005:
      // First-level TLBs of 64 entries; caches of 32 KiB, 8-way, 64-byte lines.
      return [0xff40_ff40 | 0, 0xff40_ff40 | 0, 0x2008_0140, 0x2008_0140];
    case 0x8000_0006:
      // Second-level cache of 512 KiB, 16-way.
      return [0, 0, 0x0200_8140, 0];
    case 0x8000_0007:
      return [0, 0, 0, 1 << 8];
    case 0x8000_0008:
      return [
        PHYSICAL_BITS | (LINEAR_BITS << 8),
        MORE_EBX,
        (count - 1) | (idBits << 12),
        0,
      ];
    case 0x8000_0021:
      return [EXTENDED2_EAX, 0, EXTENDED2_ECX, 0];
    default:
      return NONE;
  }
}

/** CPUID. */
export const cpuid: HostFunction = (cpu) => {
  const leaf = cpu.get32(regOffset(Reg.rax)) >>> 0;
  const subleaf = cpu.get32(regOffset(Reg.rcx)) >>> 0;
  const [a, b, c, d] = cpuidLeaf(leaf, subleaf, { id: cpu.id, count: cpu.vcpuCount });
  setLow(cpu, Reg.rax, a);
  setLow(cpu, Reg.rbx, b);
  setLow(cpu, Reg.rcx, c);
  setLow(cpu, Reg.rdx, d);
  return HostResult.Next;
};

/** Sets the low half of a register and clears the upper one. */
export function setLow(cpu: HostContext, n: number, value: number): void {
  cpu.set32(regOffset(n), value);
  cpu.set32(regOffset(n) + 4, 0);
}
