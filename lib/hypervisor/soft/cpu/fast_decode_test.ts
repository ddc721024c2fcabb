import assert from "node:assert/strict";
import * as fc from "fast-check";
import { createTag } from "../wasm/mod.ts";
import { CodeCache } from "./code_cache.ts";
import { cpuLayout, createCpuMemory } from "./cpu_memory.ts";
import { createTeamMemory } from "./cpu_team.ts";
import { Decoder, RUN } from "./decoder.ts";
import type { EngineExports } from "./host_context.ts";
import { interpreterFor } from "./processor.ts";
import {
  CodeMode,
  CodeNotes,
  Exit,
  FuelCost,
  HANDLER_SLOTS,
  PAGE_MAP,
  RECORD,
  Reg,
  S,
} from "./state.ts";
import { CODE } from "../../conformance/layout.ts";
import { TestCpu } from "./system/test_cpu.ts";
import { allRows } from "./table.ts";

const RAM_PAGES = 2;
const PAGE = 4096;

interface Cache {
  readonly code: CodeCache;
  /** The state memory. */
  readonly words: Int32Array;
}

/** Two code caches over the same RAM and alike in all, but that one has the generated decoder. */
class Pair {
  readonly ram: Uint8Array;
  readonly #regions = cpuLayout().regions;
  readonly #caches: readonly Cache[];
  /** Where the records begin that {@link compare} has not seen yet. */
  #from: number = this.#regions.arena;

  constructor(kind: { smp: boolean }) {
    const interpreter = interpreterFor({ ...kind, holdsRam: false }, undefined);
    const ram = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    this.ram = new Uint8Array(ram.buffer, 0, RAM_PAGES * PAGE);
    const nothing = () => {};
    this.#caches = [true, false].map((fast) => {
      const memory = createCpuMemory(cpuLayout());
      const imports: Record<string, WebAssembly.ImportValue> = {
        cpu: memory,
        ram,
        table: new WebAssembly.Table({ element: "anyfunc", initial: HANDLER_SLOTS }),
        fault: createTag() as unknown as WebAssembly.ImportValue,
        vm: createTeamMemory(),
      };
      for (const { name, kind } of WebAssembly.Module.imports(interpreter.module)) {
        if (kind === "function") imports[name] = nothing;
      }
      const instance = new WebAssembly.Instance(interpreter.module, { e: imports });
      const exports = instance.exports as unknown as EngineExports;
      const code = new CodeCache(memory, ram, {
        regions: this.#regions,
        interpreter,
        decoder: new Decoder(allRows),
        protect: (at) => exports.protectPage(at),
        seal: (at) => exports.sealCode(at),
        ...(fast ? { decodeRun: exports.decodeRun } : {}),
      });
      return { code, words: new Int32Array(memory.buffer) };
    });
  }

  /** Forgets all code of page `number`. */
  clear(number: number): void {
    for (const { code } of this.#caches) {
      code.invalidate(number);
      if (code.hasRoom) continue;
      code.flush();
      this.#from = this.#regions.arena;
    }
  }

  /** Has both decode at `offset` of page `number`, where that is not decoded yet, and compares how it went. */
  decode(number: number, offset: number): void {
    const [fast, slow] = this.#caches.map(({ code, words }) => {
      const page = code.page(number * PAGE, CodeMode.bits64);
      if (words[(page.map >>> 2) + offset] !== 0) return "known";
      return code.decode(page, offset);
    });
    if (fast !== slow) this.#fail(number, offset, `${fast} for ${slow}`);
  }

  /** Compares all that decoding left. */
  compare(number: number): void {
    const [fast, slow] = this.#caches as [Cache, Cache];
    const [a, b] = [fast.words, slow.words];
    const { map } = slow.code.page(number * PAGE, CodeMode.bits64);
    assert.equal(fast.code.page(number * PAGE, CodeMode.bits64).map, map);
    for (let offset = 0; offset < PAGE; offset++) {
      const at = (map >>> 2) + offset;
      if (a[at] !== b[at]) this.#fail(number, offset, `map ${a[at]} for ${b[at]}`);
    }
    const top = b[CodeNotes.arenaTop >>> 2] as number;
    for (let at = this.#from >>> 2; at < top >>> 2; at++) {
      if (a[at] === b[at]) continue;
      const record = at & ~7;
      const offset = (b[record + 1] as number) & 0xffff;
      const text = (words: Int32Array) =>
        [...words.subarray(record, record + 8)].map((w) => (w >>> 0).toString(16)).join(" ");
      this.#fail(number, offset, `record\n${text(a)} for\n${text(b)}`);
    }
    this.#from = top;
    assert.equal(a[CodeNotes.arenaTop >>> 2], top);
    assert.equal(fast.code.decoded, slow.code.decoded);
    for (const [start, bytes] of [[this.#regions.codeMarks, 8], [this.#regions.codeSums, 8]]) {
      const at = ((start as number) + (bytes as number) * number) >>> 2;
      assert.deepEqual(a.slice(at, at + 2), b.slice(at, at + 2));
    }
  }

  /** Compares what is left of page `number` after a store to it. */
  compareStore(number: number, offset: number): void {
    for (const { code } of this.#caches) code.write(number * PAGE + offset, 1);
    const [fast, slow] = this.#caches as [Cache, Cache];
    const { map } = slow.code.page(number * PAGE, CodeMode.bits64);
    const alike = (at: number, what: string) => {
      if (fast.words[at] !== slow.words[at]) this.#fail(number, offset, `${what} at ${at}`);
    };
    for (let at = map >>> 2; at < (map + PAGE_MAP) >>> 2; at++) alike(at, "map");
    const top = (slow.words[CodeNotes.arenaTop >>> 2] as number) >>> 2;
    for (let at = this.#regions.arena >>> 2; at < top; at += RECORD >>> 2) alike(at, "handler");
  }

  #fail(number: number, offset: number, what: string): never {
    const at = number * PAGE + offset;
    const bytes = [...this.ram.subarray(at, at + 16)].map((b) => b.toString(16).padStart(2, "0"));
    assert.fail(`${bytes.join(" ")} at ${offset}: ${what}`);
  }
}

const prefixes: readonly (readonly number[])[] = [
  [],
  [0x66],
  [0xf2],
  [0xf3, 0x4f],
  [0x67, 0x41],
  [0x64],
  [0xf0],
  [0xf0, 0x66, 0x41],
  [0x65, 0x66, 0x67],
  [0x2e, 0xf2, 0xf3],
  [0x66, 0xf3, 0xf2, 0x44],
  [0x48, 0x66],
  [0x66, 0x4a],
  [0x40],
];

const everyModrm = Array.from({ length: 256 }, (_, modrm) => modrm);
/** One of each form, with all of the reg field. */
const someModrm = everyModrm.filter((modrm) =>
  [0, 4, 5, 0x44, 0x85, 0xc1, 0xc4].includes(modrm & 0xc7)
);

const maps: readonly (readonly number[])[] = [[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]];

for (const kind of [{ smp: false, of: prefixes }, { smp: true, of: [[], [0xf0]] }]) {
  const whose = kind.smp ? "one of several vCPUs" : "one vCPU";

  Deno.test(`all opcodes with prefixes and ModRM bytes are decoded alike, of ${whose}`, () => {
    const pair = new Pair(kind);
    const slots = PAGE / 16;
    let slot = 0;
    let noise = 1;
    const finish = () => {
      pair.clear(0);
      for (let i = 0; i < slot; i++) pair.decode(0, 16 * i);
      pair.compare(0);
      slot = 0;
    };
    for (const prefix of kind.of) {
      for (const map of maps) {
        for (let opcode = 0; opcode < 256; opcode++) {
          for (const modrm of prefix.length === 0 ? everyModrm : someModrm) {
            // Displacements and immediates; the last byte is a RET, which ends runs.
            const at = 16 * slot;
            const head = [...prefix, ...map, opcode, modrm];
            pair.ram.set(head, at);
            for (let i = head.length; i < 15; i++) {
              noise = Math.imul(noise, 0x19660d) + 0x3c6ef35f | 0;
              pair.ram[at + i] = noise >>> 24;
            }
            pair.ram[at + 15] = 0xc3;
            if (++slot === slots) finish();
          }
        }
      }
    }
    finish();
  });
}

const byte = fc.oneof(
  fc.integer({ min: 0, max: 255 }),
  fc.constantFrom(0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x64, 0x65, 0x40, 0x48, 0x4f, 0x0f),
  fc.constantFrom(0x90, 0x89, 0x8b, 0x8d, 0x75, 0xe8, 0xc3, 0x05, 0x04, 0x25, 0x84, 0x24),
);

Deno.test("any bytes are decoded alike, from any offsets, up to the page's end", () => {
  const pair = new Pair({ smp: false });
  fc.assert(
    fc.property(
      fc.array(byte, { minLength: 1, maxLength: 400 }),
      fc.oneof(fc.constant(PAGE), fc.integer({ min: 400, max: PAGE })),
      fc.array(fc.nat(400), { minLength: 1, maxLength: 20 }),
      (bytes, end, offsets) => {
        pair.clear(0);
        pair.ram.fill(0xc3);
        pair.ram.set(bytes, end - bytes.length);
        // What lies behind the page is no part of its instructions.
        pair.ram.fill(0x90, PAGE);
        for (const back of offsets) pair.decode(0, Math.max(end - 1 - back, 0));
        pair.compare(0);
      },
    ),
    { numRuns: 2000 },
  );
});

Deno.test("a run ends alike behind as many instructions, at what is known, and at the limit of 15 bytes", () => {
  const pair = new Pair({ smp: false });
  pair.ram.fill(0x90);
  pair.decode(0, 100);
  pair.compare(0);
  // Up to the run before, and over the page's end.
  pair.decode(0, 100 - RUN / 2);
  pair.decode(0, PAGE - 3);
  pair.compare(0);
  for (const length of [11, 12, 14, 15, 16, 17]) {
    // ADD [RSP + disp32], imm32 with prefixes that say nothing, which ends there or is cut off.
    const head = new Array<number>(length - 11).fill(0x2e);
    const bytes = [...head, 0x81, 0x84, 0x24, 1, 2, 3, 4, 5, 6, 7, 8];
    for (const end of [PAGE, 2000]) {
      for (let inside = 1; inside <= length; inside++) {
        pair.clear(0);
        pair.ram.fill(0x2e);
        pair.ram.set(bytes, end - inside);
        for (let back = inside; back < 18; back++) pair.decode(0, end - back);
        pair.compare(0);
      }
    }
  }
});

Deno.test("far displacements are added alike", () => {
  const pair = new Pair({ smp: false });
  const far = [0x7fff_ffff, 0x7fff_f800, 0x7fff_f000, -0x8000_0000, -1, 0];
  const heads = [
    ...[[], [0x64], [0x67], [0x67, 0x65]].flatMap((prefix) => [
      [...prefix, 0x8b, 0x05],
      [...prefix, 0x48, 0x8d, 0x1d],
      [...prefix, 0x8b, 0x04, 0x25],
      [...prefix, 0x8f, 0x84, 0x24],
      [...prefix, 0x41, 0x8f, 0x84, 0x24],
    ]),
    [0xe8],
    [0xe9],
    [0x0f, 0x84],
  ];
  for (const head of heads) {
    for (const disp of far) {
      for (const end of [PAGE, PAGE - 7, 2049]) {
        pair.clear(0);
        pair.ram.fill(0xc3);
        const at = end - head.length - 4;
        pair.ram.set([...head, disp, disp >> 8, disp >> 16, disp >> 24], at);
        pair.decode(0, at);
        pair.compare(0);
      }
    }
  }
});

Deno.test("a branch is linked alike to what is decoded already, in its page", () => {
  const pair = new Pair({ smp: false });
  for (const to of [-1, 0, 5, 60, PAGE - 1, PAGE]) {
    pair.clear(0);
    pair.ram.fill(0xc3);
    if (to >= 0 && to < PAGE) pair.decode(0, to);
    const disp = to - 1005;
    pair.ram.set([0xe8, disp, disp >> 8, disp >> 16, disp >> 24], 1000);
    pair.decode(0, 1000);
    pair.compare(0);
  }
});

Deno.test("a store takes the same records away", () => {
  const pair = new Pair({ smp: false });
  fc.assert(
    fc.property(
      fc.array(byte, { minLength: PAGE, maxLength: PAGE, size: "max" }),
      fc.array(fc.nat(PAGE - 1), { minLength: 1, maxLength: 300 }),
      fc.nat(PAGE - 1),
      (bytes, offsets, stored) => {
        pair.clear(0);
        pair.ram.set(bytes);
        for (const offset of offsets) pair.decode(0, offset);
        pair.compare(0);
        pair.compareStore(0, stored);
      },
    ),
    { numRuns: 30 },
  );
});

Deno.test("the runs of several pages, more than are noted at a time, are taken notice of", () => {
  const pair = new Pair({ smp: false });
  pair.ram.fill(0xc3);
  for (let offset = 0; offset < PAGE; offset++) {
    pair.decode(0, offset);
    pair.decode(1, PAGE - 1 - offset);
  }
  for (const number of [0, 1]) {
    pair.compare(number);
    pair.compareStore(number, 5);
  }
});

/** Runs at `offset` of the page of code, until a jump is not paid for or there is something else. */
function runAt(t: TestCpu, offset: number): Exit {
  t.cpu.set64(S.rip, BigInt(CODE + offset));
  t.cpu.set32(S.fuel, 4 * FuelCost.jump);
  return t.cpu.exports.run();
}

/** At 0x40: MOV EAX, `n`, and an endless loop at 0x80; at 0x100 a jump to the first. */
function writeCode(t: TestCpu, n: number): void {
  t.memory.writeFrom(CODE + 0x40, new Uint8Array([0xb8, n, 0, 0, 0, 0xeb, 0x39]));
  t.memory.writeFrom(CODE + 0x80, new Uint8Array([0xeb, 0xfe]));
  t.memory.writeFrom(CODE + 0x100, new Uint8Array([0xe9, 0x3b, 0xff, 0xff, 0xff]));
}

Deno.test("jumps decode in pages that are opened, but not where a device wrote over their code", () => {
  using t = new TestCpu();
  const { code } = t.processor;
  // The first lookup of the page.
  assert.equal(t.execute([0xeb, 0xfe]), Exit.Fuel);
  writeCode(t, 1);
  assert.equal(runAt(t, 0x40), Exit.Lookup);
  const page = code.known(CODE, CodeMode.bits64);
  assert.ok(page !== undefined);
  code.decodeThere(page);
  const before = code.decoded;
  assert.equal(runAt(t, 0x40), Exit.Fuel);
  assert.equal(t.cpu.reg(Reg.rax), 1n);
  assert.equal(code.decoded, before + 3);
  // With nobody told, as a device does it.
  writeCode(t, 2);
  assert.equal(runAt(t, 0x100), Exit.Lookup);
  code.invalidate(CODE >>> 12);
  assert.equal(runAt(t, 0x100), Exit.Lookup, "what is known of the page is to be looked for first");
  code.decodeThere(page);
  assert.equal(runAt(t, 0x100), Exit.Fuel);
  assert.equal(t.cpu.reg(Reg.rax), 2n);
});

Deno.test("code that jumps decoded is noticed to be stored to", () => {
  using t = new TestCpu();
  const { code } = t.processor;
  // MOV [RBX], CL at another page, with a tag for writes from before the page holds code.
  const store = (at: number) => {
    t.cpu.setReg(Reg.rbx, BigInt(at));
    t.cpu.set64(S.rip, BigInt(CODE + 0x1000));
    assert.equal(t.execute([0x88, 0x0b, 0xeb, 0xfe]), Exit.Fuel);
  };
  t.cpu.setReg(Reg.rcx, 7n);
  store(CODE + 0x200);
  assert.equal(t.execute([0xeb, 0xfe]), Exit.Fuel);
  t.cpu.set64(S.rip, BigInt(CODE));
  assert.equal(t.execute([0xeb, 0xfe]), Exit.Fuel);
  const page = code.known(CODE, CodeMode.bits64);
  assert.ok(page !== undefined);
  code.invalidate(CODE >>> 12);
  store(CODE + 0x200);
  code.decodeThere(page);
  writeCode(t, 1);
  assert.equal(runAt(t, 0x40), Exit.Fuel);
  store(CODE + 0x41);
  code.decodeThere(page);
  assert.equal(runAt(t, 0x40), Exit.Fuel);
  assert.equal(t.cpu.reg(Reg.rax), 7n);
});
