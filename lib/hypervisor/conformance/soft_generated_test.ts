/**
 * Generated integer code, each region compared with the interpreter: flags that are computed late, or
 * never, must be the ones that the interpreter has wherever something looks.
 */

import { openSoft } from "../soft/mod.ts";
import { Draw } from "./draw.ts";
import { Port } from "./layout.ts";
import { Helper, TestMachine } from "./machine.ts";

const GENERAL = [0, 1, 2, 3, 5, 6, 7];

function instruction(draw: Draw): number[] {
  const reg = () => draw.of(GENERAL);
  const modrm = (high: number) => 0xc0 | (high << 3) | reg();
  // Prefixes of 16, 32 and 64 bits.
  const wide = draw.of([[0x66], [], [0x48]]);
  switch (draw.below(13)) {
    case 0:
    case 1:
    case 2:
      return [...wide, 8 * draw.below(8) + 1, modrm(reg())];
    case 3:
      return [8 * draw.below(8), modrm(reg())];
    case 4:
      return [...wide, 0x83, modrm(draw.below(8)), draw.below(256)];
    case 5:
      return [...wide, 0xc1, modrm([0, 1, 4, 5, 7][draw.below(5)] as number), draw.below(70)];
    case 6:
      return [...wide, 0xff, modrm(draw.below(2))];
    case 7:
      return [...wide, 0xf7, modrm(2 + draw.below(2))];
    case 8:
      return [...wide, 0x0f, 0x40 + draw.below(16), modrm(reg())];
    case 9:
      return [0x0f, 0x90 + draw.below(16), modrm(0)];
    case 10:
      return draw.below(2) === 0
        ? [...wide, 0x0f, 0xaf, modrm(reg())]
        : [...wide, 0x0f, 0xa3, modrm(reg())];
    case 11:
      return [...wide, 0x0f, 0xc8 + reg()];
    default: {
      // A branch over another instruction; at times the flags are looked at as a whole (PUSHF and POP,
      // LAHF), or set so (SAHF, CMC, CLC, STC).
      if (draw.below(3) === 0) {
        return draw.of([[0x9c, 0x58], [0x9c, 0x58], [0x9f], [0x9e], [0xf5], [0xf8], [0xf9]]);
      }
      const over = instruction(draw);
      return [0x70 + draw.below(16), over.length, ...over];
    }
  }
}

Deno.test({
  name: "regions of generated integer code agree with the interpreter",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    const helper = await Helper.start();
    try {
      for (let seed = 1; seed <= 40; seed++) {
        const draw = new Draw(seed);
        using machine = new TestMachine({
          hypervisor: openSoft({ tier: "lockstep" }),
          helper,
          vcpuCount: 1,
        });
        machine.load(64, (a) => {
          a.mov("ecx", 0x1234_5678).mov("ebx", 0x8765_4321).mov("edx", 0x7fff_ffff);
          for (let i = 0; i < 250; i++) for (const byte of instruction(draw)) a.db(byte);
          a.out(Port.Done, "al");
        });
        machine.startLong();
        machine.run();
      }
    } finally {
      helper.stop();
    }
  },
});
