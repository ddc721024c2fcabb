/**
 * What the process of a device writes to its standard error, as lines of the VMM's log. A guest may have
 * taken the device over, so it cannot fill the log.
 *
 * @module
 */

import { LOG_LEVELS, Logger, type LogLevel } from "../../base/mod.ts";
import {
  type Fd,
  monotonicNs,
  PollEvent,
  type Reactor,
  tryRead,
  type Watch,
} from "../../host/mod.ts";

const MAX_LINE = 2048;
/** Lines at once, and a second on the average. */
const BURST = 100;
const LINES_PER_SECOND = 10;
const LINE = new RegExp(`^(${LOG_LEVELS.join("|")}) +(?:vmctl: )?(.*)$`);

/** Reads one device's standard error until its end. */
export class DeviceLog implements Disposable {
  readonly #fd: Fd;
  readonly #log: Logger;
  readonly #watch: Watch;
  readonly #decoder = new TextDecoder();
  readonly #bytes = new Uint8Array(4096);
  #rest = "";
  #credit = BURST;
  #creditNs = monotonicNs();
  #dropped = 0;

  /** Takes over `fd`, a non-blocking pipe. */
  constructor(fd: Fd, options: { readonly name: string; readonly reactor: Reactor }) {
    this.#fd = fd;
    this.#log = new Logger(options.name);
    this.#watch = options.reactor.watch(fd, PollEvent.In, () => {
      // Its end would be reported over and over, whatever is asked for.
      if (this.#read() === 0) this.#watch[Symbol.dispose]();
    });
  }

  /** Reads what is left, and ends. */
  [Symbol.dispose](): void {
    if (this.#fd.closed) return;
    this.#watch[Symbol.dispose]();
    // As much as a pipe holds.
    for (let left = 16; left > 0 && this.#read() > 0; left--);
    this.#take("\n");
    if (this.#dropped > 0) this.#log.warn(`${this.#dropped} more lines were dropped`);
    this.#fd.close();
  }

  /** @returns -1 where nothing is there, 0 where nothing will come any more */
  #read(): number {
    const count = tryRead(this.#fd, this.#bytes);
    if (count > 0) {
      this.#take(this.#decoder.decode(this.#bytes.subarray(0, count), { stream: true }));
    }
    return count;
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    if (this.#rest.length > MAX_LINE) {
      lines.push(this.#rest);
      this.#rest = "";
    }
    for (const line of lines) if (line !== "") this.#print(line.slice(0, MAX_LINE));
  }

  #print(line: string): void {
    const now = monotonicNs();
    this.#credit = Math.min(
      BURST,
      this.#credit + (now - this.#creditNs) * LINES_PER_SECOND / 1e9,
    );
    this.#creditNs = now;
    if (this.#credit < 1) {
      this.#dropped++;
      return;
    }
    this.#credit--;
    if (this.#dropped > 0) {
      this.#log.warn(`${this.#dropped} lines were dropped`);
      this.#dropped = 0;
    }
    const [, level = "warn", message = line] = LINE.exec(line) ?? [];
    this.#log[level as LogLevel](message);
  }
}
