/**
 * Puts the running process under a filter.
 *
 * @module
 */

import {
  dupFd,
  type Fd,
  getpid,
  installSeccompFilter,
  installSeccompListener,
  isHostError,
  reportViolations,
  setNoNewPrivileges,
  UnixSocket,
} from "../host/mod.ts";
import { encodeProgram, type Instruction, SeccompReturn, withReturn } from "./bpf/instruction.ts";
import { verifyProgram } from "./bpf/simulate.ts";

/** How to confine the process. */
export interface ConfineOptions {
  /**
   * A connected seqpacket socket; none where absent. Where the filter holds calls (`user-notify`), the
   * descriptor goes there by which its other end learns of them (`receiveViolation` of lib/host), so that
   * nothing in this process can keep one from being told. Reports of calls that are trapped go there, too
   * (`parseViolation`); before Linux 5.7 that is what happens to all.
   */
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
  const { reportFd } = options;
  settleRuntime();
  if (reportFd !== undefined) reportViolations(reportFd);
  setNoNewPrivileges();
  const trapping = withReturn(bytes, SeccompReturn.UserNotify, SeccompReturn.Trap);
  if (reportFd === undefined || trapping === undefined) {
    installSeccompFilter(bytes, { scope: "process" });
    return;
  }
  let listener: Fd;
  try {
    listener = installSeccompListener(bytes);
  } catch (error) {
    // An older kernel, or somebody around this process listens already.
    if (!isHostError(error, "EINVAL") && !isHostError(error, "EBUSY")) throw error;
    installSeccompFilter(trapping, { scope: "process" });
    return;
  }
  // Whoever had it in here could let calls pass.
  using theirs = listener;
  using socket = new UnixSocket(dupFd(reportFd));
  socket.sendMessage(new Uint8Array(1), [theirs]);
}

/** Lets the runtime and the foreign functions make what they otherwise make at their first use. */
function settleRuntime(): void {
  // A pair of sockets, a thread and handlers, which it otherwise makes some time after the start.
  const listener = () => {};
  Deno.addSignalListener("SIGTERM", listener);
  Deno.removeSignalListener("SIGTERM", listener);
  getpid();
}
