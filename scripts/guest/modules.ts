/**
 * Modules of the guest's kernel for an initramfs, with what they depend on, so that `modprobe` works.
 *
 * @module
 */

import { readdir, readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { CpioEntry } from "./cpio.ts";
import type { Guest } from "./debian.ts";

interface Module {
  /** Below the folder of the kernel's release. */
  readonly path: string;
  readonly data: Uint8Array;
  /** Names of those that come before. */
  readonly depends: readonly string[];
}

/**
 * Members of an initramfs that hold the modules `names`, such as `virtio_blk`, and all that these need.
 * @throws {Error} when the kernel has no such module.
 */
export async function moduleEntries(
  guest: Pick<Guest, "modules" | "release">,
  names: readonly string[],
): Promise<CpioEntry[]> {
  const paths = new Map<string, string>();
  for (const path of await readdir(guest.modules, { recursive: true })) {
    if (path.endsWith(".ko")) paths.set(moduleName(path), path);
  }
  const modules = new Map<string, Module>();
  const add = async (name: string): Promise<void> => {
    if (modules.has(name)) return;
    const path = paths.get(name);
    if (path === undefined) throw new Error(`kernel ${guest.release} has no module ${name}`);
    const data = await readFile(join(guest.modules, path));
    const depends = dependenciesOf(data);
    modules.set(name, { path, data, depends });
    for (const needed of depends) await add(needed);
  };
  for (const name of names) await add(moduleName(name));

  const root = `lib/modules/${guest.release}`;
  const folders = new Set<string>();
  for (const { path } of modules.values()) {
    for (let folder = dirname(`${root}/${path}`); folder !== "."; folder = dirname(folder)) {
      folders.add(folder);
    }
  }
  /** All that `name` needs, each behind those that need it: modprobe begins at the end. */
  const needs = (name: string): string[] => {
    const all = modules.get(name)!.depends.flatMap((needed) => [needed, ...needs(needed)]);
    return all.filter((needed, index) => all.lastIndexOf(needed) === index);
  };
  const list = [...modules].map(([name, { path }]) =>
    `${path}: ${needs(name).map((needed) => modules.get(needed)!.path).join(" ")}\n`
  );
  return [
    ...[...folders].sort().map((path): CpioEntry => ({ type: "directory", path })),
    { type: "file", path: `${root}/modules.dep`, data: list.join("") },
    ...[...modules.values()].map(({ path, data }): CpioEntry => ({
      type: "file",
      path: `${root}/${path}`,
      data,
    })),
  ];
}

/** What the module's information section says that it needs. */
function dependenciesOf(data: Uint8Array): string[] {
  const text = new TextDecoder("latin1").decode(data);
  const [, list = ""] = /(?:^|\0)depends=([\w,-]*)\0/.exec(text) ?? [];
  return list.split(",").filter(Boolean).map(moduleName);
}

/** Kernel and modprobe take `-` and `_` for the same. */
function moduleName(path: string): string {
  return basename(path, ".ko").replaceAll("-", "_");
}
