/**
 * Ring 3 of a test guest in long mode.
 *
 * @module
 */

import { type Assembler, at, ref } from "./asm/mod.ts";
import { CODE, Selector, USER_STACK } from "./layout.ts";
import type { TestMachine } from "./machine.ts";
import { type PageTables, Pte } from "./tables.ts";

/** Settings of {@link enterUser}. */
export interface EnterUserOptions {
  readonly selector?: number;
  readonly flags?: number;
}

/** IRET to `label` in ring 3. Clobbers rax. */
export function enterUser(a: Assembler, label: string, options: EnterUserOptions = {}): Assembler {
  const { selector = Selector.UserCode64, flags = 2 } = options;
  a.push(Selector.UserData).push(USER_STACK).push(flags).push(selector);
  return a.lea("rax", at("rip", { disp: ref(label) })).push("rax").iret();
}

/** Lets ring 3 at the code, at its stack, and at `pages`. */
export function openToUser(
  machine: TestMachine,
  tables: PageTables,
  pages: readonly number[] = [],
): void {
  for (const page of [CODE, USER_STACK - 1 & ~0xfff, ...pages]) {
    tables.map(page, page, { flags: Pte.Present | Pte.Write | Pte.User });
    for (const level of [4, 3, 2] as const) {
      const address = tables.tableEntryAddress(page, level);
      machine.memory.writeU64(address, machine.memory.readU64(address) | Pte.User);
    }
  }
}
