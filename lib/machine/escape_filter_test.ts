import assert from "node:assert/strict";
import fc from "fast-check";
import { EscapeFilter } from "./escape_filter.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

Deno.test("EscapeFilter: keys after Ctrl-a are actions, everything else is input", () => {
  const filter = new EscapeFilter();
  assert.deepEqual(filter.take(bytes("ls\r")), { bytes: bytes("ls\r"), actions: [] });
  assert.deepEqual(filter.take(bytes("a\x01xb\x01h\x01p\x01s")), {
    bytes: bytes("ab"),
    actions: ["exit", "help", "power-button", "toggle-suspend"],
  });
  assert.deepEqual(filter.take(bytes("\x01\x01\x01a")), { bytes: bytes("\x01\x01"), actions: [] });
  assert.deepEqual(filter.take(bytes("\x01q")), { bytes: bytes(""), actions: [] });
});

Deno.test("EscapeFilter: an escape may be split between reads", () => {
  const filter = new EscapeFilter();
  assert.deepEqual(filter.take(bytes("a\x01")), { bytes: bytes("a"), actions: [] });
  assert.deepEqual(filter.take(bytes("xb")), { bytes: bytes("b"), actions: ["exit"] });
});

Deno.test("EscapeFilter: how input is cut into reads changes nothing", () => {
  const input = fc.array(fc.constantFrom(0x01, 0x61, 0x78, 0x68, 0x62, 0xff), { maxLength: 40 });
  fc.assert(fc.property(input, fc.nat(40), (all, cut) => {
    const whole = new EscapeFilter().take(Uint8Array.from(all));
    const split = new EscapeFilter();
    const first = split.take(Uint8Array.from(all.slice(0, cut)));
    const second = split.take(Uint8Array.from(all.slice(cut)));
    assert.deepEqual([...first.bytes, ...second.bytes], [...whole.bytes]);
    assert.deepEqual([...first.actions, ...second.actions], whole.actions);
  }));
});
