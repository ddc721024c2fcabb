import { strict as assert } from "node:assert";
import * as fc from "fast-check";
import { DAY_SECONDS, daysOfDate, packedDate, weekdayOf } from "./calendar.ts";
import { Rtc, RTC_WORDS } from "./rtc.ts";

/** The periodic flag rises whether or not its interrupt is enabled. */
const PERIODIC = 0x40;

class Clock {
  nowNs: number;
  line = false;
  readonly rtc: Rtc;

  constructor(time: string) {
    this.nowNs = Date.parse(time) * 1e6;
    this.rtc = new Rtc(new Int32Array(new SharedArrayBuffer(RTC_WORDS * 4)), {
      gsi: 8,
      irq: (gsi, level) => {
        assert.equal(gsi, 8);
        this.line = level;
      },
      nowNs: () => this.nowNs,
    });
    this.rtc.reset({ lowBytes: 0xc000_0000, highBytes: 0x1_4000_0000 });
  }

  read(register: number): number {
    this.rtc.writeIndex(register);
    return this.rtc.readData();
  }

  write(register: number, value: number): void {
    this.rtc.writeIndex(register);
    this.rtc.writeData(value);
  }

  time(): number[] {
    return [0x32, 9, 8, 7, 6, 4, 2, 0].map((register) => this.read(register));
  }

  pass(seconds: number): void {
    this.nowNs += seconds * 1e9;
    this.rtc.runTimer();
  }
}

Deno.test("the clock shows the host's time in UTC, in BCD or binary, 24 or 12 hours", () => {
  const c = new Clock("2028-02-29T23:59:58.500Z"); // A Tuesday.
  assert.deepEqual(c.time(), [0x20, 0x28, 0x02, 0x29, 3, 0x23, 0x59, 0x58]);
  c.write(11, 0x06);
  assert.deepEqual(c.time(), [20, 28, 2, 29, 3, 23, 59, 58]);
  c.write(11, 0x04);
  assert.equal(c.read(4), 0x80 | 11);
  c.pass(1.5);
  assert.equal(c.read(4), 12, "midnight is 12 AM");
  c.write(11, 0x02);
  assert.deepEqual(c.time(), [0x20, 0x28, 0x03, 0x01, 4, 0, 0, 0]);
  assert.equal(c.read(13), 0x80);
});

Deno.test("the update flag rises shortly before the second changes", () => {
  const c = new Clock("2026-01-01T00:00:00.000Z");
  assert.equal(c.read(10), 0x26);
  c.nowNs += 1e9 - 200_000;
  assert.equal(c.read(10), 0xa6);
  c.nowNs += 200_000;
  assert.equal(c.read(10), 0x26);
});

Deno.test("the guest sets its clock as Linux does, and the host's goes on underneath", () => {
  const c = new Clock("2026-06-01T12:00:00.250Z");
  const control = c.read(11);
  c.write(11, control | 0x80);
  const select = c.read(10);
  c.write(10, select | 0x70);
  for (
    const [register, value] of [
      [9, 0x99],
      [8, 0x12],
      [7, 0x31],
      [4, 0x23],
      [2, 0x59],
      [0, 0x50],
      [0x32, 0x19],
    ] as const
  ) c.write(register, value);
  c.nowNs += 3e9;
  assert.equal(c.read(0), 0x50, "time stands while it is set");
  c.write(11, control);
  c.write(10, select);
  assert.deepEqual(c.time(), [0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x50]);
  c.nowNs += 10e9;
  assert.deepEqual(c.time(), [0x20, 0x00, 0x01, 0x01, 7, 0, 0, 0]);
});

Deno.test("update interrupts come each second until they are off", () => {
  const c = new Clock("2026-01-01T00:00:00.400Z");
  assert.equal(c.rtc.nextDeadlineSeconds(), Infinity);
  const before = c.rtc.timerEvent.words[c.rtc.timerEvent.index];
  c.write(11, 0x12);
  assert.notEqual(c.rtc.timerEvent.words[c.rtc.timerEvent.index], before);
  assert.ok(Math.abs(c.rtc.nextDeadlineSeconds() - 0.6) < 1e-6);
  c.pass(0.6);
  assert.equal(c.line, true);
  assert.equal(c.rtc.nextDeadlineSeconds(), Infinity, "not before it is taken");
  assert.equal(c.read(12) & ~PERIODIC, 0x90);
  assert.equal(c.line, false);
  assert.equal(c.read(12), 0);
  c.pass(1);
  assert.equal(c.line, true);
  c.write(11, 0x02);
  assert.equal(c.line, false);
});

Deno.test("alarms match with wildcards, across midnight", () => {
  const c = new Clock("2026-01-01T22:30:00.000Z");
  const alarm = (hour: number, minute: number, second: number) => {
    c.write(5, hour);
    c.write(3, minute);
    c.write(1, second);
  };
  c.write(11, 0x22);
  alarm(0x06, 0x15, 0x30);
  assert.equal(c.rtc.nextDeadlineSeconds(), 7.75 * 3600 + 30);
  alarm(0xff, 0x15, 0x30);
  assert.equal(c.rtc.nextDeadlineSeconds(), 45 * 60 + 30);
  alarm(0xff, 0xff, 0xff);
  assert.equal(c.rtc.nextDeadlineSeconds(), 1);
  alarm(0x22, 0x30, 0x00);
  assert.equal(c.rtc.nextDeadlineSeconds(), DAY_SECONDS, "this very second is over");
  alarm(0x99, 0x00, 0x00);
  assert.equal(c.rtc.nextDeadlineSeconds(), Infinity);
  alarm(0x22, 0x30, 0x02);
  c.pass(1);
  assert.equal(c.line, false);
  c.pass(1);
  assert.equal(c.line, true);
  assert.equal(c.read(12) & ~PERIODIC, 0xb0);
});

Deno.test("the periodic interrupt has the programmed rate", () => {
  const c = new Clock("2026-01-01T00:00:00.000Z");
  c.write(10, 0x2a); // 64 Hz.
  c.write(11, 0x42);
  let count = 0;
  for (let n = 0; n < 640; n++) {
    c.pass(1 / 640);
    if (c.line) {
      assert.equal(c.read(12) & 0xc0, 0xc0);
      count++;
    }
  }
  assert.ok(count >= 63 && count <= 65, `${count}`);
});

Deno.test("CMOS memory keeps bytes and knows the memory's size", () => {
  const c = new Clock("2026-01-01T00:00:00.000Z");
  c.write(0x0f, 0xa5);
  assert.equal(c.read(0x0f), 0xa5);
  assert.equal(c.read(0x15) | (c.read(0x16) << 8), 640);
  assert.equal(c.read(0x34) | (c.read(0x35) << 8), (0xc000_0000 - 0x100_0000) / 0x1_0000);
  assert.equal(
    c.read(0x5b) | (c.read(0x5c) << 8) | (c.read(0x5d) << 16),
    0x1_4000_0000 / 0x1_0000,
  );
});

Deno.test("the calendar agrees with the language's", () => {
  fc.assert(fc.property(fc.integer({ min: -700_000, max: 2_900_000 }), (days) => {
    const date = new Date(days * DAY_SECONDS * 1000);
    const packed = packedDate(days);
    assert.deepEqual(
      [packed >> 9, (packed >> 5) & 15, packed & 31],
      [date.getUTCFullYear(), date.getUTCMonth() + 1, date.getUTCDate()],
    );
    assert.equal(daysOfDate(packed >> 9, (packed >> 5) & 15, packed & 31), days);
    assert.equal(weekdayOf(days), date.getUTCDay() + 1);
  }));
});
