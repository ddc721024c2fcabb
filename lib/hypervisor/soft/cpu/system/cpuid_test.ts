import assert from "node:assert/strict";
import { cpuidLeaf } from "./cpuid.ts";

const one = { id: 0, count: 1 };

/** Text of registers in the order given. */
function text(...words: number[]): string {
  return new TextDecoder().decode(new Uint32Array(words)).replace(/\0+$/, "");
}

function has(word: number, ...bits: number[]): boolean {
  return bits.every((bit) => ((word >>> bit) & 1) === 1);
}

Deno.test("CPUID has all of x86-64-v2 and nothing that AVX or XSAVE is a part of", () => {
  const [, , ecx, edx] = cpuidLeaf(1, 0, one);
  // CMOV CX8 FPU FXSR MMX SSE SSE2; SSE3 SSSE3 CX16 SSE4.1 SSE4.2 POPCNT
  assert.ok(has(edx, 15, 8, 0, 24, 23, 25, 26));
  assert.ok(has(ecx, 0, 9, 13, 19, 20, 23));
  // PCLMUL MONITOR FMA PCID MOVBE AES XSAVE OSXSAVE AVX F16C
  for (const bit of [1, 3, 12, 17, 22, 25, 26, 27, 28, 29]) assert.ok(!has(ecx, bit), `ECX ${bit}`);
  const [, , extendedC, extendedD] = cpuidLeaf(0x8000_0001, 0, one);
  // LAHF; SYSCALL NX PDPE1GB RDTSCP LM
  assert.ok(has(extendedC, 0));
  assert.ok(has(extendedD, 11, 20, 26, 27, 29));
  const [, ebx7] = cpuidLeaf(7, 0, one);
  // BMI1 AVX2 BMI2 INVPCID AVX512F ADX SHA
  for (const bit of [3, 5, 8, 10, 16, 19, 29]) assert.ok(!has(ebx7, bit), `leaf 7 EBX ${bit}`);
  assert.deepEqual(cpuidLeaf(0xd, 0, one), [0, 0, 0, 0]);
});

Deno.test("CPUID repeats in leaf 80000001 what AMD repeats there", () => {
  const [, , , edx] = cpuidLeaf(1, 0, one);
  const [, , , extended] = cpuidLeaf(0x8000_0001, 0, one);
  // All but SEP, CLFSH, SSE, SSE2 and what only the extended leaf has.
  const shared = 0x0183_f3ff;
  assert.equal(edx & shared, extended & shared);
});

Deno.test("CPUID names the vendor alike in both ranges, and a brand of 48 characters at most", () => {
  const [maximum, b, c, d] = cpuidLeaf(0, 0, one);
  assert.equal(text(b, d, c), "AuthenticAMD");
  assert.ok(maximum >= 0xd);
  const [extended, b2, c2, d2] = cpuidLeaf(0x8000_0000, 0, one);
  assert.equal(text(b2, d2, c2), "AuthenticAMD");
  assert.ok(extended >>> 0 >= 0x8000_0008);
  const brand = [2, 3, 4].flatMap((n) => [...cpuidLeaf(0x8000_0000 + n, 0, one)]);
  assert.equal(text(...brand), "vmctl software x86-64 processor");
});

Deno.test("CPUID says that there is a hypervisor, and which", () => {
  assert.ok(has(cpuidLeaf(1, 0, one)[2], 31));
  const [maximum, b, c, d] = cpuidLeaf(0x4000_0000, 0, one);
  assert.equal(text(b, c, d), "vmctl vmctl ");
  assert.ok(maximum >= 0x4000_0010);
  assert.equal(cpuidLeaf(0x4000_0010, 0, one)[0], 1_000_000, "TSC in kHz");
  // Crystal times numerator by denominator.
  const [denominator, numerator, crystal] = cpuidLeaf(0x15, 0, one);
  assert.equal(crystal * numerator / denominator, 1e9);
});

Deno.test("CPUID tells each of several processors who it is", () => {
  for (const count of [1, 2, 3, 4, 8]) {
    const bits = Math.ceil(Math.log2(count));
    for (let id = 0; id < count; id++) {
      const cpu = { id, count };
      const [, ebx, , edx] = cpuidLeaf(1, 0, cpu);
      assert.equal(ebx >>> 24, id);
      assert.equal((ebx >>> 16) & 0xff, count);
      assert.equal(has(edx, 28), count > 1, "HTT");
      const [, , sizes] = cpuidLeaf(0x8000_0008, 0, cpu);
      assert.equal((sizes & 0xff) + 1, count);
      assert.equal((sizes >>> 12) & 15, bits);
      const threads = cpuidLeaf(0xb, 0, cpu);
      const cores = cpuidLeaf(0xb, 1, cpu);
      assert.deepEqual(threads, [0, 1, 0x100, id]);
      assert.deepEqual(cores, [bits, count, 0x201, id]);
      assert.equal((cpuidLeaf(0xb, 2, cpu)[2] >>> 8) & 0xff, 0, "no third level");
    }
  }
});

Deno.test("CPUID gives zeros for leaves that there are not", () => {
  for (const leaf of [2, 3, 0x14, 0x17, 0x3fff_ffff, 0x4000_0001, 0x8000_0009, 0xffff_ffff]) {
    assert.deepEqual(cpuidLeaf(leaf, 0, one), [0, 0, 0, 0], leaf.toString(16));
  }
});
