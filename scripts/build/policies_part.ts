/**
 * The compiler of policies, and those of the program, as a part of it that is loaded when it is wanted.
 *
 * @module
 */

export * from "../../lib/jail/bpf/compile.ts";
export * from "../../lib/jail/device_policies.ts";
