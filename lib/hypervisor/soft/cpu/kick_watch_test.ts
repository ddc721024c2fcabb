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
