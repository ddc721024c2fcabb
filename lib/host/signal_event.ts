/**
 * Signals as events, for a thread that blocks in system calls and runs no event loop of the runtime.
 *
 * @module
 */

import { check } from "./errno.ts";
import { eventfd } from "./event.ts";
import type { Fd } from "./fd.ts";
import { bindLibc } from "./libc.ts";
import { NativeCode, protect, Protection } from "./native_code.ts";

// Safe: struct sigaction of glibc has 152 bytes; the handler is machine code that is never released,
// and makes one system call that signal handlers may make.
const libc = bindLibc({
  sigaction: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
});

const CODE_BYTES = 4096;
const SA_RESTART = 0x1000_0000;

/**
 * Lets each of `signals` make the result readable, whichever thread gets it, and do nothing else. For
 * the rest of the process's life; the descriptor must stay open.
 */
export function catchSignals(signals: readonly number[]): Fd {
  const event = eventfd(0, { nonblock: true });
  const code = new NativeCode(CODE_BYTES);
  code.view.setInt32(1, event.raw, true);
  code.bytes[0] = 0xbf; // mov edi, event
  code.bytes.set([
    ...[0x48, 0x8d, 0x35, 13, 0, 0, 0], // lea rsi, [rip + one]
    ...[0xba, 8, 0, 0, 0], // mov edx, 8
    ...[0xb8, 1, 0, 0, 0], // mov eax, SYS_write
    ...[0x0f, 0x05], // syscall
    0xc3, // ret
    ...[1, 0, 0, 0, 0, 0, 0, 0], // one
  ], 5);
  protect(code.address, CODE_BYTES, Protection.Read | Protection.Execute);
  const action = new DataView(new ArrayBuffer(152));
  action.setBigUint64(0, code.address, true);
  // Other threads are not to see their calls fail.
  action.setInt32(136, SA_RESTART, true);
  for (const signal of signals) {
    check(libc().sigaction(signal, action, null), "sigaction", `of signal ${signal}`);
  }
  return event;
}
