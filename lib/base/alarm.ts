/**
 * Timers that cost nothing to begin with: the first `setTimeout` has the runtime load what takes it 10 ms,
 * for which a guest's first instruction would wait, or what runs beside its first ones.
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

/** Calls back again and again until it is disposed, as an {@link Alarm} does once. */
export class Ticker implements Disposable {
  #alarm: Alarm;

  /** @param periodMs from one time to the next; the first is after as much */
  constructor(periodMs: number, tick: () => void) {
    const next = (): Alarm =>
      new Alarm(periodMs, () => {
        this.#alarm = next();
        tick();
      });
    this.#alarm = next();
  }

  [Symbol.dispose](): void {
    this.#alarm[Symbol.dispose]();
  }
}
