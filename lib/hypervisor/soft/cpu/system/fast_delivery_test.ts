import assert from "node:assert/strict";
import fc from "fast-check";
import {
  CODE,
  IDT,
  IST1_STACK,
  RING0_STACK,
  Selector,
  STACK,
  TSS,
} from "../../../conformance/layout.ts";
import { Pte, writeDescriptor, writeGate64 } from "../../../conformance/tables.ts";
import { Exit, Flag, Reg, S, Seg, SegField, segOffset, Vector } from "../state.ts";
import { deliver, type Delivery } from "./interrupts.ts";
import { loadFlags } from "./mode.ts";
import { TestCpu } from "./test_cpu.ts";

const VECTOR = 0x31;

/** What a delivery starts from. */
interface Scene {
  readonly cpl: 0 | 3;
  readonly rsp: number;
  readonly flags: number;
  readonly gate: { type: number; dpl: number; ist: number; present: boolean; offset: number };
  readonly selector: number;
  readonly hasError: boolean;
  readonly kind: "fault" | "external" | "software";
  /** Something that is not as the fast way wants it. */
  readonly trouble: string;
}

const TROUBLES = [
  "none",
  "none",
  "none",
  "idt limit",
  "gdt limit",
  "tss limit",
  "stack not present",
  "stack read-only",
  "idt not present",
  "high stack",
  "non-canonical stack",
  "non-canonical handler",
  "code on the stack page",
];

const scenes: fc.Arbitrary<Scene> = fc.record({
  cpl: fc.constantFrom(0 as const, 3 as const),
  rsp: fc.integer({ min: STACK - 0x200, max: STACK }),
  flags: fc.integer({ min: 0, max: 0x3f_ffff }).map((flags) =>
    (flags & ~(Flag.VM | Flag.VIF | Flag.VIP)) | 2
  ),
  gate: fc.record({
    type: fc.constantFrom(0xe, 0xe, 0xf, 0xf, 0xc, 5),
    dpl: fc.constantFrom(0, 3),
    ist: fc.constantFrom(0, 0, 1),
    present: fc.integer({ min: 0, max: 9 }).map((n) => n > 0),
    offset: fc.integer({ min: 0, max: 0xf_ffff }),
  }),
  selector: fc.constantFrom(
    Selector.Code64,
    Selector.Code64,
    Selector.Code64 | 3,
    Selector.Code32,
    Selector.Data,
    Selector.Spare,
    0,
    4,
    0x200,
  ),
  hasError: fc.boolean(),
  kind: fc.constantFrom("fault" as const, "external" as const, "software" as const),
  trouble: fc.constantFrom(...TROUBLES),
});

function setUp(t: TestCpu, scene: Scene): void {
  const { cpu, memory } = t;
  for (const page of [0x7000, 0x8000, 0x9000, IDT]) t.tables.map(page, page);
  t.reset();
  memory.fill(0x7000, 0x3000);
  memory.fill(IDT, 0x1000);
  // A conforming code segment.
  writeDescriptor(memory, Selector.Spare, { base: 0, limit: 0xf_ffff, access: 0x9f, flags: 0xa });
  const { gate, selector } = scene;
  writeGate64(memory, VECTOR, { ...gate, selector });
  for (const vector of [Vector.GP, Vector.NP, Vector.SS, Vector.TS, Vector.PF, Vector.DF]) {
    writeGate64(memory, vector, { offset: 0xe000 + vector, ist: 2 });
  }
  t.setPrivilege(scene.cpl);
  cpu.setReg(Reg.rsp, BigInt(scene.rsp));
  loadFlags(cpu, BigInt(scene.flags));
  switch (scene.trouble) {
    case "idt limit":
      cpu.set32(S.idtLimit, 16 * VECTOR + 14);
      break;
    case "gdt limit":
      cpu.set32(S.gdtLimit, 0xe);
      break;
    case "tss limit":
      cpu.set32(segOffset(Seg.TR) + SegField.limit, 0xa);
      break;
    case "stack not present":
      for (const page of [0x7000, 0x8000, 0x9000]) t.tables.map(page, page, { flags: 0n });
      break;
    case "stack read-only":
      for (const page of [0x7000, 0x8000]) t.tables.map(page, page, { flags: Pte.Present });
      break;
    case "idt not present":
      t.tables.map(IDT, IDT, { flags: 0n });
      break;
    case "high stack":
      memory.writeU64(TSS + 4, 0x10_0010n);
      break;
    case "non-canonical stack":
      memory.writeU64(TSS + 4, 0x8000_0000_0000n);
      cpu.setReg(Reg.rsp, 0x8000_0000_0000n);
      break;
    case "non-canonical handler":
      memory.writeU32(IDT + 16 * VECTOR + 8, 0x8000);
      break;
    case "code on the stack page": {
      const page = t.processor.code.page(0x7000, cpu.get32(S.codeTag) & ~4);
      t.processor.code.decode(page, 0x100);
      break;
    }
  }
}

function run(t: TestCpu, scene: Scene): string {
  setUp(t, scene);
  const what: Delivery = {
    vector: VECTOR,
    error: 0x1234,
    hasError: scene.hasError,
    software: scene.kind === "software",
    external: scene.kind === "external",
    rip: 0x1122_3344n,
  };
  const result = deliver(t.cpu, what);
  const memory = t.memory.slice(0x7000, 0x3000);
  return `${result} ${t.state()} ${memory.toHex()}`;
}

Deno.test("the fast delivery of an event leaves what the long one leaves", () => {
  using t = new TestCpu();
  const real = t.cpu.exports;
  let taken = 0;
  const counting = {
    ...real,
    deliverFast: (vector: number, error: number, how: number, rip: bigint) => {
      const done = real.deliverFast(vector, error, how, rip);
      taken += done;
      return done;
    },
  };
  const long = { ...real, deliverFast: () => 0 };
  let runs = 0;
  fc.assert(
    fc.property(scenes, (scene) => {
      runs++;
      t.cpu.exports = counting;
      const fast = run(t, scene);
      t.cpu.exports = long;
      assert.equal(fast, run(t, scene));
    }),
    { numRuns: 1500 },
  );
  assert.ok(taken > runs / 20, `only ${taken} of ${runs} went the fast way`);
});

Deno.test("a fault in generated code enters its handler without a detour", () => {
  using t = new TestCpu();
  writeGate64(t.memory, Vector.UD, { offset: CODE + 0x100, ist: 1 });
  // ud2; the handler jumps to itself.
  t.memory.writeFrom(CODE + 0x100, new Uint8Array([0xeb, 0xfe]));
  const exit = t.execute([0x0f, 0x0b], 1);
  assert.equal(exit, Exit.Fuel);
  assert.equal(t.cpu.get64(S.rip), BigInt(CODE + 0x100));
  assert.equal(t.cpu.reg(Reg.rsp), BigInt(IST1_STACK - 40));
  assert.equal(t.memory.readU64(IST1_STACK - 40), BigInt(CODE));
  assert.equal(t.memory.readU64(IST1_STACK - 24) & BigInt(Flag.RF), BigInt(Flag.RF));
});

Deno.test("an interrupt of ring 3 is pushed on the stack of ring 0, up to its last byte", () => {
  using t = new TestCpu();
  writeGate64(t.memory, VECTOR, { offset: 0xe000 });
  t.setPrivilege(3);
  t.cpu.setReg(Reg.rsp, 0x7123n);
  assert.equal(t.cpu.exports.deliverFast(VECTOR, 0, 0, 0x55n), 1);
  assert.equal(t.cpu.reg(Reg.rsp), BigInt(RING0_STACK - 40));
  const frame = [0, 1, 2, 3, 4].map((n) => t.memory.readU64(RING0_STACK - 40 + 8 * n));
  assert.deepEqual(frame, [
    0x55n,
    BigInt(Selector.UserCode64),
    2n,
    0x7123n,
    BigInt(Selector.UserData),
  ]);
  assert.equal(t.cpu.get32(S.cpl), 0);
});
