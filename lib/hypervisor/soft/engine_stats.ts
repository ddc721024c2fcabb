/**
 * The engine's counters, in shared memory: each vCPU's worker writes its own, anybody may read.
 *
 * @module
 */

/** Names of a vCPU's counters. */
const NAMES = [
  // Samples of the guest by the tier that its code was in; a sample is about the same time everywhere.
  "samplesInterpreted",
  "samplesTranslated",
  // Translated code.
  "regions",
  "instructions",
  "refused",
  "modules",
  "bytes",
  "liveBytes",
  "droppedBytes",
  "instances",
  "keptUnits",
  "milliseconds",
  "elsewhereMilliseconds",
  "compileMilliseconds",
  "codeFlushes",
  // Its reuse.
  "regionsReused",
  "regionsFromDisk",
  "loadedUnits",
  "badUnits",
  // Decoded code.
  "decoded",
  "invalidated",
  // Slow paths.
  "tlbFills",
  "lookups",
  "faults",
  "hostCalls",
  "deviceAccesses",
  "halts",
  // Regions compared with the interpreter, where they are.
  "comparedRegions",
  "comparedInstructions",
  "comparedFaults",
  "guardedRegions",
  "guardedRegionsCompared",
] as const;

/** Pages that are reported as slow, at most, for each vCPU. */
export const SLOW_PAGES = 16;

/** A counter's name. */
export type CounterName = typeof NAMES[number];

/** A page of the guest where much time goes although it is interpreted. */
export interface SlowPage {
  /** Linear address. */
  readonly address: bigint;
  readonly samples: number;
}

/** Counters of a vCPU. */
export interface VcpuCounters {
  readonly counters: Readonly<Record<CounterName, number>>;
  readonly slowPages: readonly SlowPage[];
}

/** Counters of all vCPUs. */
export class EngineCounters {
  readonly #buffer: SharedArrayBuffer;

  private constructor(buffer: SharedArrayBuffer) {
    this.#buffer = buffer;
  }

  /** Bytes of a vCPU's counters. */
  static readonly #size = 8 * (NAMES.length + 2 * SLOW_PAGES);

  /** Makes counters of `vcpuCount` vCPUs. */
  static create(vcpuCount: number): EngineCounters {
    return new EngineCounters(new SharedArrayBuffer(EngineCounters.#size * vcpuCount));
  }

  /** Those behind `buffer`, in another worker. */
  static attach(buffer: SharedArrayBuffer): EngineCounters {
    return new EngineCounters(buffer);
  }

  /** For {@link attach}. */
  handle(): SharedArrayBuffer {
    return this.#buffer;
  }

  /** Writes those of vCPU `id`; names that are no counters are passed over. */
  write(
    id: number,
    values: Readonly<Partial<Record<string, number>>>,
    slowPages: readonly SlowPage[],
  ): void {
    const at = EngineCounters.#size * id;
    const counters = new Float64Array(this.#buffer, at, NAMES.length);
    NAMES.forEach((name, i) => counters[i] = values[name] ?? 0);
    const places = new BigUint64Array(this.#buffer, at + 8 * NAMES.length, 2 * SLOW_PAGES);
    places.fill(0n);
    slowPages.slice(0, SLOW_PAGES).forEach(({ address, samples }, i) => {
      places[2 * i] = address;
      places[2 * i + 1] = BigInt(samples);
    });
  }

  /** Reads those of all vCPUs. */
  read(): VcpuCounters[] {
    const count = this.#buffer.byteLength / EngineCounters.#size;
    return Array.from({ length: count }, (_, id) => {
      const at = EngineCounters.#size * id;
      const values = new Float64Array(this.#buffer, at, NAMES.length);
      const counters = Object.fromEntries(NAMES.map((name, i) => [name, values[i] ?? 0]));
      const places = new BigUint64Array(this.#buffer, at + 8 * NAMES.length, 2 * SLOW_PAGES);
      const slowPages: SlowPage[] = [];
      for (let i = 0; i < places.length; i += 2) {
        const samples = Number(places[i + 1] ?? 0n);
        if (samples > 0) slowPages.push({ address: places[i] ?? 0n, samples });
      }
      return { counters: counters as Record<CounterName, number>, slowPages };
    });
  }
}

/** Counters as JSON that a person can act on. */
export function describeCounters(vcpus: readonly VcpuCounters[]): Record<string, unknown> {
  return {
    engine: "soft",
    vcpus: vcpus.map(({ counters: c, slowPages }, id) => {
      const samples = c.samplesInterpreted + c.samplesTranslated;
      const share = (n: number) => samples === 0 ? 0 : Math.round(1000 * n / samples) / 1000;
      return {
        id,
        timeByTier: {
          samples,
          interpreted: share(c.samplesInterpreted),
          translated: share(c.samplesTranslated),
        },
        translation: {
          regions: c.regions,
          guestInstructions: c.instructions,
          refused: c.refused,
          modules: c.modules,
          moduleBytes: c.bytes,
          liveBytesEstimate: c.liveBytes,
          droppedBytesEstimate: c.droppedBytes,
          modulesKept: c.instances,
          unitsKept: c.keptUnits,
          translateMs: Math.round(c.milliseconds),
          translateElsewhereMs: Math.round(c.elsewhereMilliseconds),
          compileMs: Math.round(c.compileMilliseconds),
          codeFlushes: c.codeFlushes,
        },
        reuse: {
          regionsOfThisRun: c.regionsReused,
          regionsFromDisk: c.regionsFromDisk,
          unitsOnDisk: c.loadedUnits,
          unitsDamaged: c.badUnits,
        },
        code: { decodedInstructions: c.decoded, invalidatedPages: c.invalidated },
        ...c.comparedRegions === 0 ? {} : {
          comparison: {
            regions: c.guardedRegions,
            regionsCompared: c.guardedRegionsCompared,
            comparisons: c.comparedRegions,
            instructions: c.comparedInstructions,
            faults: c.comparedFaults,
          },
        },
        slowPaths: {
          tlbFills: c.tlbFills,
          codeLookups: c.lookups,
          faults: c.faults,
          hostCalls: c.hostCalls,
          deviceAccesses: c.deviceAccesses,
          halts: c.halts,
          interpretedPages: slowPages.map(({ address, samples }) => ({
            address: `0x${address.toString(16)}`,
            samples,
          })),
        },
      };
    }),
  };
}
