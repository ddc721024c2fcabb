import { strict as assert } from "node:assert";
import { HotSpots, type SampledPage, SETTLED, type Wanted } from "./hot_spots.ts";

const HOT = 8;

function pageOf(churn = 0): SampledPage {
  return { heat: new Map<number, number>(), churn, busy: 0 };
}

/** One that has counted enough elsewhere. */
function settled(): HotSpots {
  const spots = new HotSpots(HOT);
  const elsewhere = pageOf();
  for (let i = 0; i < SETTLED; i++) spots.count(elsewhere, 0, false);
  return spots;
}

/** Samples at `places` in turn; what is wanted is seen to. Says which sample wanted what. */
function sample(
  spots: HotSpots,
  page: SampledPage,
  how: { places: readonly number[]; samples: number; isSmall: boolean },
): [number, boolean][] {
  const wanted: [number, boolean][] = [];
  for (let i = 1; i <= how.samples; i++) {
    const offset = how.places[i % how.places.length] as number;
    const found: Wanted | undefined = spots.count(page, offset, how.isSmall);
    if (found === undefined) continue;
    wanted.push([i, found.wide]);
    spots.done(page, offset, found);
  }
  return wanted;
}

Deno.test("a place is wanted when it is hot, and wide when it is very hot", () => {
  const found = sample(new HotSpots(HOT), pageOf(), { places: [16], samples: 500, isSmall: true });
  assert.deepEqual(found, [[8, false], [100, true]]);
});

Deno.test("where code changes often, more heat is asked for", () => {
  const found = sample(settled(), pageOf(4), { places: [16], samples: 1000, isSmall: false });
  assert.deepEqual(found, [[32, false], [400, true]]);
});

Deno.test("small regions of a page are wanted wide together, each place once", () => {
  const [spots, page] = [settled(), pageOf()];
  const places = [0, 16, 32, 48, 64, 80, 96, 112, 128, 144];
  const found = sample(spots, page, { places, samples: 150, isSmall: true });
  assert.deepEqual(found.filter(([, wide]) => wide).map(([i]) => i), [50, 105]);
  const more = sample(spots, page, { places, samples: 3000, isSmall: true });
  assert.equal(more.filter(([, wide]) => wide).length, places.length - 2);
});

Deno.test("they are not while a guest boots, nor what is interpreted or large", () => {
  const places = [0, 16, 32, 48, 64, 80, 96, 112, 128, 144];
  const early = sample(new HotSpots(HOT), pageOf(), { places, samples: 900, isSmall: true });
  assert.ok(!early.some(([, wide]) => wide));
  const other = sample(settled(), pageOf(), { places, samples: 900, isSmall: false });
  assert.ok(!other.some(([, wide]) => wide));
});

Deno.test("what cannot be had is wanted again by the next sample", () => {
  const [spots, page] = [new HotSpots(2), pageOf()];
  assert.equal(spots.count(page, 0, false), undefined);
  assert.equal(spots.count(page, 0, false)?.wide, false);
  spots.postpone(page, 0);
  assert.equal(spots.count(page, 0, false)?.wide, false);
  assert.equal(spots.count(page, 0, false), undefined);
});
