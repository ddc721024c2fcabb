import { strict as assert } from "node:assert";
import * as fc from "fast-check";
import { GuestClock } from "../../hypervisor/mod.ts";
import { Platform } from "./platform.ts";
import { PORT_DEVICES } from "./ports.ts";
import { TestPlatform } from "./testing.ts";
import { PlatformRequest } from "./wiring.ts";

Deno.test("unknown ports and addresses read all ones and swallow writes", () => {
  const t = new TestPlatform();
  for (const port of [0x00, 0x80, 0xed, 0x3c0, 0x1234, 0xffff]) {
    t.out(port, 0x1234_5678, 4);
    assert.equal(t.in(port, 1), 0xff);
    assert.equal(t.in(port, 2), 0xffff);
    assert.equal(t.in(port, 4), 0xffff_ffff);
  }
  const data = new DataView(new ArrayBuffer(8));
  t.platform.mmioWrite(0xd000_0000, 8, data);
  t.platform.mmioRead(0xd000_0000, 8, data);
  assert.equal(data.getBigUint64(0), 0xffff_ffff_ffff_ffffn);
});

Deno.test("wide accesses to byte registers are split", () => {
  const t = new TestPlatform();
  t.out(0x3fe, 0xa5_00, 2);
  assert.equal(t.in(0x3ff), 0xa5);
  assert.equal(t.in(0x3fc, 4) >>> 24, 0xa5);
  assert.equal(t.in(0x3ff, 2), 0xffa5, "beyond the device there is nothing");
});

Deno.test("PCI configuration finds the host bridge and nothing else", () => {
  const t = new TestPlatform();
  t.out(0xcfb, 0x01); // Linux's test for mechanism 1.
  t.out(0xcf8, 0x8000_0000, 4);
  assert.equal(t.in(0xcf8, 4), 0x8000_0000);
  assert.equal(t.in(0xcfc, 4), 0x1237_8086);
  assert.equal(t.in(0xcfe, 2), 0x1237);
  assert.equal(t.in(0xcfd), 0x80);
  t.out(0xcf8, 0x8000_0008, 4);
  assert.equal(t.in(0xcfe, 2), 0x0600);
  t.out(0xcf8, 0x8000_0004, 4);
  t.out(0xcfc, 0xffff, 2);
  assert.equal(t.in(0xcfc, 2), 0x0007);
  for (const address of [0x8000_0800, 0x8000_0100, 0x8001_0000, 0x80ff_f800]) {
    t.out(0xcf8, address, 4);
    assert.equal(t.in(0xcfc, 4), 0xffff_ffff, address.toString(16));
  }
  t.out(0xcf8, 0, 4);
  assert.equal(t.in(0xcfc, 4), 0xffff_ffff, "not enabled");
});

Deno.test("a PCI function put on the bus is there for every worker, and its BAR can be sized", () => {
  const t = new TestPlatform();
  const other = Platform.attach(t.platform.handle(), { irq: () => {} });
  const config = new Uint8Array(64);
  config.set([0xf4, 0x1a, 0x44, 0x10]);
  const writable = new Uint8Array(64);
  writable.set([0x00, 0xf0, 0xff, 0xff], 0x10);
  other.pci.install({ device: 3, config, writable });
  const writes: number[][] = [];
  t.platform.pci.attach(3, { configWritten: (offset, size) => writes.push([offset, size]) });
  const { words, index } = other.pci.configuredEvent;
  t.out(0xcf8, 0x8000_1810, 4);
  t.in(0xcfc, 4);
  assert.equal(words[index], 0, "it was only looked at");
  t.out(0xcfc, 0xffff_ffff, 4);
  assert.equal(words[index], 1);
  assert.equal(t.in(0xcfc, 4), 0xffff_f000);
  assert.deepEqual(writes, [[0x10, 4]]);
  assert.equal(other.pci.configSpace(3)[0x13], 0xff);
  assert.throws(() => other.pci.install({ device: 32, config }), RangeError);
});

Deno.test("a BAR answers where the guest decodes it, in the worker that has a handler", () => {
  const t = new TestPlatform();
  const { pci } = t.platform;
  const data = new DataView(new ArrayBuffer(8));
  const accesses: unknown[] = [];
  const config = Uint8Array.of(0xf4, 0x1a, 0x44, 0x10);
  const writable = new Uint8Array(8);
  writable[4] = 2;
  const bars = [
    { index: 0, sizeBytes: 0x2000, address: 0xc000_0000 },
    { index: 2, sizeBytes: 0x1000, address: 0x12_3456_7000 },
  ];
  pci.install({ device: 7, config, writable, bars });
  pci.attach(7, {
    barRead: (bar, offset, size, data) => {
      accesses.push(["read", bar, offset, size]);
      data.setUint32(0, 0x1234_5678, true);
    },
    barWrite: (bar, offset, size) => accesses.push(["write", bar, offset, size]),
  });
  t.platform.mmioRead(0xc000_0010, 4, data);
  assert.equal(data.getUint32(0), 0xffff_ffff, "memory is not enabled");
  t.out(0xcf8, 0x8000_3804, 4);
  t.out(0xcfc, 2, 2);
  assert.equal(pci.barPage(7, 0), 0xc0000);
  assert.equal(pci.barPage(7, 2), 0x12_34567);
  t.platform.mmioRead(0xc000_1ffc, 4, data);
  assert.equal(data.getUint32(0, true), 0x1234_5678);
  t.platform.mmioWrite(0x12_3456_7008, 8, data);
  t.platform.mmioWrite(0xc000_2000, 4, data);
  assert.deepEqual(accesses, [["read", 0, 0x1ffc, 4], ["write", 2, 8, 8]]);
  // Beyond the addresses that there are, it is nowhere.
  t.out(0xcf8, 0x8000_3814, 4);
  t.out(0xcfc, 0x1000, 4);
  assert.equal(pci.barPage(7, 0), 0);
  const other = Platform.attach(t.platform.handle(), { irq: () => {} });
  other.mmioRead(0x12_3456_7000, 4, data);
  assert.equal(data.getUint32(0), 0xffff_ffff, "that worker has no handler");
  assert.equal(other.pci.barPage(7, 2), 0x12_34567);
  const odd = { index: 0, sizeBytes: 0x3000, address: 0 };
  assert.throws(() => pci.install({ device: 8, config, bars: [odd] }), RangeError);
});

Deno.test("the power button raises SCI as a level until its status is cleared", () => {
  const t = new TestPlatform();
  t.out(0x602, 0x0100, 2);
  t.platform.pressPowerButton();
  assert.equal(t.line(9), true);
  assert.equal(t.in(0x600, 2), 0x0100);
  assert.equal(t.in(0x600, 4), 0x0100_0100);
  t.out(0x600, 0x0001, 2);
  assert.equal(t.line(9), true, "another bit");
  t.out(0x600, 0x0100, 2);
  assert.equal(t.line(9), false);
  t.platform.raiseGpe(5);
  assert.equal(t.line(9), false);
  t.out(0x622, 0x20);
  assert.equal(t.line(9), true);
  t.out(0x620, 0x20);
  assert.equal(t.line(9), false);
});

Deno.test("S5 powers off, other sleep types do not", () => {
  const t = new TestPlatform();
  assert.equal(t.in(0x604, 2), 0x0001, "always in ACPI mode");
  t.out(0x604, (3 << 10) | 0x2001, 2);
  assert.equal(t.platform.stopRequested, false);
  t.out(0x604, (5 << 10) | 0x0001, 2);
  assert.equal(t.platform.stopRequested, false, "type without enable");
  t.out(0x604, (5 << 10) | 0x2001, 2);
  assert.equal(t.platform.requested, PlatformRequest.PowerOff);
  t.out(0xcf9, 0x06);
  assert.equal(t.platform.requested, PlatformRequest.PowerOff, "the first request stays");
});

Deno.test("the reset port resets when its CPU bit is set", () => {
  const t = new TestPlatform();
  t.out(0xcf9, 0x02);
  assert.equal(t.in(0xcf9), 0x02);
  assert.equal(t.platform.stopRequested, false);
  t.out(0xcf9, 0x06);
  assert.equal(t.platform.requested, PlatformRequest.Reset);
});

Deno.test("a guest panic is a request, a loaded crash kernel a note", () => {
  const t = new TestPlatform();
  assert.equal(t.in(0x505), 0x03);
  t.out(0x505, 0x02);
  assert.equal(t.platform.crashKernelLoaded, true);
  assert.equal(t.platform.stopRequested, false);
  t.out(0x505, 0x01);
  assert.equal(t.platform.requested, PlatformRequest.GuestPanic);
});

Deno.test("a request wakes who waits for it, in any worker", async () => {
  const t = new TestPlatform();
  const other = Platform.attach(t.platform.handle(), { irq: () => {} });
  const { words, index } = other.requestEvent;
  const wait = Atomics.waitAsync(words, index, PlatformRequest.None, 10_000);
  assert.equal(wait.async, true);
  t.out(0x604, (5 << 10) | 0x2001, 2);
  assert.equal(await wait.value, "ok");
  assert.equal(other.requested, PlatformRequest.PowerOff);
});

Deno.test("the power management timer counts guest time at 3.579545 MHz and stands in a pause", () => {
  let now = 1e9;
  const clock = GuestClock.create({ hostNow: () => now });
  const platform = Platform.create({ irq: () => {}, clock });
  const data = new DataView(new ArrayBuffer(8));
  const read = () => {
    platform.portIn(0x608, 4, data);
    return data.getUint32(0, true);
  };
  assert.equal(read(), 0);
  now += 1e9;
  assert.equal(read(), 3_579_545);
  platform.pauseClock();
  now += 1e9;
  assert.equal(read(), 3_579_545);
  platform.resumeClock();
  now += 1e9;
  assert.equal(read(), 2 * 3_579_545);
  now += 2000e9;
  assert.ok(read() < 0x1_0000_0000, "wraps at 32 bits");
});

Deno.test("debug port output goes to its sink", () => {
  const t = new TestPlatform();
  assert.equal(t.in(0x402), 0xe9);
  for (const byte of new TextEncoder().encode("SeaBIOS")) t.out(0x402, byte);
  assert.equal(t.text(2), "SeaBIOS");
});

Deno.test("flush comes after the lock is free", () => {
  let during: number | undefined;
  const data = new DataView(new ArrayBuffer(8));
  const platform: Platform = Platform.create({
    irq: () => {},
    serial: [{
      write: () => {},
      flush: () => during = platform.serial(1).receive(new Uint8Array(1)),
    }],
  });
  data.setUint8(0, 2);
  platform.portOut(0x3fc, 1, data); // RTS
  platform.portOut(0x3f8, 1, data);
  assert.equal(during, 1);
});

Deno.test("a storm of random accesses never throws and leaves no lock held", () => {
  const known = [...PORT_DEVICES.keys()].filter((port) => PORT_DEVICES[port] !== 0);
  const access = fc.record({
    port: fc.oneof({ weight: 9, arbitrary: fc.constantFrom(...known) }, {
      weight: 1,
      arbitrary: fc.integer({ min: 0, max: 0xffff }),
    }),
    size: fc.constantFrom(1, 2, 4),
    value: fc.option(fc.integer({ min: 0, max: 0xffff_ffff })),
  });
  fc.assert(
    fc.property(fc.array(access, { maxLength: 200 }), (accesses) => {
      const t = new TestPlatform();
      for (const { port, size, value } of accesses) {
        if (value === null) t.in(port, size);
        else t.out(port, value, size);
      }
      t.platform.runTimers();
      t.platform.nextTimerMs();
      t.platform.pressPowerButton();
      // Each of these waits forever where a lock was left held.
      for (let port = 0; port < 0x1_0000; port++) if (PORT_DEVICES[port] !== 0) t.in(port);
      for (const uart of [t.platform.serial(1), t.platform.serial(2)]) {
        uart.receive(new Uint8Array(4));
      }
    }),
    { numRuns: 50 },
  );
});
