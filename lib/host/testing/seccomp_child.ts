/**
 * A process for tests of filters: loads one on itself, makes system calls, tells their results.
 *
 * The job is JSON in its first argument; the results are lines on standard output.
 *
 * @module
 */

import { gettid } from "../signal.ts";
import { NativeCode } from "../native_code.ts";
import {
  hasNoNewPrivileges,
  installSeccompFilter,
  rawSyscall,
  reportViolations,
  setNoNewPrivileges,
} from "../seccomp.ts";

/** What the process does. */
export interface SeccompJob {
  /** Arrays of struct sock_filter, in base64, in the order in which they are loaded. */
  readonly programs: readonly string[];
  readonly scope: "thread" | "process";
  /** Loads the filters and makes the calls in a worker; the main thread waits for its end. */
  readonly inWorker?: boolean;
  /** The descriptor that violations are reported to. */
  readonly reportFd?: number;
  readonly calls: readonly SeccompJobCall[];
}

/** A call: its arguments in decimal, and whether it is made by the 32-bit interface, without them. */
export interface SeccompJobCall {
  readonly number: number;
  readonly args: readonly string[];
  readonly int80?: boolean;
}

const encoder = new TextEncoder();

function tell(line: string): void {
  Deno.stdout.writeSync(encoder.encode(`${line}\n`));
}

function callByInt80(number: number): bigint {
  using code = new NativeCode(4096);
  // push rbx; mov eax, number; xor ebx, ebx; int 0x80; mov [rdi], rax; pop rbx; ret
  code.bytes.set([0x53, 0xb8, number & 0xff, number >> 8, 0, 0, 0x31, 0xdb, 0xcd, 0x80]);
  code.bytes.set([0x48, 0x89, 0x07, 0x5b, 0xc3], 10);
  code.entry(0)(code.address + 2048n, 0n);
  return code.view.getBigInt64(2048, true);
}

function work(job: SeccompJob): void {
  if (job.reportFd !== undefined) reportViolations(job.reportFd);
  // Whatever is bound or compiled at its first use, such as errno's address, is so before the filter.
  rawSyscall(39);
  setNoNewPrivileges();
  tell(`ready ${gettid()} ${hasNoNewPrivileges()}`);
  for (const program of job.programs) {
    installSeccompFilter(Uint8Array.from(atob(program), (char) => char.charCodeAt(0)), job);
  }
  for (const { number, args, int80 } of job.calls) {
    tell(String(int80 === true ? callByInt80(number) : rawSyscall(number, args.map(BigInt))));
  }
  tell("done");
}

if ("WorkerGlobalScope" in globalThis) {
  self.onmessage = (event: MessageEvent<SeccompJob>) => {
    work(event.data);
    self.postMessage("done");
  };
} else if (import.meta.main) {
  const job: SeccompJob = JSON.parse(Deno.args[0]!);
  if (job.inWorker === true) {
    const worker = new Worker(import.meta.url, { type: "module" });
    worker.postMessage(job);
    worker.onmessage = () => {
      // The rest of the process has no filter unless the scope was the process.
      tell(`main ${rawSyscall(job.calls.at(-1)!.number, job.calls.at(-1)!.args.map(BigInt))}`);
      worker.terminate();
    };
  } else {
    work(job);
  }
}
