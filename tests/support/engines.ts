/**
 * Registers one test for each engine; an engine that this host cannot run is skipped, with the reason.
 *
 * @module
 */

import { describeError } from "../../lib/base/mod.ts";
import { type EngineKind, openHypervisor, probeKvm } from "../../lib/hypervisor/mod.ts";

/** An engine for tests. */
export interface TestEngine {
  readonly kind: EngineKind;
  /** Whether it is a KVM that only emulates, and that some instructions end. */
  readonly emulated: boolean;
  /** Why it cannot be used here. */
  readonly problem: string | undefined;
}

let known: readonly TestEngine[] | undefined;

/** All engines. */
export function testEngines(): readonly TestEngine[] {
  return known ??= (["kvm", "soft"] as const).map((kind) => {
    try {
      using _engine = openHypervisor(kind);
      const emulated = kind === "kvm" && probeKvm().execution === "emulated";
      return { kind, emulated, problem: undefined };
    } catch (error) {
      return { kind, emulated: false, problem: describeError(error) };
    }
  });
}

/** Settings of {@link engineTest}. */
export interface EngineTestOptions {
  /** Why the test does not apply to `engine`; undefined where it does. */
  readonly unless?: (engine: TestEngine) => string | undefined;
}

/** Registers `body` once for each engine. */
export function engineTest(
  name: string,
  body: (engine: TestEngine) => Promise<void>,
  options: EngineTestOptions = {},
): void {
  for (const engine of testEngines()) {
    const problem = engine.problem ?? options.unless?.(engine);
    const skipped = problem === undefined ? "" : ` (skipped: ${problem})`;
    Deno.test({
      name: `${name} [${engine.kind}]${skipped}`,
      ignore: problem !== undefined,
      fn: () => body(engine),
    });
  }
}
