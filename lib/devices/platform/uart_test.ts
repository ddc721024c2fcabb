import { strict as assert } from "node:assert";
import { TestPlatform } from "./testing.ts";

const COM1 = 0x3f8;
const IRQ = 4;
const bytes = (text: string) => new TextEncoder().encode(text);

/** The register accesses of Linux's 8250 autoconfiguration (drivers/tty/serial/8250, autoconfig). */
Deno.test("Linux's autoconfiguration finds a 16550A", () => {
  const t = new TestPlatform();
  const r = (n: number) => t.in(COM1 + n);
  const w = (n: number, value: number) => t.out(COM1 + n, value);
  const ier = r(1);
  w(1, 0);
  t.out(0x80, 0);
  assert.equal(r(1) & 0x0f, 0);
  w(1, 0x0f);
  t.out(0x80, 0);
  assert.equal(r(1) & 0x0f, 0x0f);
  w(1, ier);
  const mcr = r(4);
  w(4, 0x10 | 0x0a);
  assert.equal(r(6) & 0xf0, 0x90, "loopback test");
  w(4, mcr);
  w(3, 0xbf);
  w(2, 0);
  w(3, 0);
  w(2, 0x01);
  assert.equal(r(2) >> 6, 3, "16550A");
  // Extended parts have an enhanced feature register, or a 64-byte FIFO; this one must not.
  w(3, 0x80);
  assert.notEqual(r(2), 0);
  w(3, 0xbf);
  assert.notEqual(r(2), 0);
  w(3, 0);
  w(2, 0x21);
  assert.equal(r(2) >> 5, 6);
  w(2, 0x01);
  w(1, 0x40);
  assert.equal(r(1) & 0x40, 0, "not an XScale part");
  w(7, 0xa5);
  assert.equal(r(7), 0xa5);
  assert.deepEqual(t.output[0], []);
});

Deno.test("the transmitter sends at once and interrupts when it is empty", () => {
  const t = new TestPlatform();
  t.out(COM1 + 2, 0x07);
  for (const byte of bytes("boot")) {
    assert.equal(t.in(COM1 + 5) & 0x60, 0x60);
    t.out(COM1, byte);
  }
  assert.equal(t.text(0), "boot");
  assert.equal(t.line(IRQ), false);
  t.out(COM1 + 1, 0x02);
  assert.equal(t.line(IRQ), true, "enabling the interrupt raises it");
  assert.equal(t.in(COM1 + 2), 0xc2);
  assert.equal(t.line(IRQ), false, "reading it clears it");
  assert.equal(t.in(COM1 + 2), 0xc1);
  for (const byte of bytes("ing")) t.out(COM1, byte);
  assert.equal(t.line(IRQ), true);
  assert.equal(t.edges.get(IRQ), 2);
  t.out(COM1 + 1, 0);
  assert.equal(t.line(IRQ), false);
  assert.equal(t.text(0), "booting");
});

Deno.test("the receiver takes a FIFO full, says data or timeout, and asks for more when it is empty", () => {
  const t = new TestPlatform();
  const uart = t.platform.serial(1);
  t.out(COM1 + 2, 0x81); // Trigger at 8.
  t.out(COM1 + 4, 0x0b);
  t.out(COM1 + 1, 0x05);
  const input = bytes("0123456789abcdefXYZ");
  const before = uart.roomEvent.words[uart.roomEvent.index];
  assert.equal(uart.receive(input), 16);
  assert.equal(uart.receive(input), 0);
  assert.equal(t.line(IRQ), true);
  assert.equal(t.in(COM1 + 2), 0xc4);
  let text = "";
  for (let n = 0; n < 9; n++) text += String.fromCharCode(t.in(COM1));
  assert.equal(t.in(COM1 + 2), 0xcc, "below the trigger level");
  while ((t.in(COM1 + 5) & 1) !== 0) text += String.fromCharCode(t.in(COM1));
  assert.equal(text, "0123456789abcdef");
  assert.equal(t.line(IRQ), false);
  assert.notEqual(uart.roomEvent.words[uart.roomEvent.index], before);
  assert.equal(uart.receive(input.subarray(16)), 3);
});

Deno.test("without FIFOs there is room for one character", () => {
  const t = new TestPlatform();
  t.out(COM1 + 4, 0x02);
  assert.equal(t.platform.serial(1).receive(bytes("ab")), 1);
  assert.equal(t.in(COM1 + 5), 0x61);
  assert.equal(t.in(COM1), 0x61);
  assert.equal(t.in(COM1 + 5), 0x60);
});

Deno.test("a guest that uses modem control gets no input before it asserts RTS", () => {
  const t = new TestPlatform();
  const uart = t.platform.serial(1);
  t.out(COM1 + 2, 1);
  t.out(COM1 + 4, 0x09);
  assert.equal(uart.receive(bytes("a")), 0);
  const before = uart.roomEvent.words[uart.roomEvent.index];
  t.out(COM1 + 4, 0x0b);
  assert.notEqual(uart.roomEvent.words[uart.roomEvent.index], before);
  assert.equal(uart.receive(bytes("a")), 1);
  t.out(COM1 + 4, 0x1b);
  assert.equal(uart.receive(bytes("b")), 0, "nothing comes in during loopback");
});

Deno.test("Linux, which asserts DTR and enables the interrupt, gets input from RTS on", () => {
  const t = new TestPlatform();
  const uart = t.platform.serial(1);
  t.out(COM1 + 2, 1);
  t.out(COM1 + 4, 0x01);
  t.out(COM1 + 4, 0x09);
  t.out(COM1 + 1, 0x05);
  assert.equal(uart.receive(bytes("a")), 0);
  t.out(COM1 + 4, 0x0b);
  assert.equal(uart.receive(bytes("a")), 1);
});

Deno.test("a guest that does not use RTS gets input once it enables the interrupt or polls", () => {
  const t = new TestPlatform();
  const uart = t.platform.serial(1);
  const room = () => uart.roomEvent.words[uart.roomEvent.index];
  t.out(COM1 + 4, 0);
  assert.equal(uart.receive(bytes("a")), 0);
  let before = room();
  t.out(COM1 + 1, 1);
  assert.notEqual(room(), before);
  assert.equal(uart.receive(bytes("a")), 1);
  t.in(COM1);
  t.out(COM1 + 1, 0);
  assert.equal(uart.receive(bytes("b")), 0);
  // Looking once for each character that it sends is not polling for input.
  for (let n = 0; n < 100; n++) {
    t.in(COM1 + 5);
    t.out(COM1, 0x2e);
  }
  assert.equal(uart.receive(bytes("b")), 0);
  before = room();
  for (let n = 0; n < 16; n++) t.in(COM1 + 5);
  assert.notEqual(room(), before);
  assert.equal(uart.receive(bytes("b")), 1);
  t.in(COM1);
  // From here on it uses RTS.
  t.out(COM1 + 4, 2);
  assert.equal(uart.receive(bytes("c")), 1);
  t.out(COM1 + 4, 0);
  t.in(COM1);
  t.out(COM1 + 1, 1);
  assert.equal(uart.receive(bytes("d")), 0);
});

Deno.test("loopback returns data and modem lines, overruns, and sends nothing", () => {
  const t = new TestPlatform();
  t.out(COM1 + 2, 0x07);
  t.out(COM1 + 4, 0x10);
  for (let n = 0; n < 17; n++) t.out(COM1, n);
  assert.equal(t.in(COM1 + 5), 0x63, "data and overrun");
  assert.equal(t.in(COM1 + 5), 0x61, "reading it clears the error");
  for (let n = 0; n < 16; n++) assert.equal(t.in(COM1), n);
  assert.deepEqual(t.output[0], []);
  t.in(COM1 + 6);
  for (const [mcr, msr] of [[0x11, 0x22], [0x12, 0x13], [0x14, 0x41], [0x18, 0x8c]] as const) {
    t.out(COM1 + 4, mcr);
    assert.equal(t.in(COM1 + 6), msr, mcr.toString(16));
  }
  t.out(COM1 + 1, 0x08);
  t.out(COM1 + 4, 0x10);
  assert.equal(t.line(IRQ), true);
  assert.equal(t.in(COM1 + 2), 0xc0, "modem status");
  t.in(COM1 + 6);
  assert.equal(t.line(IRQ), false);
});

Deno.test("the divisor hides behind DLAB", () => {
  const t = new TestPlatform();
  t.out(COM1 + 3, 0x83);
  t.out(COM1, 1);
  t.out(COM1 + 1, 2);
  assert.equal(t.in(COM1), 1);
  assert.equal(t.in(COM1 + 1), 2);
  t.out(COM1 + 3, 0x03);
  assert.equal(t.in(COM1 + 1), 0);
  assert.equal(t.in(COM1 + 3), 0x03);
  assert.deepEqual(t.output[0], []);
});

Deno.test("a break is a NUL with its error", () => {
  const t = new TestPlatform();
  t.out(COM1 + 2, 1);
  t.out(COM1 + 1, 0x04);
  t.platform.serial(1).receiveBreak();
  assert.equal(t.in(COM1 + 2), 0xc6);
  assert.equal(t.in(COM1 + 5), 0x71);
  assert.equal(t.in(COM1), 0);
  assert.equal(t.line(IRQ), false);
});

Deno.test("COM2 is another port with another interrupt", () => {
  const t = new TestPlatform();
  t.out(0x2f8, 0x41);
  t.out(0x2f9, 0x02);
  assert.equal(t.text(1), "A");
  assert.equal(t.line(3), true);
  assert.equal(t.line(4), false);
});
