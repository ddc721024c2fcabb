/**
 * A worker that writes random descriptors over a shared buffer until it is terminated: a driver that
 * changes chains while the device reads them.
 *
 * @module
 */

/** What the worker is told. */
export interface ScribbleOrder {
  readonly buffer: SharedArrayBuffer;
  /** Where, in bytes. */
  readonly from: number;
  readonly length: number;
  /** For each of the 8 words of 16 bits of a descriptor, what it may be. */
  readonly words: readonly (readonly number[])[];
}

function scribble({ buffer, from, length, words }: ScribbleOrder): never {
  const target = new Uint16Array(buffer, from, length / 2);
  let state = 0x9e37_79b9 | 0;
  const random = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  for (;;) {
    const at = random() % target.length;
    const choice = words[at % words.length]!;
    target[at] = choice[random() % choice.length]!;
  }
}

self.onmessage = (event: MessageEvent<ScribbleOrder>) => {
  self.postMessage("scribbling");
  scribble(event.data);
};
