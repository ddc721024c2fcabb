/**
 * Lockstep, for tests: a region runs, what it changed is taken back, the interpreter executes as many
 * instructions from the same state, and everything that a guest can see is compared: registers, flags,
 * segments, SIMD and x87 state, faults, memory writes and accesses to devices in order.
 *
 * @module
 */

import type { HostContext } from "../host_context.ts";
import { Access, Check, Exit, Reg, S, TLB_CHECKED } from "../state.ts";

/** A difference between a region and the interpreter; its message holds all that is known. */
export class LockstepError extends Error {
  override readonly name = "LockstepError";
}

/** What lockstep asks of the processor. */
export interface LockstepHost {
  /** Enters the region behind `record`; returns an Exit. */
  runRecord(record: number): number;
  /** Interprets the instruction at `S.rip`; returns an Exit. */
  step(): number;
  /** RAM offset of physical address, or -1. */
  ramOffset(physical: number): number;
  /** 16 bytes of code at `S.rip` (zeros where they cannot be read). */
  codeAt(rip: bigint): Uint8Array;
  /** Sets `S.rip` to the address of the instruction that faulted. */
  faultRip(): bigint;
}

interface Write {
  readonly linear: bigint;
  readonly size: number;
  /** RAM offset of each byte. */
  readonly at: number[];
  readonly old: number[];
  value: number[] | undefined;
}

/** An instruction that was interpreted, and up to 15 bytes from its address on. */
interface Executed {
  readonly rip: bigint;
  readonly bytes: Uint8Array;
}

interface DeviceAccess {
  readonly physical: number;
  readonly size: number;
  readonly store: boolean;
  readonly data: bigint;
}

/** Parts of the state that must agree, as [name, offset, bytes]. */
const COMPARED: readonly (readonly [string, number, number])[] = [
  ..."rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split(" ").map(
    (name, n) => [name, S.regs + 8 * n, 8] as const,
  ),
  ["rip", S.rip, 8],
  ["flags", S.flagOther, 4],
  ["cpl", S.cpl, 4],
  ["segments", S.segs, 0x100],
  ["cr2", S.cr2, 8],
  ["mxcsr", S.mxcsr, 4],
  ["x87 control", S.fpuCw, 4],
  ["x87 status", S.fpuSw, 4],
  ["x87 tags", S.fpuEmpty, 4],
  ["x87 registers", S.fpu, 0x80],
  ...Array.from({ length: 16 }, (_, n) => [`xmm${n}`, S.xmm + 16 * n, 16] as const),
];

const FAULT: readonly (readonly [string, number, number])[] = [
  ["fault vector", S.faultVector, 4],
  ["fault error", S.faultError, 4],
  ["fault has error", S.faultHasError, 4],
];

/** Each region is compared that often at first, and then every so many times. */
const OFTEN = 16;
const SELDOM = 61;

/** Runs regions and the interpreter side by side. */
export class Lockstep {
  readonly #cpu: HostContext;
  readonly #ram: Uint8Array;
  readonly #host: LockstepHost;
  #phase: "off" | "region" | "interpreter" = "off";
  #writes: Write[] = [];
  #devices: DeviceAccess[] = [];
  #replayed = 0;
  #problem: string | undefined;
  /** How often regions ran, by their module. */
  readonly #runs = new WeakMap<Uint8Array, number>();
  /** Regions and instructions compared. */
  readonly stats = { regions: 0, instructions: 0, faults: 0 };

  constructor(cpu: HostContext, ram: Uint8Array, host: LockstepHost) {
    this.#cpu = cpu;
    this.#ram = ram;
    this.#host = host;
  }

  /** True while accesses must come to {@link access} and {@link device}. */
  get active(): boolean {
    return this.#phase !== "off";
  }

  /** Notes an access before it is done. */
  access(linear: bigint, how: { size: number; write: boolean }): void {
    if (!how.write) return;
    this.#settle();
    const cpu = this.#cpu;
    const user = cpu.get32(S.cpl) === 3 ? Access.user : 0;
    const write: Write = { linear, size: how.size, at: [], old: [], value: undefined };
    for (let i = 0; i < how.size; i++) {
      const byte = (linear + BigInt(i)) & cpu.get64(S.linearMask);
      const access = Access.write | Access.probe | Access.smapOff | user;
      const physical = cpu.exports.tryWalk(byte, access);
      const at = physical < 0n ? -1 : this.#host.ramOffset(Number(physical));
      write.at.push(at);
      write.old.push(at < 0 ? 0 : this.#ram[at] as number);
    }
    this.#writes.push(write);
  }

  /** A device access; true where it must not be done again, since its data is there already. */
  device(physical: number, how: { size: number; store: boolean }): boolean {
    if (this.#phase !== "interpreter") return false;
    const cpu = this.#cpu;
    const known = this.#devices[this.#replayed++];
    if (
      known === undefined || known.physical !== physical || known.size !== how.size ||
      known.store !== how.store ||
      (how.store && known.data !== cut(cpu.get64(S.mmioData), how.size))
    ) {
      this.#problem ??= `device access ${this.#replayed} differs: 0x${physical.toString(16)}`;
      return true;
    }
    if (!how.store) cpu.set64(S.mmioData, known.data);
    return true;
  }

  /** Notes a device access that was done. */
  deviceDone(physical: number, how: { size: number; store: boolean }): void {
    if (this.#phase !== "region") return;
    const data = cut(this.#cpu.get64(S.mmioData), how.size);
    this.#devices.push({ physical, ...how, data });
  }

  /** Takes the value that the last write wrote. */
  #settle(): void {
    const last = this.#writes.at(-1);
    if (last !== undefined && last.value === undefined) last.value = this.#bytes(last);
  }

  #bytes(write: Write): number[] {
    return write.at.map((at) => at < 0 ? 0 : this.#ram[at] as number);
  }

  /**
   * Compares the region behind `record` with the interpreter; goes on with the interpreter's state.
   *
   * @param fuel Branches that the region may take back.
   * @param always Also where the region was compared often.
   * @throws {LockstepError} where they differ.
   */
  run(
    record: number,
    options: { fuel: number; module: Uint8Array; always: boolean },
  ): number {
    const cpu = this.#cpu;
    if (!options.always) {
      const runs = (this.#runs.get(options.module) ?? 0) + 1;
      this.#runs.set(options.module, runs);
      if (runs > OFTEN && runs % SELDOM !== 0) {
        cpu.set32(S.fuel, options.fuel);
        return this.#host.runRecord(record);
      }
    }
    const before = cpu.u8.slice(0, S.end);
    const flagsBefore = cpu.getRflags();
    const checks = cpu.get32(S.checks);
    const tlb = cpu.get32(S.tlbBase);
    const watch = () => {
      cpu.set32(S.checks, checks | Check.log);
      cpu.set32(S.tlbBase, TLB_CHECKED);
    };
    this.#problem = undefined;
    this.#devices = [];
    // The region.
    this.#begin("region");
    watch();
    cpu.set64(S.regionCount, 0n);
    cpu.set32(S.fuel, options.fuel);
    const exit = this.#host.runRecord(record);
    this.#settle();
    const count = Number(cpu.get64(S.regionCount));
    if (exit === Exit.Fault) cpu.set64(S.rip, this.#host.faultRip());
    const after = cpu.u8.slice(0, S.end);
    const flags = cpu.getRflags();
    const writes = this.#writes;
    for (const write of [...writes].reverse()) {
      write.at.forEach((at, i) => {
        if (at >= 0) this.#ram[at] = write.old[i] as number;
      });
    }
    // Back to the beginning; only the mailbox belongs to others too.
    cpu.u8.set(before.subarray(0, S.mailbox));
    cpu.u8.set(before.subarray(S.mailbox + 4), S.mailbox + 4);
    // The interpreter.
    this.#begin("interpreter");
    const code: Executed[] = [];
    let last: number = Exit.Resume;
    for (let n = 0; n < count && last !== Exit.Fault; n++) {
      watch();
      const rip = cpu.get64(S.rip);
      code.push({ rip, bytes: this.#host.codeAt(rip) });
      last = this.#host.step();
    }
    this.#settle();
    if (last === Exit.Fault) cpu.set64(S.rip, this.#host.faultRip());
    this.#phase = "off";
    cpu.set32(S.checks, checks);
    cpu.set32(S.tlbBase, tlb);
    this.stats.regions++;
    this.stats.instructions += count;
    if (last === Exit.Fault) this.stats.faults++;
    const differences = this.#compare({
      exit,
      last,
      after,
      flags,
      writes,
      count,
      done: code.length,
    });
    if (differences.length > 0) {
      const state = (bytes: Uint8Array, f: bigint) => `${registers(bytes)}\nrflags=${hex(f)}`;
      throw new LockstepError(
        [
          `region at ${hex(code[0]?.rip ?? 0n)}, ${count} instructions: ` +
          "region and interpreter differ:",
          ...differences,
          `before: ${state(before, flagsBefore)}`,
          `region: ${state(after, flags)}`,
          `interpreter: ${state(cpu.u8, cpu.getRflags())}`,
          "instructions, in the order of their first execution:",
          ...listing(code),
          "module in base64:",
          ...(options.module.toBase64().match(/.{1,100}/g) ?? []),
        ].join("\n"),
      );
    }
    return last === Exit.Fault ? Exit.Fault : Exit.Resume;
  }

  #begin(phase: "region" | "interpreter"): void {
    this.#phase = phase;
    this.#writes = [];
    this.#replayed = 0;
  }

  #compare(region: {
    exit: number;
    last: number;
    after: Uint8Array;
    flags: bigint;
    writes: readonly Write[];
    count: number;
    done: number;
  }): string[] {
    const cpu = this.#cpu;
    const differences: string[] = [];
    if (this.#problem !== undefined) differences.push(this.#problem);
    if (this.#replayed !== this.#devices.length) differences.push("number of device accesses");
    if (region.done !== region.count) {
      differences.push(`the interpreter faulted after ${region.done} instructions`);
    }
    const faults = region.last === Exit.Fault;
    if ((region.exit === Exit.Fault) !== faults) {
      differences.push(`fault: region ${region.exit === Exit.Fault}, interpreter ${faults}`);
    }
    for (const [name, at, size] of faults ? [...COMPARED, ...FAULT] : COMPARED) {
      for (let i = 0; i < size; i++) {
        if (region.after[at + i] === cpu.u8[at + i]) continue;
        const text = (bytes: Uint8Array) =>
          [...bytes.subarray(at, at + size)].reverse().map((b) => b.toString(16).padStart(2, "0"))
            .join("");
        differences.push(`${name}: region ${text(region.after)}, interpreter ${text(cpu.u8)}`);
        break;
      }
    }
    if (region.flags !== cpu.getRflags()) {
      differences.push(`rflags: region ${hex(region.flags)}, interpreter ${hex(cpu.getRflags())}`);
    }
    const text = (w: Write | undefined) =>
      w === undefined ? "none" : `${hex(w.linear)} ${w.size}: ${w.value?.join(" ") ?? ""}`;
    for (let i = 0; i < Math.max(region.writes.length, this.#writes.length); i++) {
      const [a, b] = [text(region.writes[i]), text(this.#writes[i])];
      if (a === b) continue;
      differences.push(`write ${i}: region ${a}, interpreter ${b}`);
      break;
    }
    return differences;
  }
}

/** Each instruction of `code` once: its address, how often it was executed, its bytes. */
function listing(code: readonly Executed[]): string[] {
  const times = new Map<bigint, { bytes: Uint8Array; count: number }>();
  for (const [i, { rip, bytes }] of code.entries()) {
    const known = times.get(rip);
    if (known !== undefined) {
      known.count++;
      continue;
    }
    // Where the next one follows, its length is known.
    const length = Number((code[i + 1]?.rip ?? 0n) - rip);
    const end = length > 0 && length < bytes.length ? length : bytes.length;
    times.set(rip, { bytes: bytes.subarray(0, end), count: 1 });
  }
  return [...times].map(([rip, { bytes, count }]) => `${hex(rip)} ${count} ${bytes.toHex()}`);
}

function hex(n: bigint): string {
  return `0x${BigInt.asUintN(64, n).toString(16)}`;
}

function cut(value: bigint, size: number): bigint {
  return BigInt.asUintN(8 * size, value);
}

function registers(bytes: Uint8Array): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, S.end);
  return COMPARED.slice(Reg.rax, 17).map(([name, at]) =>
    `${name}=${hex(view.getBigUint64(at, true))}`
  ).join(" ");
}
