/**
 * A new process that makes a list of system calls, and nothing else.
 *
 * Between fork and execve, a process with threads may not run anything that could wait for a lock that
 * another thread held, which rules out the C library and the JavaScript runtime alike. So what the new
 * process does is laid down beforehand as rows of a table, and a few instructions of machine code carry
 * the rows out.
 *
 * @module
 */

import { HostError } from "./errno.ts";
import { type Mapping, mmap } from "./mapping.ts";
import { NativeCode, protect, Protection } from "./native_code.ts";
import { rawSyscall } from "./seccomp.ts";

/** A structure that points at other bytes. */
export interface ScriptStruct {
  readonly bytes: Uint8Array;
  /** At `at` in the bytes comes the address of `target`. */
  readonly pointers: readonly { readonly at: number; readonly target: Uint8Array }[];
}

/** A number, text (NUL-terminated in memory), bytes, an array of pointers to texts, a structure. */
export type ScriptArgument =
  | number
  | bigint
  | string
  | Uint8Array
  | readonly (string | null)[]
  | ScriptStruct;

/** One system call. */
export interface ScriptStep {
  /** What it is for, in messages. */
  readonly label: string;
  readonly syscall: number;
  readonly args: readonly ScriptArgument[];
  /**
   * Which results let the script go on: those that are no error (where absent), any, or one number.
   */
  readonly expect?: "any" | number;
}

/** How a script failed in the new process. */
export interface ScriptFailure {
  readonly step: ScriptStep;
  /** What the call returned: a negative error number, or a result that was not expected. */
  readonly result: number;
}

const ROW_BYTES = 64;
const CHECK_OFFSET = 56;
/** Values at {@link CHECK_OFFSET}: 2 more than the expected result is that result. */
const CHECK_NO_ERROR = 0n;
const CHECK_NOTHING = 1n;
const CHECK_VALUE = 2n;

const SYS_RT_SIGPROCMASK = 14;
const SYS_CLONE = 56;
const SIG_SETMASK = 2n;
/** struct of the machine code: failed row, its result, descriptor for the report. */
const STATE_BYTES = 24;
const REPORT_BYTES = 16;

/** Status of a process whose script failed. */
export const SCRIPT_FAILURE_STATUS = 127;

/** Registers of a system call from a row at RBX, and the call (System V x86-64 ABI, A.2.1). */
const CALL_ROW = [
  ...[0x48, 0x8b, 0x03], // mov rax, [rbx]
  ...[0x48, 0x8b, 0x7b, 0x08], // mov rdi, [rbx + 8]
  ...[0x48, 0x8b, 0x73, 0x10], // mov rsi, [rbx + 16]
  ...[0x48, 0x8b, 0x53, 0x18], // mov rdx, [rbx + 24]
  ...[0x4c, 0x8b, 0x53, 0x20], // mov r10, [rbx + 32]
  ...[0x4c, 0x8b, 0x43, 0x28], // mov r8, [rbx + 40]
  ...[0x4c, 0x8b, 0x4b, 0x30], // mov r9, [rbx + 48]
  ...[0x0f, 0x05], // syscall
];

/** Machine code, places in it, and short jumps to them. */
type CodePart = readonly number[] | { readonly label: string } | {
  readonly jump: number;
  readonly to: string;
};

/**
 * A function of the address of the rows and that of the state. The first row makes the process; the
 * caller's side stores its result in the state and returns, the new side works through the other rows.
 */
const CODE: readonly CodePart[] = [
  [0x53, 0x41, 0x54, 0x41, 0x54], // push rbx; push r12; push r12 (for the alignment)
  [0x48, 0x89, 0xfb], // mov rbx, rdi
  [0x49, 0x89, 0xf4], // mov r12, rsi
  CALL_ROW,
  [0x48, 0x85, 0xc0], // test rax, rax
  { jump: 0x74, to: "next row" }, // jz
  [0x49, 0x89, 0x04, 0x24], // mov [r12], rax
  [0x41, 0x5c, 0x41, 0x5c, 0x5b], // pop r12; pop r12; pop rbx
  [0xc3], // ret
  { label: "next row" },
  [0x48, 0x83, 0xc3, ROW_BYTES], // add rbx, ROW_BYTES
  CALL_ROW,
  [0x48, 0x8b, 0x4b, CHECK_OFFSET], // mov rcx, [rbx + CHECK_OFFSET]
  [0x48, 0x83, 0xf9, 0x01], // cmp rcx, 1
  { jump: 0x74, to: "next row" }, // je
  [0x48, 0x85, 0xc9], // test rcx, rcx
  { jump: 0x74, to: "no error?" }, // jz
  [0x48, 0x83, 0xe9, 0x02], // sub rcx, 2
  [0x48, 0x39, 0xc8], // cmp rax, rcx
  { jump: 0x74, to: "next row" }, // je
  { jump: 0xeb, to: "failed" }, // jmp
  { label: "no error?" },
  [0x48, 0x85, 0xc0], // test rax, rax
  { jump: 0x79, to: "next row" }, // jns
  { label: "failed" },
  [0x49, 0x89, 0x1c, 0x24], // mov [r12], rbx
  [0x49, 0x89, 0x44, 0x24, 0x08], // mov [r12 + 8], rax
  [0xb8, 1, 0, 0, 0], // mov eax, SYS_write
  [0x41, 0x8b, 0x7c, 0x24, 0x10], // mov edi, [r12 + 16]
  [0x4c, 0x89, 0xe6], // mov rsi, r12
  [0xba, REPORT_BYTES, 0, 0, 0], // mov edx, REPORT_BYTES
  [0x0f, 0x05], // syscall
  [0xb8, 231, 0, 0, 0], // mov eax, SYS_exit_group
  [0xbf, SCRIPT_FAILURE_STATUS, 0, 0, 0], // mov edi, SCRIPT_FAILURE_STATUS
  [0x0f, 0x05], // syscall
  [0x0f, 0x0b], // ud2
];

function assemble(parts: readonly CodePart[]): number[] {
  const bytes: number[] = [];
  const labels = new Map<string, number>();
  const jumps: { readonly at: number; readonly to: string }[] = [];
  for (const part of parts) {
    if ("label" in part) {
      labels.set(part.label, bytes.length);
    } else if ("jump" in part) {
      bytes.push(part.jump, 0);
      jumps.push({ at: bytes.length, to: part.to });
    } else {
      bytes.push(...part);
    }
  }
  for (const { at, to } of jumps) bytes[at - 1] = (labels.get(to)! - at) & 0xff;
  return bytes;
}

let code: NativeCode | undefined;

function loadCode(): NativeCode {
  if (code !== undefined) return code;
  const loaded = new NativeCode(4096);
  loaded.bytes.set(assemble(CODE));
  protect(loaded.address, 4096, Protection.Read | Protection.Execute);
  return code = loaded;
}

/** Lays out bytes in one mapping, whose addresses stay. */
class Arena {
  readonly #parts: { readonly at: number; readonly bytes: Uint8Array }[] = [];
  readonly #pointers: { readonly at: number; readonly target: number }[] = [];
  #length = 0;

  add(bytes: Uint8Array): number {
    const at = this.#length;
    this.#parts.push({ at, bytes });
    this.#length = (at + bytes.length + 15) & ~15;
    return at;
  }

  /** At `at` stands the address of what was added at `target`. */
  point(at: number, target: number): void {
    this.#pointers.push({ at, target });
  }

  finish(): Mapping {
    const mapping = mmap(Math.max(4096, (this.#length + 4095) & ~4095));
    for (const { at, bytes } of this.#parts) mapping.bytes.set(bytes, at);
    for (const { at, target } of this.#pointers) {
      mapping.view.setBigUint64(at, mapping.address + BigInt(target), true);
    }
    return mapping;
  }
}

const encoder = new TextEncoder();

function addArgument(arena: Arena, at: number, argument: ScriptArgument): void {
  if (typeof argument === "string") {
    arena.point(at, arena.add(encoder.encode(`${argument}\0`)));
  } else if (argument instanceof Uint8Array) {
    arena.point(at, arena.add(argument));
  } else if (typeof argument === "object" && "pointers" in argument) {
    const struct = arena.add(argument.bytes);
    for (const pointer of argument.pointers) {
      arena.point(struct + pointer.at, arena.add(pointer.target));
    }
    arena.point(at, struct);
  } else if (typeof argument === "object") {
    const array = arena.add(new Uint8Array(argument.length * 8));
    argument.forEach((text, index) => {
      if (text !== null) {
        arena.point(array + index * 8, arena.add(encoder.encode(`${text}\0`)));
      }
    });
    arena.point(at, array);
  }
}

function checkOf({ expect }: ScriptStep): bigint {
  if (expect === undefined) return CHECK_NO_ERROR;
  return expect === "any" ? CHECK_NOTHING : CHECK_VALUE + BigInt(expect);
}

function rowsOf(steps: readonly ScriptStep[]): Uint8Array {
  const rows = new Uint8Array(steps.length * ROW_BYTES);
  const view = new DataView(rows.buffer);
  steps.forEach((step, index) => {
    const at = index * ROW_BYTES;
    view.setBigUint64(at, BigInt(step.syscall), true);
    step.args.forEach((argument, position) => {
      if (typeof argument !== "number" && typeof argument !== "bigint") return;
      view.setBigUint64(at + 8 + position * 8, BigInt.asUintN(64, BigInt(argument)), true);
    });
    view.setBigUint64(at + CHECK_OFFSET, checkOf(step), true);
  });
  return rows;
}

/** A process that works through its script. */
export interface ScriptProcess {
  readonly pid: number;
  /** Makes sense of what came through the report's descriptor; undefined for nothing. */
  failureOf(report: Uint8Array): ScriptFailure | undefined;
}

/**
 * Makes a process that carries out `steps`, the last of which is an execve(2) or exit(2). It begins
 * with all signals blocked.
 *
 * @param options `flags`: for clone(2), with the signal for its end; not CLONE_VM. `pidfd`: 4 bytes for
 * CLONE_PIDFD. `reportFd`: the new process's descriptor that it writes to when a step fails; it has
 * then ended with {@link SCRIPT_FAILURE_STATUS}.
 * @throws {HostError} where no process can be made.
 */
export function startScript(
  steps: readonly ScriptStep[],
  options: { flags: number; pidfd?: Int32Array<ArrayBuffer>; reportFd: number },
): ScriptProcess {
  const arena = new Arena();
  const pidfdAt = arena.add(new Uint8Array(8));
  const clone: ScriptStep = { label: "clone", syscall: SYS_CLONE, args: [options.flags] };
  const all = [clone, ...steps];
  const rowsAt = arena.add(rowsOf(all));
  // The third argument of clone is where the pidfd goes.
  arena.point(rowsAt + 24, pidfdAt);
  all.forEach(({ args }, index) =>
    args.forEach((argument, position) =>
      addArgument(arena, rowsAt + index * ROW_BYTES + 8 + position * 8, argument)
    )
  );
  const stateAt = arena.add(new Uint8Array(STATE_BYTES));
  using memory = arena.finish();
  const rowsAddress = memory.address + BigInt(rowsAt);
  memory.view.setInt32(stateAt + REPORT_BYTES, options.reportFd, true);
  const run = loadCode().entry(0);
  withBlockedSignals(() => run(rowsAddress, memory.address + BigInt(stateAt)));
  const pid = Number(memory.view.getBigInt64(stateAt, true));
  if (pid < 0) throw new HostError("clone", -pid);
  if (options.pidfd !== undefined) options.pidfd[0] = memory.view.getInt32(pidfdAt, true);
  return {
    pid,
    failureOf(report) {
      if (report.length < REPORT_BYTES) return undefined;
      const view = new DataView(report.buffer, report.byteOffset, report.byteLength);
      const index = Number(view.getBigUint64(0, true) - rowsAddress) / ROW_BYTES - 1;
      const step = steps[index];
      return step === undefined ? undefined : { step, result: Number(view.getBigInt64(8, true)) };
    },
  };
}

/** A handler must not run in the new process, so it begins with all signals blocked. */
function withBlockedSignals(action: () => void): void {
  using masks = mmap(4096);
  masks.view.setBigUint64(0, 0xffff_ffff_ffff_ffffn, true);
  const setMask = (mask: bigint, old: bigint) =>
    rawSyscall(SYS_RT_SIGPROCMASK, [SIG_SETMASK, mask, old, 8n]);
  setMask(masks.address, masks.address + 8n);
  try {
    action();
  } finally {
    setMask(masks.address + 8n, 0n);
  }
}

/** The failure in words, such as `mount of /proc: operation not permitted (EPERM)`. */
export function describeScriptFailure({ step, result }: ScriptFailure): string {
  if (result < 0) return new HostError(step.label, -result).message;
  return `${step.label}: expected the result ${step.expect}, got ${result}`;
}
