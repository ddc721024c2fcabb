/**
 * A terminal on stdin as the guest's console: raw mode, the escape, and the way back on every way out.
 *
 * @module
 */

import { type Reactor, readProcessStat, TerminalMode } from "../host/mod.ts";
import { CONSOLE_HELP, type ConsoleAction, EscapeFilter } from "./escape_filter.ts";
import { logPlainly, logToRawTerminal } from "./raw_log.ts";
import { type InputPort, SerialInput } from "./serial_input.ts";

const STDIN = 0;
/**
 * What is typed or pasted ahead of a guest that does not read. More than any paste, so that the escape
 * is seen behind it.
 */
const TYPE_AHEAD_BYTES = 64 * 1024 * 1024;

/** Settings of a {@link Console}. */
export interface ConsoleOptions {
  /** The terminal to read from; non-blocking where possible. */
  readonly fd: number;
  readonly reactor: Reactor;
  readonly port: InputPort;
  /** Carries out what the user asked for; the help is shown here. */
  readonly onAction: (action: Exclude<ConsoleAction, "help">) => void;
}

/** The terminal while it is the guest's. */
export class Console implements Disposable {
  readonly #mode = TerminalMode.save(STDIN);
  readonly #input: SerialInput;
  readonly #filter = new EscapeFilter();
  readonly #onAction: ConsoleOptions["onAction"];
  #closed = false;

  constructor(options: ConsoleOptions) {
    this.#onAction = options.onAction;
    this.#input = new SerialInput(options.fd, {
      reactor: options.reactor,
      port: options.port,
      limitBytes: TYPE_AHEAD_BYTES,
      filter: (bytes) => this.#filtered(bytes),
    });
  }

  /**
   * Takes the terminal over, unless this process runs in the background: it would be stopped for it.
   * Called again when it comes to the foreground.
   */
  take(): void {
    if (this.#closed || !inForeground()) return;
    this.#mode.setRaw();
    logToRawTerminal();
    this.#input.start();
  }

  /** Gives the terminal back, as long as this process is stopped. */
  release(): void {
    this.#input.pause();
    this.restore();
  }

  /** Only sets the terminal as it was; for the last moment of a process that fails. */
  restore(): void {
    this.#mode.restore();
    logPlainly();
  }

  [Symbol.dispose](): void {
    this.#closed = true;
    this.#input[Symbol.dispose]();
    this.restore();
  }

  #filtered(bytes: Uint8Array): Uint8Array {
    const { bytes: rest, actions } = this.#filter.take(bytes);
    for (const action of actions) {
      if (action === "help") this.#showHelp();
      else this.#onAction(action);
    }
    return rest;
  }

  #showHelp(): void {
    const text = ["", ...CONSOLE_HELP, ""].join("\r\n");
    try {
      Deno.stderr.writeSync(new TextEncoder().encode(text));
    } catch {
      // Nobody sees it.
    }
  }
}

/** Whether this process's group is the terminal's foreground one; true without job control. */
function inForeground(): boolean {
  try {
    const { group, foregroundGroup } = readProcessStat("/proc/self/stat");
    return foregroundGroup <= 0 || group === foregroundGroup;
  } catch {
    return true;
  }
}
