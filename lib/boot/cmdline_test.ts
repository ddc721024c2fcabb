import assert from "node:assert/strict";
import fc from "fast-check";
import { buildCmdline, encodeCmdline } from "./cmdline.ts";
import { BootError } from "./errors.ts";

Deno.test("defaults come first, the user's parameters last", () => {
  assert.equal(
    buildCmdline(["panic=5", " quiet "], { console: "ttyS0" }),
    "reboot=k panic=-1 console=ttyS0 panic=5 quiet",
  );
  assert.equal(buildCmdline(["", " "]), "reboot=k panic=-1");
});

Deno.test("a command line is printable ASCII with a NUL, or refused", () => {
  fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => {
    const printable = /^[\x20-\x7e]*$/.test(text) && text.length <= 20;
    if (!printable) return assert.throws(() => encodeCmdline(text, 20), BootError);
    const bytes = encodeCmdline(text, 20);
    assert.equal(new TextDecoder().decode(bytes), text + "\0");
  }));
});
