/**
 * A platform that records its interrupts and output, for tests.
 *
 * @module
 */

import { Platform } from "./platform.ts";

/** A platform with what it is connected to. */
export class TestPlatform {
  readonly platform: Platform;
  /** Levels of the interrupt lines. */
  readonly lines = new Map<number, boolean>();
  /** Rising edges of the interrupt lines. */
  readonly edges = new Map<number, number>();
  /** What COM1, COM2 and the debug port sent. */
  readonly output: [number[], number[], number[]] = [[], [], []];
  readonly #data = new DataView(new ArrayBuffer(8));

  constructor() {
    this.platform = Platform.create({
      irq: (gsi, level) => {
        if (level && this.lines.get(gsi) !== true) {
          this.edges.set(gsi, (this.edges.get(gsi) ?? 0) + 1);
        }
        this.lines.set(gsi, level);
      },
      serial: [
        { write: (byte) => this.output[0].push(byte) },
        { write: (byte) => this.output[1].push(byte) },
      ],
      debug: { write: (byte) => this.output[2].push(byte) },
      lowMemoryBytes: 0x2000_0000,
      highMemoryBytes: 0x1_0000_0000,
    });
  }

  /** Level of an interrupt line. */
  line(gsi: number): boolean {
    return this.lines.get(gsi) ?? false;
  }

  /** IN. */
  in(port: number, size = 1): number {
    this.#data.setUint32(0, 0x5a5a_5a5a);
    this.platform.portIn(port, size, this.#data);
    return size === 1
      ? this.#data.getUint8(0)
      : size === 2
      ? this.#data.getUint16(0, true)
      : this.#data.getUint32(0, true);
  }

  /** OUT. */
  out(port: number, value: number, size = 1): void {
    this.#data.setUint32(0, value, true);
    this.platform.portOut(port, size, this.#data);
  }

  /** What COM1 (0), COM2 (1) or the debug port (2) sent, as text. */
  text(which: 0 | 1 | 2): string {
    return String.fromCharCode(...this.output[which]);
  }
}
