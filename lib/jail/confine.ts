/**
 * Puts the running process under a filter.
 *
 * @module
 */

import { getpid, installSeccompFilter, reportViolations, setNoNewPrivileges } from "../host/mod.ts";
import { encodeProgram, type Instruction } from "./bpf/instruction.ts";
import { verifyProgram } from "./bpf/simulate.ts";

/** How to confine the process. */
export interface ConfineOptions {
  /** Descriptor that a violation is reported to (`parseViolation` of lib/host); none where absent. */
  readonly reportFd?: number;
}

/**
 * Loads a filter for all threads of this process, for ever, and renounces new privileges. Call it when
 * everything is open and all workers have started.
 *
 * @throws {JailError} for a program that the kernel would not take.
 * @throws {HostError} where the kernel refuses it.
 */
export function confineProcess(
  program: readonly Instruction[],
  options: ConfineOptions = {},
): void {
  verifyProgram(program);
  confineProcessWith(encodeProgram(program), options);
}

/**
 * As {@link confineProcess}, with a filter that somebody else has compiled and checked: an array of
 * struct sock_filter.
 *
 * @throws {HostError} where the kernel refuses it.
 */
export function confineProcessWith(
  bytes: Uint8Array<ArrayBuffer>,
  options: ConfineOptions = {},
): void {
  settleRuntime();
  if (options.reportFd !== undefined) reportViolations(options.reportFd);
  setNoNewPrivileges();
  installSeccompFilter(bytes, { scope: "process" });
}

/** Lets the runtime and the foreign functions make what they otherwise make at their first use. */
function settleRuntime(): void {
  // A pair of sockets, a thread and handlers, which it otherwise makes some time after the start.
  const listener = () => {};
  Deno.addSignalListener("SIGTERM", listener);
  Deno.removeSignalListener("SIGTERM", listener);
  getpid();
}
