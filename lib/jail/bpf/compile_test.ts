import assert from "node:assert/strict";
import * as fc from "fast-check";
import { JailError } from "../errors.ts";
import type { Policy, SyscallRules } from "../policy/ast.ts";
import { judge } from "../policy/evaluate.ts";
import { loadPolicy } from "../policy/load.ts";
import { memoryFiles } from "../policy/source.ts";
import { syscallNumber } from "../policy/syscalls.ts";
import { calls, policies } from "../policy/test_policies.ts";
import { compilePolicy, returnValue, type Violation } from "./compile.ts";
import { describeReturn, disassemble } from "./disassemble.ts";
import { decodeProgram, encodeProgram, Op } from "./instruction.ts";
import { simulate, verifyProgram } from "./simulate.ts";

function policyOf(text: string): Policy {
  return loadPolicy("p", { source: memoryFiles({ p: text }) });
}

Deno.test("compiled policies decide as the policies say", () => {
  const violation = fc.constantFrom<Violation>(
    ...["trap", "kill-process", "kill-thread", "log", "user-notify"] as const,
  );
  const cases = fc.tuple(policies(60), violation).chain(([policy, chosen]) =>
    fc.tuple(
      fc.constant(policy),
      fc.constant(chosen),
      fc.array(calls(policy), { minLength: 40, maxLength: 40 }),
    )
  );
  fc.assert(
    fc.property(cases, ([policy, chosen, list]) => {
      const program = compilePolicy(policy, { violation: chosen });
      for (const call of list) {
        const expected = returnValue(judge(policy, call).action, chosen);
        assert.equal(simulate(program, call).value, expected);
      }
    }),
    { numRuns: 400 },
  );
});

/** What is left of `policy` when it is cut until the kernel takes it, and its program. */
function fitting(policy: Policy): { policy: Policy; program: ReturnType<typeof compilePolicy> } {
  for (let kept = policy.syscalls.length; kept > 0; kept = Math.floor(kept * 0.9)) {
    const smaller = { ...policy, syscalls: policy.syscalls.slice(0, kept) };
    try {
      return { policy: smaller, program: compilePolicy(smaller) };
    } catch (error) {
      assert.ok(error instanceof JailError);
    }
  }
  assert.fail("not one system call of the policy fits");
}

Deno.test("jumps over more than 255 instructions arrive", () => {
  // Argument checks lie between the tree and what is behind them, so both ways are long.
  const cases = policies(300).filter(({ syscalls }) => syscalls.length > 100).map(fitting).chain((
    { policy, program },
  ) =>
    fc.tuple(
      fc.constant(policy),
      fc.constant(program),
      fc.array(calls(policy), { minLength: 100, maxLength: 100 }),
    )
  );
  let longest = 0;
  fc.assert(
    fc.property(cases, ([policy, program, list]) => {
      longest = Math.max(longest, program.length);
      for (const call of list) {
        const expected = returnValue(judge(policy, call).action, "trap");
        assert.equal(simulate(program, call).value, expected);
      }
    }),
    { numRuns: 30 },
  );
  assert.ok(longest > 1000, `the longest program had ${longest} instructions`);
});

Deno.test("one condition of hundreds of clauses decides rightly", () => {
  const values = Array.from({ length: 300 }, (_, index) => index * 3);
  const policy = policyOf(`ioctl: ${values.map((value) => `arg1 == ${value}`).join(" || ")}\n`);
  const program = compilePolicy(policy);
  const number = syscallNumber("ioctl")!;
  for (let value = 0n; value < 900n; value++) {
    const run = simulate(program, { number, args: [0n, value] });
    assert.equal(describeReturn(run.value), value % 3n === 0n ? "allow" : "trap");
  }
});

Deno.test("a policy that is too large for the kernel is refused with its size", () => {
  const clauses = Array.from({ length: 1100 }, (_, index) => `arg1 == ${index}`).join(" || ");
  assert.throws(
    () => compilePolicy(policyOf(`ioctl: ${clauses}\n`)),
    /^JailError: p: the filter has [0-9]+ instructions; the kernel takes at most 4096$/,
  );
});

Deno.test("what is called most often is decided first", () => {
  const names = ["read", "write", "futex", "epoll_wait", "ioctl", "close", "mmap", "exit_group"];
  const text = names.map((name, index) => `${name}: ${index % 2 === 0 ? "allow" : "return 1"}`);
  const source = memoryFiles({
    p: ["@frequency ./f", ...text].join("\n"),
    f: "futex: 1000000\nread: 10\n",
  });
  const program = compilePolicy(loadPolicy("p", { source }));
  const steps = (name: string) => simulate(program, { number: syscallNumber(name)! }).steps;
  assert.ok(steps("futex") <= 7, `${steps("futex")} steps`);
  for (const name of names) assert.ok(steps("futex") <= steps(name));
});

Deno.test("the size of a tree grows with its depth only", () => {
  const syscalls: SyscallRules[] = Array.from({ length: 400 }, (_, number) => ({
    name: String(number),
    number,
    frequency: 1,
    rules: [{
      condition: undefined,
      action: { kind: "errno", errno: number },
      place: { file: "p", line: 1, column: 1 },
    }],
  }));
  const program = compilePolicy({
    file: "p",
    defaultAction: { kind: "kill" },
    defaultPlace: undefined,
    syscalls,
  });
  for (let number = 0; number < 400; number++) {
    const { steps, value } = simulate(program, { number });
    assert.equal(value, 0x5_0000 + number);
    assert.ok(steps <= 16, `${steps} steps`);
  }
});

Deno.test("programs survive being encoded and decoded", () => {
  const program = compilePolicy(
    policyOf("read: 1\nioctl: arg1 in 0xff && arg2 > 1; return EPERM\n"),
  );
  assert.deepEqual(decodeProgram(encodeProgram(program)), program);
  const lines = disassemble(program);
  assert.equal(lines.length, program.length);
  assert.ok(lines.some((line) => line.endsWith("return errno EPERM")), lines.join("\n"));
  assert.match(lines[0]!, /a = arch$/);
});

Deno.test("programs that the kernel would refuse are refused", () => {
  const returns = { code: Op.Return, jt: 0, jf: 0, k: 0 };
  const refused = (...program: { code: number; jt: number; jf: number; k: number }[]) =>
    assert.throws(() => verifyProgram(program), JailError);
  refused();
  refused({ code: 0x28, jt: 0, jf: 0, k: 0 }, returns);
  refused({ code: Op.LoadWord, jt: 0, jf: 0, k: 64 }, returns);
  refused({ code: Op.LoadWord, jt: 0, jf: 0, k: 2 }, returns);
  refused({ code: Op.Jump, jt: 0, jf: 0, k: 1 }, returns);
  refused({ code: Op.JumpEqual, jt: 1, jf: 0, k: 1 }, returns);
  refused({ code: Op.Store, jt: 0, jf: 0, k: 16 }, returns);
  refused({ code: Op.DivideConstant, jt: 0, jf: 0, k: 0 }, returns);
  refused({ code: Op.LoadImmediate, jt: 0, jf: 0, k: 0 });
  verifyProgram([returns]);
});
