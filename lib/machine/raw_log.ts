/**
 * The log on a terminal in raw mode, where a newline alone does not return to the first column.
 *
 * @module
 */

import { setLogSink } from "../base/mod.ts";

const encoder = new TextEncoder();

/** Lets log lines begin and end in the first column of a raw terminal. */
export function logToRawTerminal(): void {
  setLogSink((line) => {
    try {
      Deno.stderr.writeSync(encoder.encode(`\r${line.replaceAll("\n", "\r\n")}`));
    } catch {
      // The terminal is gone; nobody is left to read the log.
    }
  });
}

/** Returns to plain lines. */
export function logPlainly(): void {
  setLogSink(undefined);
}
