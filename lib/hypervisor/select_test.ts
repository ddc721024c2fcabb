import assert from "node:assert/strict";
import { chooseEngine, type KvmFacts, memoryBackingFor } from "./mod.ts";

const REAL: KvmFacts = {
  path: "/dev/kvm",
  accessible: true,
  usable: true,
  apiVersion: 12,
  missingCapabilities: [],
  execution: "hardware",
  instructionsPerSecond: 5e9,
};
const EMULATED: KvmFacts = { ...REAL, execution: "emulated", instructionsPerSecond: 3.1e6 };
const ABSENT: KvmFacts = {
  path: "/dev/kvm",
  accessible: false,
  usable: false,
  missingCapabilities: [],
  problem: "/dev/kvm cannot be opened",
};

Deno.test("auto takes KVM only where it is real", () => {
  assert.equal(chooseEngine("auto", REAL).kind, "kvm");
  assert.equal(chooseEngine("auto", REAL).warning, undefined);
  const emulated = chooseEngine("auto", EMULATED);
  assert.equal(emulated.kind, "soft");
  assert.match(emulated.reason, /emulation \(3\.1 million/);
  const absent = chooseEngine("auto", ABSENT);
  assert.equal(absent.kind, "soft");
  assert.match(absent.reason, /no usable KVM: \/dev\/kvm cannot be opened/);
  const old: KvmFacts = { ...REAL, usable: false, missingCapabilities: ["IRQFD"] };
  assert.equal(chooseEngine("auto", old).kind, "soft");
});

Deno.test("an explicit choice is kept, with a warning where KVM is an emulation", () => {
  assert.equal(chooseEngine("soft", REAL).kind, "soft");
  assert.deepEqual(chooseEngine("kvm", REAL), { kind: "kvm", reason: "KVM was asked for" });
  const emulated = chooseEngine("kvm", EMULATED);
  assert.equal(emulated.kind, "kvm");
  assert.match(emulated.warning ?? "", /is an emulation/);
  assert.equal(chooseEngine("kvm", ABSENT).kind, "kvm");
});

Deno.test("each engine has its kind of memory", () => {
  assert.equal(memoryBackingFor("kvm"), "mmap");
  assert.equal(memoryBackingFor("soft"), "wasm");
});
