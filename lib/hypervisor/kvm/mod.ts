/**
 * The engine that runs guests on the processor's virtualization, through Linux's /dev/kvm.
 *
 * @module
 */

export { attachKvmVm, openKvm } from "./kvm.ts";
export { type KvmFacts, probeKvm } from "./probe.ts";
