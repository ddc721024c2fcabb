import { writeFile } from "node:fs/promises";
import { extractVmlinux } from "../../lib/boot/mod.ts";

/** Writes the ELF vmlinux inside of the bzImage `kernel` to `target`. */
export async function writeVmlinux(kernel: string, target: string): Promise<void> {
  await writeFile(target, extractVmlinux(kernel));
}
