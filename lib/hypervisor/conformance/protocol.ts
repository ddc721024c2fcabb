/**
 * What the threads of a conformance test tell each other.
 *
 * @module
 */

import type { GuestMemoryHandle } from "../../memory/mod.ts";
import type { VmHandle } from "../mod.ts";

/** Words that the threads of a test share. */
export const Word = {
  /** Number of the run that the watchdog watches; another number means that it is over. */
  Run: 0,
  /** 1 when the watchdog had to end a run. */
  TimedOut: 1,
  /** 1 when vCPU workers have to end. */
  Stop: 2,
  /** vCPU workers that are ready to run. */
  Ready: 3,
  /** vCPU workers that ended. */
  Ended: 4,
  /** What made a vCPU worker end, as an {@link ExitReason} plus 1. */
  ExitReason: 5,
  Count: 16,
} as const;

/** What a worker is told. */
export type Command =
  | {
    readonly do: "attach";
    readonly handle: VmHandle;
    readonly memory: GuestMemoryHandle;
    readonly words: Int32Array;
  }
  | { readonly do: "detach" }
  /** Does the service of a VM until that ends. */
  | { readonly do: "serve"; readonly handle: VmHandle; readonly memory: GuestMemoryHandle }
  | { readonly do: "watch"; readonly run: number; readonly timeoutMs: number }
  | { readonly do: "kick"; readonly id: number; readonly delayMs: number }
  /** As soon as the 64 bits of guest memory at `address` are another number than `seen`. */
  | {
    readonly do: "kick-changed";
    readonly id: number;
    readonly address: number;
    readonly seen: bigint;
  }
  | { readonly do: "kick-often"; readonly id: number }
  | { readonly do: "msi"; readonly address: bigint; readonly data: number }
  | { readonly do: "event"; readonly fd: number }
  /** Answers each signal of `kick` by one of `call`, after a time of its own. */
  | {
    readonly do: "answer";
    readonly kick: number;
    readonly call: number;
    readonly delaysUs: readonly number[];
  }
  | { readonly do: "irq"; readonly gsi: number; readonly level: boolean }
  | { readonly do: "vcpu"; readonly id: number };
