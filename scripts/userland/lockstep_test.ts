import assert from "node:assert/strict";
import { readDifference } from "./lockstep.ts";

const STDERR = `vmctl: something before
error machine: vCPU 0 failed: region at 0xffffffff81669bd3, 2 instructions: region and interpreter differ:
rax: region 0000000000000001, interpreter 0000000000000000
before: rax=0x0
rflags=0x6
instructions, in the order of their first execution:
0xffffffff81669bda 1 8a1a
0xffffffff81669b86 3 4883c0104939c0
module in base64:
AGFzbQ
EAAAA=
and something behind`;

Deno.test("a difference of lockstep is told with the guest's code disassembled", () => {
  const { text, module } = readDifference(STDERR) ?? assert.fail("nothing was read");
  assert.match(text, /^rax: region 0{15}1, interpreter 0{16}$/m);
  assert.match(text, /^0xffffffff81669bda {2}8a1a +mov bl,\[rdx\] {2}\(1 times\)$/m);
  assert.match(text, /^0xffffffff81669b86 {2}4883c010 +add rax,10h {2}\(3 times\)$/m);
  assert.ok(!text.includes("base64"));
  assert.deepEqual(module, Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0));
  assert.equal(readDifference("error machine: vCPU 0 failed: something else\n"), undefined);
});
