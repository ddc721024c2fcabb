/**
 * The processor as an oracle: runs single instructions natively from a given state and says what state
 * they leave, or how they fault. A piece of machine code loads the state of a case (general registers,
 * flags, x87, MMX and SSE state, a window of memory), jumps to the instruction, and saves everything. A
 * signal handler in the same piece, installed only during a batch, turns faults into results.
 *
 * @module
 */

import { type Mapping, mmap, NativeCode, protect, Protection } from "../../../host/mod.ts";

/** Offsets in a case. Cases lie one behind the other in the memory of a {@link NativeRunner}. */
export const Case = {
  /** 16 general registers in encoding order. */
  regs: 0x000,
  /** i64: RFLAGS. */
  flags: 0x080,
  /** i64: address of the code (a slot of {@link NativeRunner.slot}). */
  code: 0x088,
  /** i64: address of the window of memory that is set from `memory` and saved to it. */
  window: 0x090,
  /** i64, result: signal number, or 0. */
  signal: 0x098,
  /** i64, result: exception vector. */
  trap: 0x0a0,
  /** i64, result: its error code. */
  error: 0x0a8,
  /** i64, result: address of the page fault. */
  cr2: 0x0b0,
  /** i64, result: RIP of the fault. */
  rip: 0x0b8,
  /** 512 bytes of an FXSAVE image. */
  fx: 0x0c0,
  /** The window's bytes. */
  memory: 0x2c0,
  size: 0x500,
} as const;

/** Bytes of the window of memory. */
export const WINDOW = Case.size - Case.memory;
/** Bytes of a code slot; an instruction takes up to 15. */
const SLOT = 48;
const PAGE = 4096;

const CODE = 0;
const DATA = 0x1000;
const STACK = 0x2000;
const STACK_SIZE = 0x20000;
const SLOTS = STACK + STACK_SIZE;
const SLOT_COUNT = 2048;

/** Offsets in the data page. */
const Data = {
  savedRsp: 0,
  current: 8,
  left: 16,
  target: 24,
  rbx: 32,
  rsp: 40,
  newStack: 64,
  oldStack: 96,
  newAction: 128,
  /** One of 32 bytes for each signal. */
  oldActions: 192,
  hostFx: 512,
} as const;

const SIGNALS = [4, 5, 7, 8, 11];

enum R {
  rax,
  rcx,
  rdx,
  rbx,
  rsp,
  rbp,
  rsi,
  rdi,
  r8,
}

/** Just enough of an assembler for the code below. */
class Assembler {
  readonly bytes: number[] = [];

  raw(...bytes: number[]): void {
    this.bytes.push(...bytes);
  }
  i32(value: number): void {
    this.raw(value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff, (value >> 24) & 0xff);
  }
  /** `opcode reg, [base + disp]` with REX.W; a base of RSP or R12 is not possible. */
  mem(opcode: readonly number[], reg: number, at: { base: number; disp: number }): void {
    this.raw(0x48 | ((reg & 8) >> 1) | (at.base >> 3), ...opcode);
    this.raw(0x80 | ((reg & 7) << 3) | (at.base & 7));
    this.i32(at.disp);
  }
  /** `opcode reg, [data + offset]`. */
  data(opcode: readonly number[], reg: number, offset: number): void {
    this.raw(0x48 | ((reg & 8) >> 1), ...opcode, 0x05 | ((reg & 7) << 3));
    this.i32(DATA + offset - (CODE + this.bytes.length + 4));
  }
  load(reg: number, base: number, disp: number): void {
    this.mem([0x8b], reg, { base, disp });
  }
  store(base: number, disp: number, reg: number): void {
    this.mem([0x89], reg, { base, disp });
  }
  lea(reg: number, base: number, disp: number): void {
    this.mem([0x8d], reg, { base, disp });
  }
  /** `mov r32, imm32`. */
  set(reg: number, value: number): void {
    if (reg >= 8) this.raw(0x41);
    this.raw(0xb8 | (reg & 7));
    this.i32(value);
  }
  /** `jmp` (0xe9) or `call` back to a known place. */
  jump(place: number): void {
    this.raw(0xe9);
    this.i32(place - (this.bytes.length + 4));
  }
  /** `lea reg, [rip + place]`. */
  address(reg: number, place: number): void {
    this.raw(0x48 | ((reg & 8) >> 1), 0x8d, 0x05 | ((reg & 7) << 3));
    this.i32(place - (this.bytes.length + 4));
  }
  syscall(number: number): void {
    this.set(R.rax, number);
    this.raw(0x0f, 0x05);
  }
}

const LOAD = [0x8b];
const STORE = [0x89];
const LEA = [0x8d];

interface Places {
  run: number;
  exit: number;
  handler: number;
  restorer: number;
}

function assemble(): { bytes: Uint8Array; places: Places } {
  const a = new Assembler();
  const here = () => a.bytes.length;

  // After the instruction: everything is saved, first without a stack.
  const exit = here();
  a.data(STORE, R.rbx, Data.rbx);
  a.data(STORE, R.rsp, Data.rsp);
  a.data(LOAD, R.rsp, Data.savedRsp);
  a.data(LOAD, R.rbx, Data.current);
  for (let reg = 0; reg < 16; reg++) {
    if (reg !== R.rbx && reg !== R.rsp) a.store(R.rbx, Case.regs + 8 * reg, reg);
  }
  a.raw(0x9c); // pushfq
  a.raw(0x8f, 0x83); // pop [rbx + flags]
  a.i32(Case.flags);
  a.data(LOAD, R.rax, Data.rbx);
  a.store(R.rbx, Case.regs + 8 * R.rbx, R.rax);
  a.data(LOAD, R.rax, Data.rsp);
  a.store(R.rbx, Case.regs + 8 * R.rsp, R.rax);
  const saved = here();
  a.raw(0xfc); // cld
  a.mem([0x0f, 0xae], 0, { base: R.rbx, disp: Case.fx }); // fxsave64
  a.raw(0xdb, 0xe3); // fninit
  a.load(R.rsi, R.rbx, Case.window);
  a.lea(R.rdi, R.rbx, Case.memory);
  a.set(R.rcx, WINDOW / 8);
  a.raw(0xf3, 0x48, 0xa5); // rep movsq
  a.data(LEA, R.rax, Data.current);
  a.raw(0x48, 0x81, 0x00); // add qword [rax], size
  a.i32(Case.size);
  a.data(LEA, R.rax, Data.left);
  a.raw(0x48, 0xff, 0x08); // dec qword [rax]
  a.raw(0x0f, 0x84); // jz done
  const toDone = here();
  a.i32(0);

  // Before the instruction.
  const loop = here();
  a.data(LOAD, R.rbx, Data.current);
  a.lea(R.rsi, R.rbx, Case.memory);
  a.load(R.rdi, R.rbx, Case.window);
  a.set(R.rcx, WINDOW / 8);
  a.raw(0xfc, 0xf3, 0x48, 0xa5); // cld; rep movsq
  a.raw(0x31, 0xc0); // xor eax, eax
  a.store(R.rbx, Case.signal, R.rax);
  a.mem([0x0f, 0xae], 1, { base: R.rbx, disp: Case.fx }); // fxrstor64
  a.load(R.rax, R.rbx, Case.code);
  a.data(STORE, R.rax, Data.target);
  a.raw(0xff, 0xb3); // push [rbx + flags]
  a.i32(Case.flags);
  a.raw(0x9d); // popfq
  for (let reg = 0; reg < 16; reg++) {
    if (reg !== R.rbx) a.load(reg, R.rbx, Case.regs + 8 * reg);
  }
  a.load(R.rbx, R.rbx, Case.regs + 8 * R.rbx);
  a.raw(0xff, 0x25); // jmp [rip + target]
  a.i32(DATA + Data.target - (here() + 4));

  // The whole batch is done: signals, stack and floating point state as before.
  const done = here();
  const patch = done - (toDone + 4);
  for (let i = 0; i < 4; i++) a.bytes[toDone + i] = (patch >> (8 * i)) & 0xff;
  SIGNALS.forEach((signal, i) => {
    a.set(R.rdi, signal);
    a.data(LEA, R.rsi, Data.oldActions + 32 * i);
    a.set(R.rdx, 0);
    a.set(R.r8 + 2, 8);
    a.syscall(13);
  });
  a.data(LEA, R.rdi, Data.oldStack);
  a.set(R.rsi, 0);
  a.syscall(131);
  a.raw(0x48, 0x0f, 0xae, 0x0d); // fxrstor64 [rip + hostFx]
  a.i32(DATA + Data.hostFx - (here() + 4));
  a.raw(0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3);

  // run(rdi: first case, rsi: count)
  const run = here();
  a.raw(0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57); // push rbx rbp r12 to r15
  a.data(STORE, R.rsp, Data.savedRsp);
  a.data(STORE, R.rdi, Data.current);
  a.data(STORE, R.rsi, Data.left);
  a.raw(0x48, 0x0f, 0xae, 0x05); // fxsave64 [rip + hostFx]
  a.i32(DATA + Data.hostFx - (here() + 4));
  a.data(LEA, R.rdi, Data.newStack);
  a.data(LEA, R.rsi, Data.oldStack);
  a.syscall(131); // sigaltstack
  SIGNALS.forEach((signal, i) => {
    a.set(R.rdi, signal);
    a.data(LEA, R.rsi, Data.newAction);
    a.data(LEA, R.rdx, Data.oldActions + 32 * i);
    a.set(R.r8 + 2, 8);
    a.syscall(13); // rt_sigaction
  });
  a.jump(loop);

  // handler(rdi: signal, rsi: siginfo, rdx: ucontext). Its general registers begin at 40: r8 to r15,
  // rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags, segments, err, trapno, oldmask, cr2.
  const handler = here();
  a.raw(0xfc); // cld
  a.data(LOAD, R.rbx, Data.current);
  a.store(R.rbx, Case.signal, R.rdi);
  const order = [8, 9, 10, 11, 12, 13, 14, 15, 7, 6, 5, 3, 2, 0, 1, 4];
  const copy = (index: number, to: number) => {
    a.load(R.rax, R.rdx, 40 + 8 * index);
    a.store(R.rbx, to, R.rax);
  };
  order.forEach((reg, index) => copy(index, Case.regs + 8 * reg));
  copy(16, Case.rip);
  copy(17, Case.flags);
  copy(19, Case.error);
  copy(20, Case.trap);
  copy(22, Case.cr2);
  a.raw(0x48, 0x8d, 0x05); // lea rax, [rip + faultExit]
  const toFaultExit = here();
  a.i32(0);
  a.store(R.rdx, 40 + 8 * 16, R.rax);
  a.data(LOAD, R.rax, Data.savedRsp);
  a.store(R.rdx, 40 + 8 * 15, R.rax);
  a.raw(0xc3);
  const restorer = here();
  a.syscall(15); // rt_sigreturn
  const faultExit = here();
  const distance = faultExit - (toFaultExit + 4);
  for (let i = 0; i < 4; i++) a.bytes[toFaultExit + i] = (distance >> (8 * i)) & 0xff;
  a.data(LOAD, R.rbx, Data.current);
  a.jump(saved);
  if (here() > DATA) throw new Error("the runner's code does not fit its page");
  return { bytes: Uint8Array.from(a.bytes), places: { run, exit, handler, restorer } };
}

const SA_SIGINFO = 4n;
const SA_ONSTACK = 0x0800_0000n;
const SA_RESTORER = 0x0400_0000n;
const SA_NODEFER = 0x4000_0000n;

/** Runs cases on the processor. One of them at a time in a process: it owns signals while it runs. */
export class NativeRunner implements Disposable {
  readonly #code: NativeCode;
  readonly #cases: Mapping;
  readonly #data: Mapping;
  readonly #run: (first: bigint, second: bigint) => void;
  readonly #exit: bigint;
  #keepsPointers: boolean | undefined;
  /** The cases; fill in, {@link run}, read out. */
  readonly cases: Uint8Array<ArrayBuffer>;
  /** The cases. */
  readonly view: DataView<ArrayBuffer>;
  /** First byte of the two pages that can be read and written; the pages around cannot be touched. */
  readonly pages: bigint;
  /** The two pages. */
  readonly pageBytes: Uint8Array<ArrayBuffer>;

  /** @param capacity Most cases of a batch. */
  constructor(readonly capacity: number) {
    this.#code = new NativeCode(SLOTS + PAGE * Math.ceil((SLOT * SLOT_COUNT) / PAGE));
    this.#cases = mmap(Math.ceil((capacity * Case.size) / PAGE) * PAGE);
    this.cases = this.#cases.bytes;
    this.view = this.#cases.view;
    this.#data = mmap(4 * PAGE);
    protect(this.#data.address, PAGE, Protection.None);
    protect(this.#data.address + BigInt(3 * PAGE), PAGE, Protection.None);
    this.pages = this.#data.address + BigInt(PAGE);
    this.pageBytes = this.#data.bytes.subarray(PAGE, 3 * PAGE);

    const { bytes, places } = assemble();
    this.#code.bytes.set(bytes, CODE);
    const base = this.#code.address;
    const view = this.#code.view;
    view.setBigUint64(DATA + Data.newStack, base + BigInt(STACK), true);
    view.setBigUint64(DATA + Data.newStack + 16, BigInt(STACK_SIZE), true);
    view.setBigUint64(DATA + Data.newAction, base + BigInt(places.handler), true);
    const flags = SA_SIGINFO | SA_ONSTACK | SA_RESTORER | SA_NODEFER;
    view.setBigUint64(DATA + Data.newAction + 8, flags, true);
    view.setBigUint64(DATA + Data.newAction + 16, base + BigInt(places.restorer), true);
    this.#exit = base + BigInt(places.exit);
    this.#run = this.#code.entry(places.run);
  }

  /**
   * Whether FXSAVE and FXRSTOR keep FOP, FIP and FDP always. AMD's processors do so only while an exception
   * waits, some of them at least (AMD64 APM vol. 2, 11.4.4). Found out by running a NOP, as the first case.
   */
  get keepsPointers(): boolean {
    return this.#keepsPointers ??= this.#findPointers();
  }

  #findPointers(): boolean {
    const before = this.cases.slice(0, Case.size);
    this.cases.fill(0, 0, Case.size);
    const at = (offset: number, value: bigint) => this.view.setBigUint64(offset, value, true);
    at(Case.flags, 0x202n);
    at(Case.code, this.slot(SLOT_COUNT - 1, [0x90]));
    at(Case.window, this.pages);
    // All exceptions are masked, and none has been.
    this.view.setUint16(Case.fx, 0x37f, true);
    this.view.setUint32(Case.fx + 24, 0x1f80, true);
    const marker = 0x1234_5678n;
    at(Case.fx + 8, marker);
    this.run(1);
    const kept = this.view.getBigUint64(Case.fx + 8, true) === marker;
    this.cases.set(before);
    return kept;
  }

  /** Puts an instruction into code slot `n` (0 to 2047) and gives its address. */
  slot(n: number, instruction: ArrayLike<number>): bigint {
    if (n < 0 || n >= SLOT_COUNT) throw new RangeError(`code slot ${n} of ${SLOT_COUNT}`);
    const offset = SLOTS + SLOT * n;
    const bytes = this.#code.bytes;
    bytes.set(instruction, offset);
    const end = offset + instruction.length;
    bytes.set([0xff, 0x25, 0, 0, 0, 0], end); // jmp [rip]
    this.#code.view.setBigUint64(end + 6, this.#exit, true);
    return this.#code.address + BigInt(offset);
  }

  /** Runs the first `count` cases. */
  run(count: number): void {
    if (count < 1 || count > this.capacity) {
      throw new RangeError(`${count} of ${this.capacity} cases`);
    }
    this.#run(this.#cases.address, BigInt(count));
  }

  [Symbol.dispose](): void {
    this.#code[Symbol.dispose]();
    this.#cases[Symbol.dispose]();
    this.#data[Symbol.dispose]();
  }
}
