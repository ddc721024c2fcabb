/**
 * A timer that costs nothing to begin with: the first `setTimeout` has the runtime load what takes it 10 ms,
 * for which a guest's first instruction would wait.
 *
 * @module
 */

/** Calls back once, after some time, unless it is disposed before. It does not keep the process running. */
export class Alarm implements Disposable {
  readonly #word = new Int32Array(new SharedArrayBuffer(4));

  /** @param timeoutMs from now on */
  constructor(timeoutMs: number, ring: () => void) {
    const wait = Atomics.waitAsync(this.#word, 0, 0, timeoutMs);
    if (!wait.async) {
      queueMicrotask(ring);
      return;
    }
    void wait.value.then((why) => {
      if (why === "timed-out" && this.#word[0] === 0) ring();
    });
  }

  [Symbol.dispose](): void {
    this.#word[0] = 1;
    Atomics.notify(this.#word, 0);
  }
}
