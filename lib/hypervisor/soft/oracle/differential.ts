/**
 * Rows of the opcode table run side by side: on the processor and on a {@link SingleStep}, from the same
 * random states. Results, defined flags and faults are to be equal.
 *
 * @module
 */

import type { Insn } from "../cpu/opcode.ts";
import { encode, type Encoding, formsOf } from "./encodings.ts";
import { Case, type NativeRunner, WINDOW } from "./native.ts";
import type { Random } from "./random.ts";
import { IP, type SingleStep } from "./single_step.ts";
import { fillState } from "./states.ts";
import { flavorOf } from "./values.ts";

/** What a test of rows needs. */
export interface Bench {
  readonly native: NativeRunner;
  readonly step: SingleStep;
  readonly random: Random;
}

/** A case before and after, on both sides. */
export interface CaseTriple {
  readonly input: DataView;
  readonly native: DataView;
  readonly ours: DataView;
}

/** How a row is tested. */
export interface RowOptions {
  /** States for each form (register, memory, operand sizes). */
  readonly states?: number;
  /** States that an encoding is run from. */
  readonly perEncoding?: number;
  /** RFLAGS bits that the instruction leaves undefined. */
  readonly undefinedFlags?: (encoding: Encoding, before: DataView) => number;
  /** Changes generated states. */
  readonly adjust?: (encoding: Encoding, state: DataView, random: Random) => void;
  /** Decides about a difference that is allowed; true: ignore it. */
  readonly allow?: (encoding: Encoding, state: CaseTriple) => boolean;
}

/** A difference between processor and interpreter. */
export interface Difference {
  readonly row: Insn;
  readonly encoding: Encoding;
  readonly text: string;
}

/** Result of {@link testRow}. */
export interface RowReport {
  readonly states: number;
  readonly differences: readonly Difference[];
  /** How many states differed in all. */
  readonly different: number;
}

/** Status flags and DF: what is compared. */
const COMPARED_FLAGS = 0xcd5;
const REPORTED = 3;

const names = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"];

function regName(n: number): string {
  return names[n] ?? `r${n}`;
}

/** Bit of the x87 status word: an unmasked exception waits. */
const ES = 0x80;

/**
 * Makes what the processor left comparable: clears what is not modelled or not defined.
 *
 * @param keepsPointers See {@link NativeRunner.keepsPointers}.
 */
function normalize(view: DataView, keepsPointers: boolean): void {
  const fx = Case.fx;
  // Instructions of the interpreter lie at IP; reserved bytes and the mask of MXCSR are not compared.
  view.setUint8(fx + 5, 0);
  if (view.getBigUint64(fx + 8, true) === view.getBigUint64(Case.code, true)) {
    view.setBigUint64(fx + 8, IP, true);
  }
  // FXRSTOR makes the pointers canonical, for 48 or 57 bits as the processor has them.
  for (const at of [fx + 8, fx + 16]) {
    view.setBigInt64(at, BigInt.asIntN(48, view.getBigUint64(at, true)), true);
  }
  if (!keepsPointers && (view.getUint16(fx + 2, true) & ES) === 0) {
    view.setUint16(fx + 6, 0, true);
    view.setBigUint64(fx + 8, 0n, true);
    view.setBigUint64(fx + 16, 0n, true);
  }
  view.setUint32(fx + 28, 0, true);
  const vector = view.getBigUint64(Case.trap, true);
  // Linux says of every page in the kernel's half that it is present.
  if (vector === 14n && view.getBigUint64(Case.cr2, true) >= 1n << 63n) {
    view.setBigUint64(Case.error, view.getBigUint64(Case.error, true) | 1n, true);
  }
  if (view.getBigUint64(Case.signal, true) === 0n) {
    view.setBigUint64(Case.trap, 0n, true);
    view.setBigUint64(Case.error, 0n, true);
  } else view.setBigUint64(Case.signal, 1n, true);
  if (vector !== 14n || view.getBigUint64(Case.signal, true) === 0n) {
    view.setBigUint64(Case.cr2, 0n, true);
  }
  view.setBigUint64(Case.rip, 0n, true);
}

/** Runs `row` from random states on both sides. */
export function testRow(row: Insn, bench: Bench, options: RowOptions = {}): RowReport {
  const { native, step, random } = bench;
  const { keepsPointers } = native;
  const states = options.states ?? 1000;
  const perEncoding = options.perEncoding ?? 25;
  const flavor = flavorOf(row);
  const pages = { address: native.pages };
  const batch = native.capacity;
  const before = new Uint8Array(batch * Case.size);
  const differences: Difference[] = [];
  let different = 0;
  let total = 0;
  for (const form of formsOf(row)) {
    let left = states;
    while (left > 0) {
      const encodings: Encoding[] = [];
      let count = 0;
      while (count < batch && left > 0) {
        const encoding = encode(row, form, random);
        const code = native.slot(encodings.length, encoding.bytes);
        encodings.push(encoding);
        for (let i = 0; i < perEncoding && count < batch && left > 0; i++, count++, left--) {
          const at = count * Case.size;
          fillState(encoding, random, { view: native.view, at, pages, flavor });
          native.view.setBigUint64(at + Case.code, code, true);
          if (options.adjust !== undefined) {
            const state = new DataView(native.view.buffer, at, Case.size);
            options.adjust(encoding, state, random);
          }
        }
      }
      before.set(native.cases.subarray(0, count * Case.size));
      const ours = before.slice(0, count * Case.size);
      native.run(count);
      for (let n = 0; n < count; n++) {
        const encoding = encodings[Math.floor(n / perEncoding)] as Encoding;
        if (n % perEncoding === 0) step.prepare(encoding.bytes);
        const at = n * Case.size;
        step.step(ours, at);
        const nativeView = new DataView(
          native.cases.buffer,
          native.cases.byteOffset + at,
          Case.size,
        );
        const oursView = new DataView(ours.buffer, at, Case.size);
        normalize(nativeView, keepsPointers);
        normalize(oursView, keepsPointers);
        const input = new DataView(before.buffer, at, Case.size);
        const undefinedFlags = options.undefinedFlags?.(encoding, input) ?? 0;
        const mask = BigInt(COMPARED_FLAGS & ~undefinedFlags);
        for (const view of [nativeView, oursView]) {
          view.setBigUint64(Case.flags, view.getBigUint64(Case.flags, true) & mask, true);
        }
        if (equal(nativeView, oursView)) continue;
        const triple = { input, native: nativeView, ours: oursView };
        if (options.allow?.(encoding, triple) === true) continue;
        different++;
        if (differences.length < REPORTED) {
          const text = describe(encoding, triple);
          differences.push({ row, encoding, text });
        }
      }
      total += count;
    }
  }
  return { states: total, differences, different };
}

function equal(a: DataView, b: DataView): boolean {
  const x = new Int32Array(a.buffer, a.byteOffset, Case.size / 4);
  const y = new Int32Array(b.buffer, b.byteOffset, Case.size / 4);
  for (let i = 0; i < x.length; i++) if (x[i] !== y[i]) return false;
  return true;
}

function hex(value: bigint | number, digits = 0): string {
  return value.toString(16).padStart(digits, "0");
}

function describe(encoding: Encoding, state: CaseTriple): string {
  const { row } = encoding;
  const bytes = [...encoding.bytes].map((b) => hex(b, 2)).join(" ");
  const operands = row.operands.map((o) => o.kind + o.size).join(" ");
  const lines = [`${row.mnemonic} (${row.encoding}; ${operands}): ${bytes}`];
  const { input, native, ours } = state;
  const line = (name: string, read: (view: DataView) => string) => {
    const [a, b] = [read(native), read(ours)];
    if (a !== b) lines.push(`  ${name}: was ${read(input)}, processor ${a}, ours ${b}`);
  };
  const qword = (at: number) => (v: DataView) => hex(v.getBigUint64(at, true), 16);
  const dword = (at: number) => (v: DataView) => hex(v.getUint32(at, true), 8);
  const word = (at: number) => (v: DataView) => hex(v.getUint16(at, true), 4);
  const wide = (at: number) => (v: DataView) => `${qword(at + 8)(v)}_${qword(at)(v)}`;
  for (let n = 0; n < 16; n++) line(regName(n), qword(8 * n));
  line("flags", qword(Case.flags));
  line("faulted", qword(Case.signal));
  line("vector", qword(Case.trap));
  line("error", qword(Case.error));
  line("cr2", qword(Case.cr2));
  const fx = Case.fx;
  line("fcw", word(fx));
  line("fsw", word(fx + 2));
  line("ftw", word(fx + 4));
  line("fop", word(fx + 6));
  line("fip", qword(fx + 8));
  line("fdp", qword(fx + 16));
  line("mxcsr", dword(fx + 24));
  for (let n = 0; n < 8; n++) {
    line(`st${n}`, (v) => `${word(fx + 40 + 16 * n)(v)}_${qword(fx + 32 + 16 * n)(v)}`);
  }
  for (let n = 0; n < 16; n++) line(`xmm${n}`, wide(fx + 160 + 16 * n));
  for (let i = 0; i < WINDOW; i += 8) line(`memory+${i}`, qword(Case.memory + i));
  lines.push(
    `  with mxcsr ${dword(fx + 24)(input)} fcw ${word(fx)(input)} fsw ${word(fx + 2)(input)}`,
  );
  for (let n = 0; n < 2; n++) {
    lines.push(`  st${n} ${word(fx + 40 + 16 * n)(input)}_${qword(fx + 32 + 16 * n)(input)}`);
  }
  const modrm = modrmOf(encoding);
  if (row.operands.some((o) => "VWU".includes(o.kind)) && modrm !== undefined) {
    lines.push(`  reg xmm${modrm.reg} ${wide(fx + 160 + 16 * modrm.reg)(input)}`);
    if (encoding.memory === undefined) {
      lines.push(`  rm xmm${modrm.rm} ${wide(fx + 160 + 16 * modrm.rm)(input)}`);
    }
  }
  if (encoding.memory !== undefined) {
    const m = encoding.memory;
    let address = input.getBigUint64(8 * m.base, true) + BigInt(m.disp);
    if (m.index >= 0) address += input.getBigUint64(8 * m.index, true) << BigInt(m.scale);
    const offset = Number(
      BigInt.asIntN(64, address - input.getBigUint64(Case.window, true)),
    );
    const shown = offset >= 0 && offset + 16 <= WINDOW ? wide(Case.memory + offset)(input) : "?";
    lines.push(`  memory operand at ${hex(BigInt.asUintN(64, address))}: ${shown}`);
  }
  return lines.join("\n");
}

function modrmOf(encoding: Encoding): { reg: number; rm: number } | undefined {
  const { row, bytes } = encoding;
  let i = 0;
  let rex = 0;
  while ([0x66, 0xf2, 0xf3].includes(bytes[i] ?? 0)) i++;
  if (((bytes[i] ?? 0) & 0xf0) === 0x40) rex = bytes[i++] ?? 0;
  i += [1, 2, 3, 3][row.map] ?? 1;
  const modrm = bytes[i];
  if (!row.modrm || modrm === undefined) return undefined;
  return { reg: ((modrm >> 3) & 7) | ((rex & 4) << 1), rm: (modrm & 7) | ((rex & 1) << 3) };
}
