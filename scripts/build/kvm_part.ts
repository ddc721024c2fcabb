/**
 * The engine for KVM as a part of the program that is loaded when it is wanted.
 *
 * @module
 */

export * from "../../lib/hypervisor/kvm/mod.ts";
