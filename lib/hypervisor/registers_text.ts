/**
 * Registers as text, for error messages of all engines.
 *
 * @module
 */

import { hex } from "../base/mod.ts";
import type { Regs, Sregs } from "./types.ts";

const GENERAL = [
  ...["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"] as const,
  ...["r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"] as const,
];
const SEGMENTS = ["cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"] as const;
const TABLES = ["gdt", "idt"] as const;
const SYSTEM = ["cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apicBase"] as const;

/** A few lines that tell where a processor stands, for error messages. */
export function formatRegisters(regs: Regs, sregs: Sregs): string {
  const word = (value: bigint) => hex(value, 16);
  const general = GENERAL.map((name) => `${name}=${word(regs[name])}`);
  const lines: string[] = [];
  while (general.length > 0) lines.push(general.splice(0, 4).join(" "));
  for (const name of SEGMENTS) {
    const segment = sregs[name];
    const bits = segment.l ? "64-bit" : segment.db ? "32-bit" : "16-bit";
    lines.push(
      `${name}=${hex(segment.selector, 4)} base=${hex(segment.base)} limit=${hex(segment.limit)}` +
        ` type=${hex(segment.type)} dpl=${segment.dpl} ${bits}${
          segment.unusable ? " unusable" : ""
        }`,
    );
  }
  for (const name of TABLES) {
    lines.push(`${name} base=${hex(sregs[name].base)} limit=${hex(sregs[name].limit)}`);
  }
  lines.push(SYSTEM.map((name) => `${name}=${hex(sregs[name])}`).join(" "));
  return lines.join("\n");
}
