import assert from "node:assert/strict";
import * as fc from "fast-check";
import { KickWatch } from "./kick_watch.ts";

Deno.test("a watch gives all fuel, in slices at first, and ends when it sleeps", () => {
  fc.assert(
    fc.property(fc.integer({ min: -8, max: 12_000 }), fc.array(fc.nat(20)), (fuel, kicks) => {
      const watch = new KickWatch();
      assert.equal(watch.next(), 0);
      let given = 0;
      let left = watch.begin(fuel);
      // Kicks again after some looks, with nothing of the slice used.
      for (const looks of kicks) {
        for (let look = 0; look < looks; look++) {
          const more = watch.next();
          if (more === 0) break;
          given += left;
          left = more;
        }
        left = watch.begin(left);
      }
      let turns = 0;
      for (let more; (more = watch.next()) > 0; turns++) {
        given += left;
        left = more;
      }
      assert.equal(given + left, fuel);
      assert.ok(turns <= 8 && left <= Math.max(fuel, 400), `${turns} looks, ${left} left`);
      assert.equal(watch.next(), 0);
    }),
  );
  const watch = new KickWatch();
  assert.equal(watch.begin(6000), 400);
  assert.equal(watch.next(), 400);
  assert.equal(watch.end(), 5200);
  assert.equal(watch.next(), 0);
});

Deno.test("HLT looks again for a while after a kick, unless answers take longer than that", () => {
  const watch = new KickWatch();
  assert.equal(watch.spins(1000), false);
  watch.woken(2000);
  const answered = (from: number, after: number) => {
    watch.begin(1000);
    const spins = watch.spins(from);
    watch.spins(from + after);
    watch.woken(from + after);
    return spins;
  };
  assert.equal(answered(10_000, 20_000), true);
  watch.begin(1000);
  assert.deepEqual([100_000, 129_000, 130_001].map((now) => watch.spins(now)), [true, true, false]);
  watch.woken(900_000);
  // That was slow; the one behind it is watched, and quick.
  assert.equal(answered(1_000_000, 500_000), false);
  assert.equal(answered(2_000_000, 40_000), false);
  assert.equal(answered(3_000_000, 40_000), true);
  assert.equal(watch.spins(4_000_000), false);
});
