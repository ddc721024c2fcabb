import assert from "node:assert/strict";
import { join } from "node:path";
import { createTag, i32, ModuleBuilder, ValType } from "../../wasm/mod.ts";
import { CodeCache, type CodePage } from "../code_cache.ts";
import { cpuLayout, createCpuMemory } from "../cpu_memory.ts";
import { createTeamMemory } from "../cpu_team.ts";
import { Decoder } from "../decoder.ts";
import type { EngineExports } from "../host_context.ts";
import { interpreterFor } from "../processor.ts";
import { CodeMode, HANDLER_SLOTS } from "../state.ts";
import { allRows } from "../table.ts";
import { regionName } from "./heat.ts";
import { Installer } from "./installer.ts";
import { costOf } from "./instances.ts";
import { TranslationStore } from "./store.ts";
import { writeUnits } from "./store_format.ts";
import { CodeRanges, pageSum, type Unit, UnitEntries } from "./unit.ts";

const PAGE = 4096;
/** Where regions are, and where in a page that a device writes to there was code before. */
const OFFSET = 0x40;
const BEFORE = 0x200;
const VERSION = "0123456789abcdef0123456789abcdef";
/** `nop; ret` */
const CODE = Uint8Array.of(0x90, 0xc3);

/** An installer over a code cache that others write to at any time. */
class Bench {
  readonly ram = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  readonly bytes = new Uint8Array(this.ram.buffer);
  readonly code: CodeCache;
  readonly store: TranslationStore;
  readonly installer: Installer;
  readonly #cpu = createCpuMemory(cpuLayout());
  /** What another vCPU does when code is marked next. */
  onMark: (() => void) | undefined;

  /** `folder`: where the store's file is; `codeLimitBytes` as for the installer. */
  constructor(options: { readonly folder?: string; readonly codeLimitBytes?: number } = {}) {
    const { folder, codeLimitBytes } = options;
    this.store = new TranslationStore({ folder, version: VERSION });
    const interpreter = interpreterFor({ smp: false, holdsRam: false }, undefined);
    const tag = createTag();
    const table = new WebAssembly.Table({ element: "anyfunc", initial: HANDLER_SLOTS });
    const imports: Record<string, WebAssembly.ImportValue> = {
      ...{ cpu: this.#cpu, ram: this.ram, table, vm: createTeamMemory() },
      fault: tag as unknown as WebAssembly.ImportValue,
    };
    for (const { name, kind } of WebAssembly.Module.imports(interpreter.module)) {
      if (kind === "function") imports[name] = () => {};
    }
    const instance = new WebAssembly.Instance(interpreter.module, { e: imports });
    const exports = instance.exports as unknown as EngineExports;
    this.code = new CodeCache(this.#cpu, this.ram, {
      regions: cpuLayout().regions,
      interpreter,
      decoder: new Decoder(allRows),
      protect: (at) => exports.protectPage(at),
      seal: (at) => {
        exports.sealCode(at);
        this.onMark?.();
        this.onMark = undefined;
      },
    });
    this.installer = new Installer({
      ...{ cpuMemory: this.#cpu, ramMemory: this.ram, table, tag, exports: instance.exports },
      ...{ code: this.code, store: this.store, shared: true, codeLimitBytes },
      isIntact: (at) => exports.codeIntact(at) !== 0,
    });
  }

  /** A region of {@link CODE} in these pages, which it may be entered at in the first. */
  unitIn(...pages: readonly number[]): Unit {
    const module = new ModuleBuilder();
    const region = module.func([ValType.I32], [ValType.I32]);
    region.return(i32(0));
    region.unreachable();
    for (const number of [0, 1]) module.exportFunc(regionName(number), region);
    const parts = pages.map((pageNumber, n) => {
      this.bytes.set(CODE, pageNumber * PAGE + OFFSET);
      this.code.page(pageNumber * PAGE, CodeMode.bits64);
      return {
        pageNumber,
        sum: pageSum(new Uint32Array(this.ram.buffer), pageNumber * PAGE),
        entries: UnitEntries.of(n === 0 ? [{ offset: OFFSET, block: 0 }] : []),
        code: CodeRanges.of([{ start: OFFSET, bytes: CODE }]),
      };
    });
    return { regions: [{ parts }], bytes: module.finish() };
  }

  /** The record at an offset of page `number`; 0 where there is none. */
  recordAt(number: number, offset: number): number {
    const { map } = this.code.page(number * PAGE, CodeMode.bits64);
    return new Int32Array(this.#cpu.buffer)[(map >>> 2) + offset] as number;
  }

  /** Slot of the handler of the record at {@link OFFSET} of page `number`. */
  slotAt(number: number): number {
    return new Uint16Array(this.#cpu.buffer)[this.recordAt(number, OFFSET) >>> 1] as number;
  }
}

Deno.test("regions have slots of their own, also where one's code is changed while it is installed again", () => {
  const t = new Bench();
  const [first, second, third] = [t.unitIn(1), t.unitIn(2), t.unitIn(3)];
  t.installer.adopt(first, true);
  assert.ok(t.slotAt(1) >= HANDLER_SLOTS);
  t.onMark = () => t.bytes.fill(0xf4, PAGE + OFFSET, PAGE + OFFSET + 1);
  t.installer.adopt(first, true);
  assert.equal(t.onMark, undefined);
  assert.equal(t.recordAt(1, OFFSET), 0);
  t.installer.adopt(second, true);
  t.installer.adopt(third, true);
  assert.ok(t.slotAt(2) >= HANDLER_SLOTS && t.slotAt(3) >= HANDLER_SLOTS);
  assert.notEqual(t.slotAt(2), t.slotAt(3));
});

Deno.test("what was written over while it was translated is not installed, nor what is behind it in the unit", () => {
  const t = new Bench();
  const page = t.code.page(PAGE, CodeMode.bits64);
  const old = t.unitIn(1);
  t.code.decode(page, OFFSET);
  // Its instructions were read before, its bytes behind that.
  t.bytes.set([0xf8, 0xc3], PAGE + OFFSET);
  const mixed = {
    bytes: old.bytes,
    regions: [0, 1].map(() => ({
      parts: (old.regions[0]?.parts ?? []).map((part) => ({
        ...part,
        code: CodeRanges.of([{ start: OFFSET, bytes: Uint8Array.of(0xf8, 0xc3) }]),
      })),
    })),
  };
  const pages = mixed.regions.map(() => [page]);
  const isOfUse = t.installer.install(mixed, pages, true);
  assert.deepEqual([page.regions.size, isOfUse], [0, false]);
  // Nor is what was decoded before to run on. Once it is decoded anew they belong together.
  assert.equal(t.code.invalidated, 1);
  t.code.decode(page, OFFSET);
  assert.equal(t.installer.install(mixed, pages, true), true);
  assert.ok(t.slotAt(1) >= HANDLER_SLOTS);
});

/** Decodes code in page 2, which a device then writes over with nobody told. */
function writeOver(t: Bench): CodePage {
  const page = t.code.page(2 * PAGE, CodeMode.bits64);
  t.bytes.set(CODE, 2 * PAGE + BEFORE);
  t.code.decode(page, BEFORE);
  assert.notEqual(t.recordAt(2, BEFORE), 0);
  t.bytes.fill(0xf4, 2 * PAGE + BEFORE, 2 * PAGE + BEFORE + 2);
  return page;
}

Deno.test("what a device wrote over does not come back by what is brought back of its page", () => {
  const t = new Bench();
  const page = writeOver(t);
  t.store.add(t.unitIn(2));
  t.installer.openLate(page, OFFSET, 0);
  assert.equal(t.recordAt(2, BEFORE), 0);
  t.installer.openLate(page, OFFSET, 0);
  assert.ok(t.slotAt(2) >= HANDLER_SLOTS);
});

Deno.test("what a device wrote over does not come back by a region over its page", () => {
  const t = new Bench();
  writeOver(t);
  t.installer.adopt(t.unitIn(1, 2), true);
  assert.ok(t.slotAt(1) >= HANDLER_SLOTS);
  assert.equal(t.recordAt(2, BEFORE), 0);
});

Deno.test("of what the last run came to much later, pages get all while there is plenty of room", () => {
  const folder = Deno.makeTempDirSync();
  try {
    const codeLimitBytes = 4 * costOf(new Bench().unitIn(1));
    const t = new Bench({ folder, codeLimitBytes });
    const pages = [1, 2, 3];
    const before = { regions: [], bytes: new Uint8Array(512 << 10) };
    const file = writeUnits([before, ...pages.map((number) => t.unitIn(number))], VERSION);
    Deno.writeFileSync(join(folder, `translations-${VERSION}`), file, { mode: 0o600 });
    t.store.load();
    /** Whether a page gets its region, or is to get it later. */
    const opens = (number: number): boolean => {
      const page = t.code.page(number * PAGE, CodeMode.bits64);
      t.installer.open(page);
      assert.equal(page.regions.size, page.late ? 0 : 1);
      return !page.late;
    };
    assert.deepEqual(pages.map(opens), [false, false, false]);
    t.installer.opensAll = true;
    assert.deepEqual(pages.map(opens), [true, true, false], "half of the room is for others");
    assert.equal(t.installer.opensFully, false);
    // What is hot gets its region all the same.
    t.installer.openLate(t.code.page(3 * PAGE, CodeMode.bits64), OFFSET, 0);
    assert.ok(t.slotAt(3) >= HANDLER_SLOTS);
    t.code.flush();
    assert.deepEqual([3, 2, 1].map(opens), [true, true, false]);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});
