import assert from "node:assert/strict";
import { posix } from "node:path";
import fc from "fast-check";
import * as ours from "./posix_path.ts";

const paths = fc.array(fc.constantFrom("/", ".", "..", "a", "b.c", ".d", "e.", " ", "ü"), {
  maxLength: 8,
}).map((parts) => parts.join(""));

Deno.test("paths come out as node:path has them", () => {
  fc.assert(
    fc.property(fc.array(paths, { maxLength: 4 }), paths, (list, path) => {
      assert.equal(ours.join(...list), posix.join(...list));
      assert.equal(ours.resolve(...list), posix.resolve(...list));
      for (const name of ["isAbsolute", "normalize", "dirname", "basename", "extname"] as const) {
        assert.equal(ours[name](path), posix[name](path), `${name}(${JSON.stringify(path)})`);
      }
      fc.pre(!/^\/+$/.test(path));
      assert.equal(ours.basename(path, ".c"), posix.basename(path, ".c"), `basename(${path}, .c)`);
    }),
    { numRuns: 20_000 },
  );
});
