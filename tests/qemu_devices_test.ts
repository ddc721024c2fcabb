/**
 * The interrupt controllers, the timer and the platform devices beside QEMU's: the same accesses must
 * read the same values.
 */
import { strict as assert } from "node:assert";
import * as fc from "fast-check";
import { Platform } from "../lib/devices/mod.ts";
import { SoftIrqChip } from "../lib/hypervisor/soft/irqchip/mod.ts";
import { QemuBench, qemuMissing } from "./support/qtest.ts";

const skipped = qemuMissing === undefined ? "" : ` (skipped: ${qemuMissing})`;
/** Serial ports of the bench with their interrupts; with them a test drives interrupt lines. */
const UARTS = [[0x3f8, 4], [0x2f8, 3], [0x3e8, 10], [0x2e8, 14]] as const;
const UART_ARGS = UARTS.flatMap(([port, irq], index) => [
  ...["-chardev", `null,id=c${index}`],
  ...["-device", `isa-serial,chardev=c${index},index=${index},iobase=${port},irq=${irq}`],
]);

/** One access or one change of an interrupt line. */
type Step =
  | { readonly out: number; readonly value: number }
  | { readonly in: number }
  | { readonly store: number; readonly value: number }
  | { readonly load: number }
  | { readonly line: number; readonly level: boolean };

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

function toQtest(step: Step): string {
  if ("out" in step) return `outb ${hex(step.out)} ${hex(step.value)}`;
  if ("in" in step) return `inb ${hex(step.in)}`;
  if ("store" in step) return `writel ${hex(step.store)} ${hex(step.value)}`;
  if ("load" in step) return `readl ${hex(step.load)}`;
  const uart = UARTS.find(([, irq]) => irq === step.line);
  assert.ok(uart, `no serial port drives line ${step.line}`);
  return `outb ${hex(uart[0] + 1)} ${step.level ? 2 : 0}`;
}

/** This project's devices, wired as a machine wires them. */
class Ours {
  readonly #chip: SoftIrqChip;
  readonly #platform: Platform;
  readonly #levels = new Map<number, boolean>();
  readonly #data = new DataView(new ArrayBuffer(8));

  constructor(realtimeNs: () => number = () => 0) {
    const words = new Int32Array(new SharedArrayBuffer(4));
    this.#chip = SoftIrqChip.create({ mailboxes: [{ words, index: 0 }], hostNow: () => 0 });
    this.#platform = Platform.create({
      irq: (gsi, level) => this.#chip.setIrqLine(gsi, level),
      lowMemoryBytes: 16 << 20,
      realtimeNs,
    });
  }

  run(steps: readonly Step[]): number[] {
    return steps.map((step) => {
      const data = this.#data;
      if ("line" in step) {
        // As the bench's serial ports do: a line is driven when its level changes.
        if ((this.#levels.get(step.line) ?? false) !== step.level) {
          this.#levels.set(step.line, step.level);
          this.#chip.setIrqLine(step.line, step.level);
        }
        return 0;
      }
      if ("store" in step) {
        data.setUint32(0, step.value, true);
        this.#chip.mmioWrite(0, step.store, 4, data);
        return 0;
      }
      if ("load" in step) {
        this.#chip.mmioRead(0, step.load, 4, data);
        return data.getUint32(0, true);
      }
      if ("out" in step) {
        data.setUint8(0, step.value);
        if (this.#chip.handlesPort(step.out)) this.#chip.portOut(step.out, 1, data);
        else this.#platform.portOut(step.out, 1, data);
        return 0;
      }
      if (this.#chip.handlesPort(step.in)) this.#chip.portIn(step.in, 1, data);
      else this.#platform.portIn(step.in, 1, data);
      return data.getUint8(0);
    });
  }
}

/** Runs random scripts, each after `prologue`, on both sides, and compares what was read. */
async function compare(
  steps: fc.Arbitrary<readonly Step[]>,
  options: {
    readonly prologue: readonly Step[];
    readonly runs?: number;
    readonly args?: readonly string[];
    /** Bits that count of what a step read. */
    readonly mask?: (step: Step) => number;
  },
): Promise<void> {
  await using qemu = new QemuBench([...UART_ARGS, ...options.args ?? []]);
  await fc.assert(
    fc.asyncProperty(fc.array(steps, { minLength: 1, maxLength: 60 }), async (random) => {
      const script = [...options.prologue, ...random.flat()];
      const theirs = await qemu.run(script.map(toQtest));
      const ours = new Ours().run(script);
      for (const [n, step] of script.entries()) {
        // Before that, QEMU still has the state of the last script.
        if (n < options.prologue.length) continue;
        const mask = options.mask?.(step) ?? 0xffff_ffff;
        if ("line" in step || "out" in step || "store" in step) continue;
        assert.equal(
          hex(((ours[n] ?? 0) & mask) >>> 0),
          hex(((theirs[n] ?? 0) & mask) >>> 0),
          `step ${n} of ${script.slice(options.prologue.length).map(toQtest).join("; ")}`,
        );
      }
    }),
    { numRuns: options.runs ?? 300 },
  );
}

const byte = fc.integer({ min: 0, max: 0xff });

const PIC_RESET: readonly Step[] = [
  ...UARTS.map(([, line]): Step => ({ line, level: false })),
  { out: 0x4d0, value: 0 },
  { out: 0x4d1, value: 0 },
  { out: 0x20, value: 0x11 },
  { out: 0x21, value: 0x20 },
  { out: 0x21, value: 0x04 },
  { out: 0x21, value: 0x01 },
  { out: 0x21, value: 0 },
  { out: 0xa0, value: 0x11 },
  { out: 0xa1, value: 0x28 },
  { out: 0xa1, value: 0x02 },
  { out: 0xa1, value: 0x01 },
  { out: 0xa1, value: 0 },
];

/**
 * Both PICs set up anew, with special fully nested mode or not. Of the master alone QEMU sees another
 * edge of the slave only at the slave's next change, and automatic EOI takes the processor.
 */
const picInitialization = fc.record({
  base: byte,
  icw1: fc.constantFrom(0x11, 0x10, 0x13),
  icw4: fc.constantFrom(0x01, 0x11),
})
  .map(({ base, icw1, icw4 }): Step[] =>
    [0x20, 0xa0].flatMap((port): Step[] => [
      { out: port, value: icw1 },
      { out: port + 1, value: base },
      ...((icw1 & 2) === 0 ? [{ out: port + 1, value: 4 }] : []),
      ...((icw1 & 1) !== 0 ? [{ out: port + 1, value: icw4 }] : []),
      { in: port + 1 },
    ])
  );

Deno.test({
  name: `the PIC reads as QEMU's does${skipped}`,
  ignore: qemuMissing !== undefined,
  fn: () =>
    compare(
      fc.oneof(
        fc.oneof(
          {
            weight: 4,
            arbitrary: fc.record({
              line: fc.constantFrom(...UARTS.map(([, irq]) => irq)),
              level: fc.boolean(),
            }),
          },
          { weight: 4, arbitrary: fc.record({ in: fc.constantFrom(0x20, 0x21, 0xa0, 0xa1) }) },
          // Polls take what is pending, as the processor would.
          {
            weight: 3,
            arbitrary: fc.record({ out: fc.constantFrom(0x20, 0xa0), value: fc.constant(0x0c) }),
          },
          // Operation command words. Rotation in automatic EOI mode comes without that mode here.
          {
            weight: 4,
            arbitrary: fc.record({
              out: fc.constantFrom(0x20, 0xa0),
              value: byte.filter((value) => (value & 0x10) === 0),
            }),
          },
          { weight: 2, arbitrary: fc.record({ out: fc.constantFrom(0x21, 0xa1), value: byte }) },
          { weight: 1, arbitrary: fc.record({ out: fc.constantFrom(0x4d0, 0x4d1), value: byte }) },
          { weight: 1, arbitrary: fc.record({ in: fc.constantFrom(0x4d0, 0x4d1) }) },
        ).map((step): Step[] => [step]),
        picInitialization,
      ),
      { prologue: PIC_RESET, runs: 1000 },
    ),
});

Deno.test({
  name: `the PIT reads as QEMU's does while time stands${skipped}`,
  ignore: qemuMissing !== undefined,
  fn: () =>
    compare(
      fc.record({
        channel: fc.integer({ min: 0, max: 2 }),
        access: fc.integer({ min: 1, max: 3 }),
        // QEMU's outputs of the other modes are pulses of the wrong sense.
        mode: fc.constantFrom(0, 3),
        count: fc.integer({ min: 0, max: 0xffff }),
        latch: fc.constantFrom("none", "count", "status", "both"),
        gate: byte,
      }).map(({ channel, access, mode, count, latch, gate }): Step[] => {
        const port = 0x40 + channel;
        const reads: Step[] = [{ in: port }, { in: port }, { in: port }];
        const select = 2 << channel;
        return [
          { out: 0x61, value: (gate & 2) | 1 },
          { out: 0x43, value: (channel << 6) | (access << 4) | (mode << 1) },
          ...((access & 1) !== 0 ? [{ out: port, value: count & 0xff }] : []),
          ...((access & 2) !== 0 ? [{ out: port, value: count >> 8 }] : []),
          ...(latch === "count" ? [{ out: 0x43, value: channel << 6 }] : []),
          ...(latch === "status" ? [{ out: 0x43, value: 0xe0 | select }] : []),
          ...(latch === "both" ? [{ out: 0x43, value: 0xc0 | select }] : []),
          ...reads,
          ...reads,
          { in: 0x61 },
        ];
      }),
      // The refresh bit of port 61h toggles with real time.
      {
        prologue: [0, 1, 2].flatMap((channel): Step[] => [
          { out: 0x43, value: (channel << 6) | 0x36 },
          { out: 0x40 + channel, value: 0 },
          { out: 0x40 + channel, value: 0 },
        ]),
        mask: (step) => "in" in step && step.in === 0x61 ? 0x23 : 0xff,
      },
    ),
});

const IOAPIC_INDEXES = [0, 1, 2, ...Array.from({ length: 48 }, (_, n) => 0x10 + n), 0x40, 0xff];

/** Bits of I/O APIC register `index` that exist; QEMU keeps what is written to the others. */
function ioapicBits(index: number): number {
  if (index < 0x10) return 0xffff_ffff;
  return (index & 1) !== 0 ? 0xff00_0000 : 0x1_ffff;
}

Deno.test({
  name: `the I/O APIC reads as QEMU's does${skipped}`,
  ignore: qemuMissing !== undefined,
  fn: () =>
    compare(
      fc.oneof(
        fc.record({
          index: fc.constantFrom(...IOAPIC_INDEXES),
          value: fc.integer({ min: 0, max: 0xffff_ffff }),
        }).map(({ index, value }): Step[] => [
          { store: 0xfec0_0000, value: index },
          { store: 0xfec0_0010, value: (value & ioapicBits(index)) >>> 0 },
          { load: 0xfec0_0010 },
        ]),
        fc.constantFrom(...IOAPIC_INDEXES).map((index): Step[] => [
          { store: 0xfec0_0000, value: index },
          { load: 0xfec0_0000 },
          { load: 0xfec0_0010 },
        ]),
      ),
      {
        prologue: [
          ...UARTS.map(([, line]): Step => ({ line, level: false })),
          { store: 0xfec0_0000, value: 0 },
          { store: 0xfec0_0010, value: 0 },
          ...Array.from({ length: 48 }, (_, n): Step[] => [
            { store: 0xfec0_0000, value: 0x10 + n },
            { store: 0xfec0_0010, value: (n & 1) === 0 ? 0x1_0000 : 0 },
          ]).flat(),
        ],
      },
    ),
});

const UART_RESET: readonly Step[] = [
  { out: 0x3fb, value: 0x80 },
  { out: 0x3f8, value: 12 },
  { out: 0x3f9, value: 0 },
  { out: 0x3fb, value: 0x00 },
  { out: 0x3f9, value: 0 },
  { out: 0x3fa, value: 1 },
  { out: 0x3fa, value: 0 },
  { out: 0x3fc, value: 0x10 },
  { out: 0x3f8, value: 0 },
  { in: 0x3f8 },
  { out: 0x3fc, value: 0 },
  { out: 0x3ff, value: 0 },
  { in: 0x3fd },
  { in: 0x3fa },
];

for (const fifo of [0, 1]) {
  Deno.test({
    name: `the UART ${fifo === 0 ? "without" : "with"} FIFOs reads as QEMU's does${skipped}`,
    ignore: qemuMissing !== undefined,
    fn: () =>
      compare(
        fc.oneof(
          {
            weight: 4,
            arbitrary: fc.integer({ min: 0x3f8, max: 0x3ff }).map((port): Step[] => [{ in: port }]),
          },
          {
            weight: 4,
            arbitrary: fc.record({ out: fc.constant(0x3f8), value: byte }).map((step) => [step]),
          },
          {
            weight: 3,
            // Not the modem interrupt: QEMU's loopback makes no changes of the modem status.
            arbitrary: byte.map((value): Step[] => [{ out: 0x3f9, value: value & ~0x08 }]),
          },
          {
            weight: 1,
            arbitrary: fc.record({ out: fc.constantFrom(0x3fb, 0x3fd, 0x3fe, 0x3ff), value: byte })
              .map((step) => [step]),
          },
          { weight: 1, arbitrary: fc.constant<Step[]>([{ out: 0x3fb, value: 3 }]) },
          { weight: 2, arbitrary: byte.map((value): Step[] => [{ out: 0x3fc, value }]) },
        ),
        {
          prologue: [...UART_RESET, { out: 0x3fa, value: fifo }],
          mask: (step) => "in" in step && step.in === 0x3fe ? 0xf0 : 0xff,
        },
      ),
  });
}

Deno.test({
  name: `the clock reads as QEMU's does${skipped}`,
  ignore: qemuMissing !== undefined,
  fn: async () => {
    const now = Date.parse("2026-03-01T17:34:56Z");
    const modes = [0x02, 0x06, 0x00, 0x04];
    const registers = [0, 2, 4, 6, 7, 8, 9, 0x32, 11, 13];
    const script = modes.flatMap((mode): Step[] => [
      { out: 0x70, value: 11 },
      { out: 0x71, value: mode },
      ...registers.flatMap((register): Step[] => [{ out: 0x70, value: register }, { in: 0x71 }]),
    ]);
    await using qemu = new QemuBench(["-rtc", "base=2026-03-01T17:34:56,clock=vm"]);
    const theirs = await qemu.run(script.map(toQtest));
    const ours = new Ours(() => now * 1e6).run(script);
    assert.deepEqual(ours.map(hex), theirs.map(hex));
  },
});

Deno.test({
  name: `the host bridge and the control ports read as QEMU's do${skipped}`,
  ignore: qemuMissing !== undefined,
  fn: async () => {
    const script = [
      "outl 0xcf8 0x80000000",
      "inl 0xcf8",
      "inl 0xcfc",
      "inw 0xcfe",
      "inb 0xcfd",
      "outl 0xcf8 0x80000008",
      "inw 0xcfe",
      "outl 0xcf8 0x80000100",
      "inl 0xcfc",
      "outl 0xcf8 0x8000f800",
      "inl 0xcfc",
      "outb 0x64 0xaa",
      "inb 0x64",
      "inb 0x60",
      "inb 0x64",
      "outb 0x64 0xab",
      "inb 0x60",
      "outb 0x60 0xee",
      "inb 0x60",
      "inl 0xed",
      "inw 0xed",
    ];
    await using qemu = new QemuBench([]);
    const theirs = await qemu.run(script);
    const platform = Platform.create({ irq: () => {} });
    const data = new DataView(new ArrayBuffer(8));
    const ours = script.map((line) => {
      const [verb, port, value] = line.split(" ") as [string, string, string?];
      const size = { b: 1, w: 2, l: 4 }[verb.at(-1) ?? "b"] ?? 1;
      data.setUint32(0, Number(value ?? 0), true);
      if (verb.startsWith("out")) {
        platform.portOut(Number(port), size, data);
        return 0;
      }
      platform.portIn(Number(port), size, data);
      return data.getUint32(0, true);
    });
    assert.deepEqual(
      ours.map((value, n) => `${script[n]} ${hex(value)}`),
      theirs.map((value, n) => `${script[n]} ${hex(value)}`),
    );
  },
});
