/**
 * Address translation as generated code: page walks, filling of the software TLB, and the slow paths of loads
 * and stores.
 *
 * @module
 */

import type { FuncRef, ModuleBuilder } from "../../wasm/mod.ts";
import { Access } from "../state.ts";
import { buildChecked, buildLoad, buildProbe, buildStore, buildSystemAccess } from "./access.ts";
import { buildCodeSum } from "./code_sum.ts";
import type { Imports, MemoryMap, Mmu } from "./parts.ts";
import { buildFill, buildFlush, buildProtect, buildStackPage, buildTranslate } from "./tlb.ts";
import { buildRaise, buildRamOffset, buildWalk } from "./walk.ts";

export { codeMarksOf, type Imports, type MemoryMap, type Mmu, noticeCodeWrite } from "./parts.ts";
export { enterWritable, noteCodeEntry, noteEntry, protectModule } from "./tlb.ts";

/** Adds the translation functions to `module`. */
export function buildMmu(module: ModuleBuilder, imports: Imports, map: MemoryMap): Mmu {
  const raise = buildRaise(module, imports);
  const ramOffset = buildRamOffset(module);
  const walk = buildWalk(module, { raise, ramOffset });
  const fill = buildFill(module, { walk, ramOffset, map });
  const translate = buildTranslate(module, fill, map);
  const stackPage = buildStackPage(module);
  const probeWrite = buildProbe(module, translate);
  const checked = buildChecked(module, { raise, dataAccess: imports.dataAccess });
  const loadSlow = new Map<number, FuncRef>();
  const storeSlow = new Map<number, FuncRef>();
  const modifySlow = new Map<number, FuncRef>();
  for (const size of [1, 2, 4, 8]) {
    const parts = { size, translate, probeWrite, checked, imports, map };
    loadSlow.set(size, buildLoad(module, { ...parts, access: Access.read, byte: loadSlow.get(1) }));
    storeSlow.set(size, buildStore(module, { ...parts, byte: storeSlow.get(1) }));
    modifySlow.set(
      size,
      buildLoad(module, { ...parts, access: Access.write, byte: loadSlow.get(1) }),
    );
  }
  const protect = buildProtect(module, map);
  const { seal, codeIntact } = buildCodeSum(module, map);
  buildFlush(module);
  buildSystemAccess(module, { walk, ramOffset, imports, map });
  return {
    loadSlow,
    storeSlow,
    modifySlow,
    stackPage,
    probeWrite,
    translate,
    checked,
    raise,
    walk,
    ramOffset,
    codeIntact,
    seal,
    protect,
  };
}
