/**
 * The console's escape: `Ctrl-a` and a key, as terminal multiplexers and QEMU do it. The bytes of a raw
 * terminal pass through here on their way to the guest.
 *
 * @module
 */

/** What the user asked for with an escape. */
export type ConsoleAction = "exit" | "help" | "power-button" | "toggle-suspend";

/** What the keys do, for the help. */
export const CONSOLE_HELP = [
  "Ctrl-a x       end the VM",
  "Ctrl-a p       press the power button",
  "Ctrl-a s       suspend or resume",
  "Ctrl-a Ctrl-a  send Ctrl-a to the guest",
  "Ctrl-a h       this help",
] as const;

const ESCAPE = 0x01;

const ACTIONS: Readonly<Record<string, ConsoleAction>> = {
  x: "exit",
  h: "help",
  "?": "help",
  p: "power-button",
  s: "toggle-suspend",
};

/** What {@link EscapeFilter.take} made of the input. */
export interface FilteredInput {
  /** For the guest. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** What was asked for, in order. */
  readonly actions: readonly ConsoleAction[];
}

/** Tells escapes from input. */
export class EscapeFilter {
  #escaped = false;

  /** Splits `input`; an escape may begin in one call and end in the next. */
  take(input: Uint8Array): FilteredInput {
    const bytes = new Uint8Array(input.length + 1);
    const actions: ConsoleAction[] = [];
    let length = 0;
    for (const byte of input) {
      if (!this.#escaped) {
        if (byte === ESCAPE) this.#escaped = true;
        else bytes[length++] = byte;
        continue;
      }
      this.#escaped = false;
      const action = ACTIONS[String.fromCharCode(byte)];
      if (action !== undefined) actions.push(action);
      else if (byte === ESCAPE || byte === 0x61) bytes[length++] = ESCAPE;
      // Any other key after the escape means nothing; both are dropped, as tmux and QEMU do.
    }
    return { bytes: bytes.subarray(0, length), actions };
  }
}
