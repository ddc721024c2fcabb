/**
 * Failed requests in the log: a guest can make any number of them.
 *
 * @module
 */

import { log } from "../../base/mod.ts";

/** How many are told one by one. */
const TOLD = 8;

/** Tells of failures until they are too many, then of every power of two. */
export class FailureLog {
  readonly #subject: string;
  #count = 0;

  /** @param subject what fails, for the log */
  constructor(subject: string) {
    this.#subject = subject;
  }

  /** A request has failed. */
  add(error: Error): void {
    const count = ++this.#count;
    if (count <= TOLD) {
      log.warn(`block: ${error.message}`);
    } else if (Number.isInteger(Math.log2(count))) {
      log.warn(`block: ${this.#subject}: ${count} requests have failed; last, ${error.message}`);
    }
  }
}
