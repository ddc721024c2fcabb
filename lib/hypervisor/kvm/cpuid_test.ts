import assert from "node:assert/strict";
import { type CpuidEntry, decodeCpuid, emptyCpuid, encodeCpuid, vcpuCpuid } from "./cpuid.ts";

function entry(leaf: number, words: Partial<CpuidEntry> = {}): CpuidEntry {
  return { leaf, subleaf: 0, flags: 0, eax: 0, ebx: 0, ecx: 0, edx: 0, ...words };
}

/** GenuineIntel and AuthenticAMD. */
const INTEL = entry(0, { eax: 0x20, ebx: 0x756e_6547, edx: 0x4965_6e69, ecx: 0x6c65_746e });
const AMD = entry(0, { eax: 0x10, ebx: 0x6874_7541, edx: 0x6974_6e65, ecx: 0x444d_4163 });

function find(entries: readonly CpuidEntry[], leaf: number, subleaf = 0): CpuidEntry {
  const found = entries.find((each) => each.leaf === leaf && each.subleaf === subleaf);
  assert.ok(found, `no leaf ${leaf.toString(16)}.${subleaf}`);
  return found;
}

Deno.test("CPUID tables are encoded as KVM has them", () => {
  const entries = [INTEL, entry(4, { subleaf: 2, flags: 1, eax: 0xffff_ffff, edx: 0x8000_0000 })];
  const bytes = encodeCpuid(entries);
  assert.equal(bytes.length, 8 + 2 * 40);
  assert.deepEqual(decodeCpuid(bytes), entries);
  assert.equal(decodeCpuid(emptyCpuid(3)).length, 3);
  // A count that does not fit is the kernel's lie, and is not believed.
  new DataView(bytes.buffer).setUint32(0, 1000, true);
  assert.equal(decodeCpuid(bytes).length, 2);
});

Deno.test("CPUID names each vCPU and its place", () => {
  const supported = [
    INTEL,
    entry(1, { ebx: 0x0302_0800, ecx: 0x0100_0000, edx: 0x1000_0000 }),
    entry(4, { flags: 1, eax: 0xfc00_4121 }),
    entry(4, { flags: 1, subleaf: 3, eax: 0xfc1f_c163 }),
    entry(0xb, { flags: 1, ebx: 99 }),
    entry(0x8000_0008, { eax: 0x3934, ecx: 0x1234 }),
  ];
  const options = { apicId: 2, vcpuCount: 3, tscDeadline: true };
  const entries = vcpuCpuid(supported, options);
  const one = find(entries, 1);
  assert.equal(one.ebx, 0x0203_0800, "APIC id 2 of 3, CLFLUSH size kept");
  assert.equal(one.ecx, (1 << 31 | 1 << 24 | 1 << 21) >>> 0);
  assert.equal(one.edx >>> 28 & 1, 1);
  assert.equal(find(entries, 4).eax, 0x0c00_0121, "4 ids of cores, L1 not shared");
  assert.equal(find(entries, 4, 3).eax, 0x0c00_c163, "L3 shared by 4 ids");
  for (const leaf of [0xb, 0x1f]) {
    const levels = [0, 1, 2].map((subleaf) => find(entries, leaf, subleaf));
    assert.deepEqual(levels.map(({ eax }) => eax), [0, 2, 0]);
    assert.deepEqual(levels.map(({ ebx }) => ebx), [1, 3, 0]);
    assert.deepEqual(levels.map(({ ecx }) => ecx), [0x100, 0x201, 2]);
    assert.deepEqual(levels.map(({ edx }) => edx), [2, 2, 2]);
  }
  assert.equal(find(entries, 0x8000_0008).ecx, 0x1234, "AMD's field is not Intel's");
});

Deno.test("CPUID of a single vCPU, and without TSC deadline", () => {
  const supported = [
    INTEL,
    entry(1, { ecx: 1 << 24, edx: 1 << 28 }),
    entry(4, { eax: 0x7c00_4121 }),
  ];
  const entries = vcpuCpuid(supported, { apicId: 0, vcpuCount: 1, tscDeadline: false });
  const one = find(entries, 1);
  assert.equal(one.ebx, 0);
  assert.equal(one.ecx >>> 24 & 1, 0);
  assert.equal(one.edx >>> 28 & 1, 0);
  assert.equal(find(entries, 4).eax, 0x121);
  assert.equal(find(entries, 0xb, 1).eax, 0);
});

Deno.test("CPUID of an AMD processor has its topology leaves", () => {
  const supported = [
    AMD,
    entry(0x8000_0001),
    entry(0x8000_0008),
    entry(0x8000_001d, { flags: 1, subleaf: 3, eax: 0x1_c163 }),
    entry(0x8000_001e, { eax: 77 }),
    entry(0x8000_0026, { flags: 1 }),
  ];
  const entries = vcpuCpuid(supported, { apicId: 5, vcpuCount: 6, tscDeadline: true });
  assert.equal(find(entries, 0x8000_0001).ecx, 2);
  assert.equal(find(entries, 0x8000_0008).ecx, 0x3005);
  assert.equal(find(entries, 0x8000_001d, 3).eax, 5 << 14 | 0x163);
  assert.deepEqual(find(entries, 0x8000_001e), entry(0x8000_001e, { eax: 5, ebx: 5 }));
  assert.ok(!entries.some(({ leaf }) => leaf === 0x8000_0026 || leaf === 0x1f));
  assert.ok(entries.some(({ leaf }) => leaf === 0xb));
});
