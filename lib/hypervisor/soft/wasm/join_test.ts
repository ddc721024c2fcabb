import assert from "node:assert/strict";
import fc from "fast-check";
import {
  add,
  and,
  call,
  callIndex,
  cond,
  type Expr,
  f64,
  type FuncRef,
  i32,
  i64,
  joinModules,
  load,
  ModuleBuilder,
  Op,
  Priority,
  readPriorities,
  ValType,
  withPriorities,
  wrap,
} from "./mod.ts";

const { I32, I64 } = ValType;

/** What a module asks of others: numbers of functions of the host, in the order of their first call. */
type Calls = readonly (readonly [number, number])[];

const PAGES = { minPages: 1, maxPages: 4, shared: true };
const table = new WebAssembly.Table({ element: "anyfunc", initial: 1 });
const memory = new WebAssembly.Memory({ initial: 1, maximum: 4, shared: true });
const host: Record<string, WebAssembly.ImportValue> = {};
for (let n = 0; n < 12; n++) {
  // Of two types, so that types have different numbers in different modules.
  if (n % 3 === 0) host[`h${n}`] = (a: bigint) => BigInt.asIntN(64, a * 7n + BigInt(n));
  else host[`h${n}`] = (a: number) => Math.imul(a, 5) + n | 0;
}
const imports = {
  e: { memory, table, ...host },
};

/** A module whose export `r0`, `r1`, ... calls what each of `functions` says, one after the other. */
function make(functions: readonly Calls[]): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder();
  module.importMemory("e", "memory", PAGES);
  module.importTable("e", "table", 1);
  const refs = new Map<number, FuncRef>();
  const ref = (n: number): FuncRef => {
    let found = refs.get(n);
    if (found === undefined) {
      const type = n % 3 === 0 ? I64 : I32;
      found = module.importFunc("e", `h${n}`, { params: [type], results: [type] });
      refs.set(n, found);
    }
    return found;
  };
  for (const calls of functions) for (const [n] of calls) ref(n);
  const made = functions.map((calls) => {
    const f = module.func([I32], [I32]);
    const sum = f.local(I32, f.param(0));
    const wide = f.local(I64, i64(0x1234_5678_9abcn));
    f.loop((again) => {
      for (const [n, constant] of calls) {
        if (n % 3 === 0) {
          f.set(wide, call(ref(n), wide));
          f.set(sum, add(sum, wrap(wide)));
        } else {
          f.ifUnlikely(and(sum, 1), () => f.set(sum, callIndex(I32, ref(n).index, [sum])));
          f.set(sum, add(sum, i32(constant)));
        }
        f.store32(0, i32(8 * n), sum);
        f.set(sum, add(sum, load.i32_16u(0, i32(8 * n))));
      }
      f.drop(f64(1.5));
      f.brIfUnlikely(again, and(sum, 0x4000_0000 & ~constantOf(calls)) as Expr);
    });
    f.return(cond(and(sum, 2), sum, add(sum, 3)));
    f.unreachable();
    return f;
  });
  made.forEach((f, i) => {
    module.nameFunc(f, `function ${i}`);
    module.exportFunc(`r${i}`, f);
  });
  return module.finish();
}

/** Lets loops end: their condition is never true. */
function constantOf(_: Calls): number {
  return 0x4000_0000;
}

function results(module: Uint8Array<ArrayBuffer>): Map<string, number[]> {
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module), imports);
  const found = new Map<string, number[]>();
  for (const [name, f] of Object.entries(exports)) {
    found.set(name, [0, 1, 77, -5].map((n) => (f as (n: number) => number)(n)));
  }
  return found;
}

const calls = fc.array(fc.tuple(fc.nat(11), fc.integer()), { maxLength: 6 });
const modules = fc.array(fc.array(calls, { minLength: 1, maxLength: 4 }), {
  minLength: 1,
  maxLength: 5,
});

const rename = (of: number, name: string) => `${of} ${name}`;

Deno.test("what modules do, the one that they are joined to does", () => {
  fc.assert(fc.property(modules, (all) => {
    const single = all.map(make);
    const joined = joinModules(single, rename);
    assert.ok(joined !== undefined);
    const expected = new Map<string, number[]>();
    single.forEach((module, of) => {
      for (const [name, values] of results(module)) expected.set(rename(of, name), values);
    });
    assert.deepEqual(results(joined), expected);
  }));
});

Deno.test("a joined module can be joined again, and one alone stays what it is", () => {
  fc.assert(fc.property(modules, calls, (all, last) => {
    const joined = joinModules(all.map(make), rename);
    assert.ok(joined !== undefined);
    const again = joinModules([make([last]), joined], rename);
    assert.ok(again !== undefined);
    const values = results(again);
    assert.deepEqual(values.get("0 r0"), results(make([last])).get("r0"));
    for (const [name, expected] of results(joined)) {
      assert.deepEqual(values.get(`1 ${name}`), expected);
    }
    assert.deepEqual(results(joinModules([joined], (_, name) => name) ?? joined), results(joined));
  }));
});

Deno.test("priorities stay with their functions", () => {
  const given = [make([[[0, 1]], [[1, 1]]]), make([[[2, 1]], [[3, 1]], []])];
  const first = withPriorities(given[0] ?? make([]), new Map([["r1", Priority.Optimize]]));
  const second = withPriorities(
    given[1] ?? make([]),
    new Map([["r0", Priority.Compile], ["r2", Priority.Optimize]]),
  );
  const joined = joinModules([first, second], rename);
  assert.deepEqual(
    readPriorities(joined ?? first),
    new Map([["0 r1", Priority.Optimize], ["1 r0", Priority.Compile], ["1 r2", Priority.Optimize]]),
  );
});

Deno.test("what is damaged, of another kind or too large is not joined, and nothing else is thrown", () => {
  const module = make([[[0, 1], [1, 2]], [[5, 3]]]);
  const other = new ModuleBuilder();
  other.importMemory("e", "other", PAGES);
  assert.equal(joinModules([module, other.finish()], rename), undefined);
  const many = new ModuleBuilder();
  many.importMemory("e", "memory", PAGES);
  many.importTable("e", "table", 1);
  const refs = Array.from(
    { length: 130 },
    (_, i) => many.importFunc("e", `m${i}`, { params: [], results: [] }),
  );
  const func = many.func([], []);
  func.call(refs[129] as FuncRef);
  many.exportFunc("r0", func);
  assert.equal(joinModules([module, many.finish()], rename), undefined);
  fc.assert(fc.property(fc.nat(module.length - 1), fc.nat(255), fc.boolean(), (at, byte, cut) => {
    const damaged = cut ? module.slice(0, at) : module.slice();
    if (!cut) damaged[at] = byte;
    const joined = joinModules([damaged, module], rename);
    // What still is a module must give one.
    if (joined !== undefined && WebAssembly.validate(damaged)) {
      assert.ok(WebAssembly.validate(joined));
    }
  }));
});

Deno.test("an opcode that is not known is not joined", () => {
  const module = new ModuleBuilder();
  module.importMemory("e", "memory", PAGES);
  const func = module.func([I32], [I32]);
  func.out.u8(Op.i32_const);
  func.out.u8(0);
  func.out.u8(Op.memory_grow);
  func.out.u8(0);
  module.exportFunc("r0", func);
  assert.ok(WebAssembly.validate(module.finish()));
  assert.equal(joinModules([module.finish()], rename), undefined);
});
