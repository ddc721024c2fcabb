import { VmctlError } from "../base/mod.ts";

/** A kernel, initrd or command line that cannot be booted: names what was expected and what came. */
export class BootError extends VmctlError {
  override readonly name: string = "BootError";
}
