/**
 * A program that is started as a device, confines itself as one, and then tries what a device that a
 * guest has taken over may try. Afterwards it serves the device, unless it had to die.
 *
 * @module
 */

import {
  type DeviceKind,
  deviceKind,
  type DeviceProcessSpec,
  type Json,
  requireDeviceKind,
  runDeviceProcess,
} from "../../../devices/mod.ts";
import {
  bufferAddress,
  type Fd,
  fstat,
  IoUring,
  mmap,
  NativeCode,
  pread,
  pwrite,
  rawSyscall,
  writeAll,
} from "../../../host/mod.ts";
import { SeccompReturn, withReturn } from "../../../jail/mod.ts";

/**
 * An argument: a number, a text or bytes to be handed over by address, or the result of an attempt before
 * this one.
 */
export type Argument = number | string | readonly number[] | { readonly resultOf: number };

/** A system call. */
export interface Attempt {
  readonly number: number;
  readonly args: readonly Argument[];
}

/** What to try. */
export type Attack =
  /** Calls, after taking over the signal that a violation raises, so that none of them is the last. */
  | { readonly kind: "survive"; readonly attempts: readonly Attempt[] }
  /** One call, after everything that a process can do to keep others from being told. */
  | { readonly kind: "hide"; readonly attempt: Attempt }
  /** One call as it comes. */
  | { readonly kind: "call"; readonly attempt: Attempt }
  /** A call of the 32-bit interface. */
  | { readonly kind: "int80"; readonly number: number }
  /** Entries of the disk's ring: an operation and its flags each. */
  | { readonly kind: "ring"; readonly entries: readonly (readonly [number, number])[] };

/** In the place of a device's settings. The last descriptor takes an {@link AttackReport}. */
export interface AttackOrder {
  readonly own: Json;
  /** An {@link Attack} as JSON. */
  readonly attack: string;
}

/** What came of an attack, in its order. */
export interface AttackReport {
  /** Results, as the kernel gives them. */
  readonly results: readonly number[];
  /** Numbers of the calls that raised SIGSYS, as the signal told; -1 of those that did not. */
  readonly trapped: readonly number[];
}

const SYS_CLOSE = 3;
const SYS_RT_SIGACTION = 13;
const SYS_RT_SIGPROCMASK = 14;
/** Where a device process may have the descriptors by which it talks with the VMM. */
const OWN_FDS = [2, 3, 4, 5, 6];
const SIGSYS = 31;
const SA_SIGINFO = 4;
const SA_RESTORER = 0x0400_0000;
const OFF_SQES = 0x1000_0000;
const SQE_BYTES = 64;
const CODE_BYTES = 4096;
/** Where in the page of code the number of the trapped call is kept. */
const SEEN = 2048;

const encoder = new TextEncoder();

function call({ number, args }: Attempt, earlier: readonly number[] = []): number {
  const kept: Uint8Array<ArrayBuffer>[] = [];
  const address = (bytes: Uint8Array<ArrayBuffer>) => {
    kept.push(bytes);
    return bufferAddress(bytes.buffer);
  };
  const values = args.map((arg) => {
    if (typeof arg === "number") return BigInt(arg);
    if (typeof arg === "string") return address(encoder.encode(`${arg}\0`));
    if ("resultOf" in arg) return BigInt(earlier[arg.resultOf] ?? -1);
    return address(new Uint8Array(arg));
  });
  const result = Number(rawSyscall(number, values));
  // They live until the call is over.
  kept.length = 0;
  return result;
}

function survive(attempts: readonly Attempt[]): AttackReport {
  using code = new NativeCode(CODE_BYTES);
  const seen = new DataView(new ArrayBuffer(8));
  seen.setBigUint64(0, code.address + BigInt(SEEN), true);
  const handler = [
    [0x8b, 0x46, 0x18], // mov eax, [rsi + 24]: si_syscall
    [0x48, 0xb9, ...new Uint8Array(seen.buffer)], // mov rcx, address
    [0x89, 0x01], // mov [rcx], eax
    [0xc3], // ret
  ].flat();
  const restorer = [
    [0xb8, 15, 0, 0, 0], // mov eax, SYS_rt_sigreturn
    [0x0f, 0x05], // syscall
  ].flat();
  code.bytes.set(handler);
  code.bytes.set(restorer, handler.length);
  const action = new DataView(new ArrayBuffer(32));
  action.setBigUint64(0, code.address, true);
  action.setBigUint64(8, BigInt(SA_SIGINFO | SA_RESTORER), true);
  action.setBigUint64(16, code.address + BigInt(handler.length), true);
  const before = new Uint8Array(32);
  const set = (to: bigint, from: bigint) =>
    rawSyscall(SYS_RT_SIGACTION, [BigInt(SIGSYS), to, from, 8n]);
  if (set(bufferAddress(action.buffer), bufferAddress(before.buffer)) !== 0n) {
    throw new TypeError("the handler of SIGSYS stays");
  }
  const results: number[] = [];
  const trapped: number[] = [];
  for (const attempt of attempts) {
    code.view.setInt32(SEEN, -1, true);
    results.push(call(attempt, results));
    trapped.push(code.view.getInt32(SEEN, true));
  }
  set(bufferAddress(before.buffer), 0n);
  return { results, trapped };
}

/** Ignores and blocks what a violation raises, and closes the descriptors of `fds`. */
function hide(fds: readonly number[]): void {
  const view = new DataView(new ArrayBuffer(32));
  const ignore = () =>
    rawSyscall(SYS_RT_SIGACTION, [BigInt(SIGSYS), bufferAddress(view.buffer), 0n, 8n]);
  view.setBigUint64(0, 1n, true);
  ignore();
  view.setBigUint64(0, 1n << BigInt(SIGSYS - 1), true);
  rawSyscall(SYS_RT_SIGPROCMASK, [0n, bufferAddress(view.buffer), 0n, 8n]);
  for (const fd of fds) rawSyscall(SYS_CLOSE, [BigInt(fd)]);
}

/**
 * Has the filter of the device process of `argument` raise SIGSYS for what it would hold, where an attack
 * can live on then, before it is loaded.
 */
function letFilterTrap(argument: string): void {
  const { jail, settings } = JSON.parse(argument) as DeviceProcessSpec;
  const { attack } = settings as unknown as AttackOrder;
  if (jail === undefined || (JSON.parse(attack) as Attack).kind !== "survive") return;
  const bytes = new Uint8Array(fstat(jail.filterFd).sizeBytes);
  pread(jail.filterFd, bytes, 0);
  const trapping = withReturn(bytes, SeccompReturn.UserNotify, SeccompReturn.Trap);
  if (trapping !== undefined) pwrite(jail.filterFd, trapping, 0);
}

function int80(number: number): void {
  using code = new NativeCode(CODE_BYTES);
  code.bytes.set([
    ...[0x53, 0x89, 0xf8], // push rbx; mov eax, edi
    ...[0x31, 0xdb, 0x31, 0xc9], // xor ebx, ebx; xor ecx, ecx
    ...[0xcd, 0x80, 0x5b, 0xc3], // int 0x80; pop rbx; ret
  ]);
  code.entry(0)(BigInt(number), 0n);
}

/** Turns flushes of `file` into other operations, behind the back of the ring's own code. */
function abuse(ring: IoUring, entries: readonly (readonly [number, number])[], file: Fd): number[] {
  using sqes = mmap(ring.capacity * SQE_BYTES, { fd: ring.fd, offset: OFF_SQES });
  return entries.map(([operation, flags], index) => {
    ring.sync(file, 0);
    const at = (index % ring.capacity) * SQE_BYTES;
    sqes.view.setUint8(at, operation);
    sqes.view.setUint8(at + 1, flags);
    ring.submit();
    ring.wait();
    if (ring.complete() !== 0) throw new TypeError("another entry was completed");
    return ring.result;
  });
}

function attackWith(attack: Attack, prepared: unknown, fds: readonly Fd[]): AttackReport {
  switch (attack.kind) {
    case "survive":
      return survive(attack.attempts);
    case "hide":
      hide(OWN_FDS);
      return { results: [call(attack.attempt)], trapped: [-1] };
    case "call":
      return { results: [call(attack.attempt)], trapped: [-1] };
    case "int80":
      int80(attack.number);
      return { results: [], trapped: [] };
    case "ring": {
      const [file] = fds;
      const hasRing = typeof prepared === "object" && prepared !== null && "ring" in prepared;
      if (file === undefined || !hasRing || !(prepared.ring instanceof IoUring)) {
        return { results: [], trapped: [] };
      }
      return { results: abuse(prepared.ring, attack.entries, file), trapped: [] };
    }
  }
}

async function attackingKind(name: string): Promise<DeviceKind> {
  const kind: DeviceKind = await deviceKind(requireDeviceKind(name));
  const { prepare } = kind;
  return {
    ...kind,
    ...(prepare === undefined
      ? {}
      : { prepare: (settings, fds) => prepare((settings as AttackOrder).own, fds) }),
    // The process is confined by now.
    make(settings, fds, prepared) {
      const { own, attack } = settings as AttackOrder;
      using report = fds.at(-1)!;
      const outcome = attackWith(JSON.parse(attack) as Attack, prepared, fds);
      writeAll(report, encoder.encode(JSON.stringify(outcome)));
      return kind.make(own, fds.slice(0, -1), prepared);
    },
  };
}

if (import.meta.main) {
  const argument = Deno.args[1] ?? "";
  letFilterTrap(argument);
  Deno.exit(await runDeviceProcess(argument, attackingKind));
}
