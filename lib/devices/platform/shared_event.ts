/** A counter in shared memory that is notified when it changes. */
export interface SharedEvent {
  /** Shared words. */
  readonly words: Int32Array<SharedArrayBuffer>;
  /** Index of the counter. */
  readonly index: number;
}
