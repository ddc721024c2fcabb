import { VmctlError } from "../base/mod.ts";

/** An engine cannot do what was asked, or the host refused it. */
export class HypervisorError extends VmctlError {
  override readonly name = "HypervisorError";
}
