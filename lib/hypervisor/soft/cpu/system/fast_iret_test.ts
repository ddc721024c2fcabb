import assert from "node:assert/strict";
import fc from "fast-check";
import { CODE, IDT, Selector, STACK, USER_STACK } from "../../../conformance/layout.ts";
import { writeDescriptor, writeGate64 } from "../../../conformance/tables.ts";
import { Flag, Reg, S, Seg, SegAttr, Vector } from "../state.ts";
import { setSegment } from "./access.ts";
import { loadFlags } from "./mode.ts";
import { Attrs, TestCpu } from "./test_cpu.ts";

/** What IRETQ starts from. */
interface Scene {
  readonly rip: bigint;
  readonly cs: number;
  readonly flags: number;
  readonly rsp: bigint;
  readonly ss: number;
  readonly before: number;
  /** What DS holds. */
  readonly ds: "null" | "user" | "kernel";
  readonly nullStack: boolean;
  readonly waiting: boolean;
  readonly gdtLimit: number;
}

const flags = fc.integer({ min: 0, max: 0x3f_ffff }).map((value) => (value & ~Flag.VM) | 2);
const quiet = flags.map((value) => value & ~(Flag.TF | Flag.NT));

const scenes: fc.Arbitrary<Scene> = fc.record({
  rip: fc.constantFrom(0x1234n, BigInt(CODE), 0x7fff_ffff_ffffn, 0x8000_0000_0000n, 1n << 63n),
  cs: fc.constantFrom(
    ...[Selector.Code64, Selector.UserCode64, Selector.Code64, Selector.UserCode64],
    ...[Selector.UserCode32, Selector.Code32, Selector.Spare, Selector.Spare2 | 3],
    ...[Selector.Data, Selector.UserCode64 & ~3, Selector.Code64 | 1, 0, 4, 0x200],
  ),
  flags: fc.oneof(flags, quiet),
  rsp: fc.constantFrom(0n, BigInt(USER_STACK), 0xffff_8000_0000_0000n, 0x1234_5678_9abcn),
  ss: fc.constantFrom(
    ...[Selector.Data, Selector.UserData, Selector.UserData, 0, 3, Selector.UserData & ~3],
    ...[Selector.Code64, Selector.Data | 3, 0x200],
  ),
  before: fc.oneof(quiet, quiet, flags.map((value) => value & ~Flag.TF)),
  ds: fc.constantFrom("null", "null", "user", "kernel"),
  nullStack: fc.boolean(),
  waiting: fc.boolean(),
  gdtLimit: fc.constantFrom(0x67, 0x67, 0x67, 0x40, 0x3a),
});

/** IRETQ; `long` makes it take the way through the host call. */
function run(t: TestCpu, scene: Scene, long: boolean): string {
  const { cpu, memory } = t;
  t.reset();
  memory.fill(0x7000, 0x3000);
  // Conforming code, and code that was not accessed yet.
  writeDescriptor(memory, Selector.Spare, { base: 0, limit: 0xf_ffff, access: 0x9f, flags: 0xa });
  writeDescriptor(memory, Selector.Spare2, { base: 0, limit: 0xf_ffff, access: 0xfa, flags: 0xa });
  memory.fill(IDT, 0x1000);
  for (const vector of [Vector.GP, Vector.NP, Vector.SS]) {
    writeGate64(memory, vector, { offset: 0xe000 + vector, ist: 2 });
  }
  cpu.set32(S.gdtLimit, scene.gdtLimit);
  if (scene.nullStack) {
    setSegment(cpu, Seg.SS, { selector: 0, base: 0n, limit: 0, attrs: SegAttr.unusable });
  }
  if (scene.ds !== "null") {
    const user = scene.ds === "user";
    setSegment(cpu, Seg.DS, {
      selector: user ? Selector.UserData : Selector.Data,
      base: 0n,
      limit: -1,
      attrs: Attrs.data | (user ? Attrs.userDpl : 0),
    });
  }
  const top = STACK - 0x80;
  cpu.setReg(Reg.rsp, BigInt(top));
  const frame = [scene.rip, scene.cs, scene.flags, scene.rsp, scene.ss];
  frame.forEach((value, n) => memory.writeU64(top + 8 * n, BigInt(value)));
  loadFlags(cpu, BigInt(scene.before));
  // The end of an NMI is what the fast way leaves to the host call.
  cpu.set32(S.nmiBlocked, long ? 1 : 0);
  cpu.set32(S.mailbox, scene.waiting ? 1 : 0);
  const exit = t.execute([0x48, 0xcf]);
  const left = cpu.get32(S.fuel);
  cpu.set32(S.nmiBlocked, 0);
  cpu.set32(S.mailbox, 0);
  return `${exit} ${left < 0} ${t.state()} ${memory.slice(0x9000, 0x1000).toHex()}`;
}

Deno.test("the fast IRETQ leaves what the long one leaves", () => {
  using t = new TestCpu();
  fc.assert(
    fc.property(scenes, (scene) => {
      assert.equal(run(t, scene, false), run(t, scene, true));
    }),
    { numRuns: 2000 },
  );
});

Deno.test("IRETQ to ring 3 gives it its stack, flags and TLB", () => {
  using t = new TestCpu();
  const scene: Scene = {
    rip: 0x1234n,
    cs: Selector.UserCode64,
    flags: Flag.IF | Flag.CF | 2,
    rsp: BigInt(USER_STACK),
    ss: Selector.UserData,
    before: 2,
    ds: "null",
    nullStack: true,
    waiting: false,
    gdtLimit: 0x67,
  };
  run(t, scene, false);
  const { cpu } = t;
  assert.equal(cpu.get64(S.rip), 0x1234n);
  assert.equal(cpu.get32(S.cpl), 3);
  assert.equal(cpu.selector(Seg.CS), Selector.UserCode64);
  assert.equal(cpu.selector(Seg.SS), Selector.UserData);
  assert.equal(cpu.reg(Reg.rsp), BigInt(USER_STACK));
  assert.equal(cpu.getRflags(), BigInt(Flag.IF | Flag.CF | 2));
});
