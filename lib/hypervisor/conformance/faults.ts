/**
 * A handler for all exceptions that notes what came and goes on where the test wants.
 *
 * @module
 */

import assert from "node:assert/strict";
import { type Assembler, at } from "./asm/mod.ts";
import { FAULT, FaultRecord, Port } from "./layout.ts";
import type { TestMachine } from "./machine.ts";
import { type Gate, writeGate32, writeGate64 } from "./tables.ts";

/** Vectors of exceptions (Intel SDM vol. 3, table 6-1). */
export const Vector = {
  DE: 0,
  DB: 1,
  NMI: 2,
  BP: 3,
  OF: 4,
  BR: 5,
  UD: 6,
  NM: 7,
  DF: 8,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
  MF: 16,
  AC: 17,
  XM: 19,
} as const;

/** Error code of a page fault. */
export const PageFault = { Present: 1, Write: 2, User: 4, Reserved: 8, Fetch: 16 } as const;

const WITH_ERROR_CODE: readonly number[] = [8, 10, 11, 12, 13, 14, 17, 21];
const EXCEPTIONS = 32;
const HANDLER = 0xf000;
/** What the processor and a stub push, from the top of the stack. */
const FRAME = [
  FaultRecord.Vector,
  FaultRecord.ErrorCode,
  FaultRecord.Rip,
  FaultRecord.Cs,
  FaultRecord.Rflags,
  FaultRecord.Rsp,
  FaultRecord.Ss,
] as const;

/** Installs the handler for 64-bit code and gates for vectors 0 to 31. */
export function installFaultHandler64(machine: TestMachine, gate: Omit<Gate, "offset"> = {}): void {
  const code = machine.load(64, (a) => {
    stubs(a);
    a.push("rax");
    FRAME.forEach((field, index) => {
      a.mov("rax", at("rsp", { disp: 8 + index * 8 })).mov(at(FAULT + field), "rax");
    });
    a.mov("rax", "cr2").mov(at(FAULT + FaultRecord.Cr2), "rax");
    a.add(at(FAULT + FaultRecord.Count, { size: 8 }), 1);
    a.mov("rax", at(FAULT + FaultRecord.Resume)).test("rax", "rax").jcc("e", "end");
    a.mov(at("rsp", { disp: 24 }), "rax").pop("rax").add("rsp", 16).iret();
    a.label("end").out(Port.Done, "al").label("stop").op("hlt").jmp("stop");
  }, HANDLER);
  for (let vector = 0; vector < EXCEPTIONS; vector++) {
    writeGate64(machine.memory, vector, { ...gate, offset: code.addressOf(`stub${vector}`) });
  }
}

/** Installs the handler for 32-bit code and gates for vectors 0 to 31. */
export function installFaultHandler32(machine: TestMachine): void {
  const code = machine.load(32, (a) => {
    stubs(a);
    a.push("eax");
    FRAME.forEach((field, index) => {
      a.mov("eax", at("esp", { disp: 4 + index * 4 })).mov(at(FAULT + field), "eax");
    });
    a.mov("eax", "cr2").mov(at(FAULT + FaultRecord.Cr2), "eax");
    a.add(at(FAULT + FaultRecord.Count, { size: 4 }), 1);
    a.mov("eax", at(FAULT + FaultRecord.Resume)).test("eax", "eax").jcc("e", "end");
    a.mov(at("esp", { disp: 12 }), "eax").pop("eax").add("esp", 8).iret();
    a.label("end").out(Port.Done, "al").label("stop").op("hlt").jmp("stop");
  }, HANDLER);
  for (let vector = 0; vector < EXCEPTIONS; vector++) {
    writeGate32(machine.memory, vector, { offset: code.addressOf(`stub${vector}`) });
  }
}

/** Makes the handler return to `address`. */
export function resumeAt(machine: TestMachine, address: number): void {
  machine.memory.writeU64(FAULT + FaultRecord.Resume, BigInt(address));
}

/** Forgets earlier faults. */
export function clearFault(machine: TestMachine): void {
  machine.memory.fill(FAULT, FaultRecord.Resume);
}

/** What the last fault has to have been. */
export interface ExpectedFault {
  readonly vector: number;
  readonly errorCode?: number;
  readonly rip?: number | bigint;
  readonly cr2?: number | bigint;
  readonly cs?: number;
  readonly count?: number;
}

/** Compares the last fault. */
export function assertFault(machine: TestMachine, expected: ExpectedFault): void {
  const actual: Record<string, bigint> = {};
  const wanted: Record<string, bigint> = {};
  const compare = (name: string, value: bigint, want: number | bigint | undefined) => {
    if (want === undefined) return;
    actual[name] = value;
    wanted[name] = BigInt(want);
  };
  compare("count", machine.fault("Count"), expected.count ?? 1);
  compare("vector", machine.fault("Vector"), expected.vector);
  compare("errorCode", machine.fault("ErrorCode"), expected.errorCode ?? 0);
  compare("rip", machine.fault("Rip"), expected.rip);
  compare("cr2", machine.fault("Cr2"), expected.cr2);
  compare("cs", machine.fault("Cs") & 0xffffn, expected.cs);
  const show = (fields: Record<string, bigint>) =>
    Object.entries(fields).map(([name, value]) => `${name}=0x${value.toString(16)}`).join(" ");
  assert.equal(show(actual), show(wanted));
}

function stubs(a: Assembler): void {
  for (let vector = 0; vector < EXCEPTIONS; vector++) {
    a.label(`stub${vector}`);
    if (!WITH_ERROR_CODE.includes(vector)) a.push(0);
    a.push(vector).jmp("common");
  }
  a.label("common");
}
