/**
 * A vCPU worker that does nothing but hammer COM1, for the test of shared state.
 *
 * @module
 */
/// <reference lib="deno.worker" />

import { Platform, type PlatformHandle } from "./platform.ts";

/** What the test tells the worker. */
export interface HammerOrder {
  /** The devices. */
  readonly platform: PlatformHandle;
  /** Word 0: bytes sent; word 1: bytes received; word 2: start; then a count of each byte sent. */
  readonly counts: Int32Array<SharedArrayBuffer>;
  /** The byte to send. */
  readonly byte: number;
  /** How many of them. */
  readonly times: number;
  /** Bytes to receive by all workers together. */
  readonly expected: number;
}

self.onmessage = ({ data }: MessageEvent<HammerOrder>) => {
  const { counts, byte, times, expected } = data;
  const platform = Platform.attach(data.platform, {
    irq: () => {},
    serial: [{
      write: (sent) => {
        // Not atomic on purpose: the port's lock alone keeps this whole.
        counts[0] = (counts[0] ?? 0) + 1;
        Atomics.add(counts, 4 + sent, 1);
      },
    }],
  });
  const access = new DataView(new ArrayBuffer(8));
  self.postMessage("ready");
  Atomics.wait(counts, 2, 0);
  for (let n = 0; n < times; n++) {
    access.setUint8(0, byte);
    platform.portOut(0x3f8, 1, access);
    platform.portIn(0x3fa, 1, access);
  }
  while (Atomics.load(counts, 1) < expected) {
    platform.portIn(0x3fd, 1, access);
    if ((access.getUint8(0) & 1) === 0) continue;
    platform.portIn(0x3f8, 1, access);
    // Another worker may have been faster, and then this one reads nothing.
    if (access.getUint8(0) !== 0) Atomics.add(counts, 1, 1);
  }
  self.postMessage("done");
  self.close();
};
