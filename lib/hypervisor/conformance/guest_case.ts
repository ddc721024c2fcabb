import type { EngineKind } from "../mod.ts";
import type { Feature } from "./features.ts";
import type { TestMachine } from "./machine.ts";

/** A small guest and what it has to do. */
export interface GuestTest {
  /** What it shows. */
  readonly name: string;
  /** vCPUs of the VM, 1 where absent. */
  readonly vcpus?: number;
  /** RAM of the VM in bytes. */
  readonly memorySizeBytes?: number;
  /** Processor features that the guest needs. */
  readonly features?: readonly Feature[];
  /** Whether it needs {@link Capabilities.dirtyLog}. */
  readonly dirtyLog?: boolean;
  /** Where only one engine can do it. */
  readonly only?: EngineKind;
  /** Why a KVM that interprets the guest's kernel code cannot run it, where it cannot. */
  readonly notEmulated?: string;
  /** Loads the guest, runs it, checks. */
  run(machine: TestMachine): void | Promise<void>;
}
