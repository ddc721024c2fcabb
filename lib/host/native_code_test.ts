import assert from "node:assert/strict";
import { mmap } from "./mapping.ts";
import { NativeCode, protect, Protection } from "./native_code.ts";

const isX64 = Deno.build.arch === "x86_64";

Deno.test({
  name: isX64 ? "machine code is called" : "machine code is called (skipped: not x86-64)",
  ignore: !isX64,
  fn() {
    using code = new NativeCode(4096);
    using memory = mmap(4096);
    code.bytes.set([0x48, 0x89, 0x37, 0xc3], 16); // mov [rdi], rsi; ret
    const store = code.entry(16);
    store(memory.address + 8n, 0x1234_5678_9abc_def0n);
    assert.equal(memory.view.getBigUint64(8, true), 0x1234_5678_9abc_def0n);
    assert.equal(memory.view.getBigUint64(0, true), 0n);
  },
});

Deno.test("protections change and keep what is there", () => {
  using memory = mmap(8192);
  memory.bytes[0] = 7;
  protect(memory.address, 4096, Protection.Read);
  assert.equal(memory.bytes[0], 7);
  protect(memory.address, 4096, Protection.Read | Protection.Write);
  memory.bytes[0] = 8;
  assert.equal(memory.bytes[0], 8);
  assert.throws(() => protect(memory.address + 1n, 4096, Protection.Read), { code: "EINVAL" });
});
