/**
 * Signals to the process: the first that asks for an end gets an orderly one, the second an immediate
 * one; a stop gives the terminal back meanwhile.
 *
 * @module
 */

import { getpid, kill, Signal } from "../host/mod.ts";

/** Signals that end the VM, with their numbers. */
const ENDING = {
  SIGINT: Signal.Interrupt,
  SIGTERM: Signal.Terminate,
  SIGHUP: Signal.Hangup,
  SIGQUIT: Signal.Quit,
} as const;

/** What a {@link SignalWatch} does. */
export interface SignalActions {
  /** The VM shall end. */
  onEnd(signal: string): void;
  /** The VM shall end at once: the last moment to restore the terminal. */
  onForce(signal: string): void;
  /** The process is about to be stopped. */
  onStop(): void;
  /** The process goes on after a stop, or came to the foreground. */
  onContinue(): void;
  /** The terminal's window has another size. */
  onWindowChange(): void;
}

/** Listens to signals until it is disposed. */
export class SignalWatch implements Disposable {
  readonly #listeners: [Deno.Signal, () => void][] = [];
  #ending = false;

  constructor(actions: SignalActions) {
    const ignored = ignoredSignals();
    for (const [name, number] of Object.entries(ENDING)) {
      // nohup, or a shell's background job: whoever started this process does not want it to hear. It
      // needs a listener all the same: where one signal has one, the runtime lets the others kill.
      const deaf = (ignored >> BigInt(number - 1) & 1n) !== 0n;
      this.#listen(name as keyof typeof ENDING, () => {
        if (deaf) return;
        if (this.#ending) {
          actions.onForce(name);
          Deno.exit(128 + number);
        }
        this.#ending = true;
        actions.onEnd(name);
      });
    }
    this.#listen("SIGTSTP", () => {
      actions.onStop();
      kill(getpid(), Signal.Stop);
    });
    this.#listen("SIGCONT", () => actions.onContinue());
    this.#listen("SIGWINCH", () => actions.onWindowChange());
  }

  [Symbol.dispose](): void {
    for (const [name, listener] of this.#listeners.splice(0)) {
      Deno.removeSignalListener(name, listener);
    }
  }

  #listen(name: Deno.Signal, listener: () => void): void {
    Deno.addSignalListener(name, listener);
    this.#listeners.push([name, listener]);
  }
}

/** The signals that this process ignores, bit n - 1 for signal n. */
function ignoredSignals(): bigint {
  try {
    const match = /^SigIgn:\s*([0-9a-f]+)$/m.exec(Deno.readTextFileSync("/proc/self/status"));
    return match === null ? 0n : BigInt(`0x${match[1]}`);
  } catch {
    return 0n;
  }
}
