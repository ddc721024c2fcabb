/**
 * The suite of small guests that every engine has to run.
 *
 * @module
 */

import { describeError } from "../../base/mod.ts";
import { type EngineKind, type Hypervisor, openHypervisor, probeKvm } from "../mod.ts";
import { openSoft, type Tier } from "../soft/mod.ts";
import { CALL_TESTS } from "./cases/calls.ts";
import { CONTROL_TESTS } from "./cases/control.ts";
import { EVENT_TESTS } from "./cases/events.ts";
import { EXCEPTION_TESTS } from "./cases/exceptions.ts";
import { INTERRUPT_TESTS } from "./cases/interrupts.ts";
import { IO_TESTS } from "./cases/io.ts";
import { MEMORY_TESTS } from "./cases/memory.ts";
import { MODE_TESTS } from "./cases/modes.ts";
import { PAGING_TESTS } from "./cases/paging.ts";
import { PROTECTION_TESTS } from "./cases/protection.ts";
import { SELF_MODIFYING_TESTS } from "./cases/self_modifying.ts";
import { SMP_TESTS } from "./cases/smp.ts";
import { SMP_CODE_TESTS } from "./cases/smp_code.ts";
import { SMP_MEMORY_TESTS } from "./cases/smp_memory.ts";
import { SMP_REWRITE_TESTS } from "./cases/smp_rewrites.ts";
import { STRAIGHT_CODE_TESTS } from "./cases/straight_code.ts";
import { SYSTEM_TESTS } from "./cases/system.ts";
import { CODE_PAGE_TESTS } from "./cases/code_pages.ts";
import { FAR_CALL_TESTS } from "./cases/far_calls.ts";
import { TWO_PAGE_TESTS } from "./cases/two_pages.ts";
import { missingFeature } from "./features.ts";
import type { GuestTest } from "./guest_case.ts";
import { Helper, TestMachine } from "./machine.ts";
import { SOFT_GAPS } from "./soft_gaps.ts";

/** All guests. */
export const GUEST_TESTS: readonly GuestTest[] = [
  ...IO_TESTS,
  ...MEMORY_TESTS,
  ...MODE_TESTS,
  ...TWO_PAGE_TESTS,
  ...FAR_CALL_TESTS,
  ...STRAIGHT_CODE_TESTS,
  ...CODE_PAGE_TESTS,
  ...EXCEPTION_TESTS,
  ...PROTECTION_TESTS,
  ...PAGING_TESTS,
  ...SYSTEM_TESTS,
  ...CALL_TESTS,
  ...SELF_MODIFYING_TESTS,
  ...INTERRUPT_TESTS,
  ...EVENT_TESTS,
  ...CONTROL_TESTS,
  ...SMP_TESTS,
  ...SMP_MEMORY_TESTS,
  ...SMP_CODE_TESTS,
  ...SMP_REWRITE_TESTS,
];

/** Guests that must come somewhere within milliseconds, which tiers for tests need to translate. */
const TIMED: ReadonlySet<string> = new Set([
  "the local APIC timer's count goes down and stops at zero",
]);

for (const name of [...Object.keys(SOFT_GAPS), ...TIMED]) {
  if (!GUEST_TESTS.some((test) => test.name === name)) throw new TypeError(`no guest "${name}"`);
}

let helper: Promise<Helper> | undefined;
let server: Promise<Helper> | undefined;

/**
 * Registers one Deno test per guest for engine `kind`; what this host cannot run is skipped.
 *
 * @param tier how the software engine executes code, where not as usual.
 */
export function defineConformance(kind: EngineKind, tier?: Tier): void {
  const { hypervisor, problem } = open(kind, tier);
  const title = tier === undefined ? kind : `${kind} (${tier})`;
  const emulated = kind === "kvm" && hypervisor !== undefined &&
    probeKvm().execution === "emulated";
  for (const test of GUEST_TESTS) {
    const reason = problem ?? skipReason(test, { hypervisor, emulated }) ??
      (tier !== undefined && tier !== "interpreter" && TIMED.has(test.name)
        ? `tier ${tier} may be slower than its timer`
        : tier === "lockstep" && (test.vcpus ?? 1) > 1
        ? "with several vCPUs nothing is compared, as with translator-forced"
        : undefined);
    Deno.test({
      name: `${title}: ${test.name}${reason === undefined ? "" : ` (skipped: ${reason})`}`,
      ignore: reason !== undefined,
      // The helper's thread serves all tests.
      sanitizeOps: false,
      sanitizeResources: false,
      fn: async (context) => {
        if (hypervisor === undefined) return;
        helper ??= Helper.start();
        if (tier === "elsewhere") server ??= Helper.start();
        const options = { hypervisor, helper: await helper, server: await server };
        const missing = missingFeature(test.features ?? [], options);
        if (missing !== undefined) {
          const name = `skipped: the processor has no ${missing}`;
          await context.step({ name, ignore: true, fn: () => {} });
          return;
        }
        const { vcpus: vcpuCount = 1, memorySizeBytes } = test;
        const size = memorySizeBytes === undefined ? {} : { memorySizeBytes };
        using machine = new TestMachine({ ...options, vcpuCount, ...size });
        try {
          await test.run(machine);
        } catch (error) {
          await machine.abandon();
          throw error;
        }
      },
    });
  }
}

function open(kind: EngineKind, tier?: Tier): { hypervisor?: Hypervisor; problem?: string } {
  try {
    return { hypervisor: tier === undefined ? openHypervisor(kind) : openSoft({ tier }) };
  } catch (error) {
    return { problem: describeError(error) };
  }
}

function skipReason(
  test: GuestTest,
  host: { hypervisor: Hypervisor | undefined; emulated: boolean },
): string | undefined {
  const { hypervisor, emulated } = host;
  if (hypervisor === undefined) return undefined;
  if (test.only !== undefined && test.only !== hypervisor.kind) return `only for ${test.only}`;
  if (emulated && test.notEmulated !== undefined) {
    return `KVM here is an emulation: ${test.notEmulated}`;
  }
  if (hypervisor.kind === "soft" && SOFT_GAPS[test.name] !== undefined) return SOFT_GAPS[test.name];
  const { maxVcpus, dirtyLog } = hypervisor.capabilities;
  if ((test.vcpus ?? 1) > maxVcpus) return `this engine has at most ${maxVcpus} vCPU`;
  if (test.dirtyLog === true && !dirtyLog) return "this engine has no dirty log";
  return undefined;
}
