import assert from "node:assert/strict";
import * as fc from "fast-check";
import { parseViolation, VIOLATION_EXIT_STATUS } from "../../host/mod.ts";
import type { SeccompJob, SeccompJobCall } from "../../host/testing/seccomp_child.ts";
import type { Action, Policy } from "../policy/ast.ts";
import { judge, type SyscallData } from "../policy/evaluate.ts";
import { loadPolicy } from "../policy/load.ts";
import { memoryFiles } from "../policy/source.ts";
import { syscallNumber } from "../policy/syscalls.ts";
import { calls, policies } from "../policy/test_policies.ts";
import { type CompileOptions, compilePolicy } from "./compile.ts";
import { encodeProgram } from "./instruction.ts";

const CHILD = new URL("../../host/testing/seccomp_child.ts", import.meta.url);

const ENOSYS = 38;
/** Numbers that Linux gives to no system call. */
const FIRST_FREE = 340;
const FREE_COUNT = 80;

async function runJob(job: Partial<SeccompJob> & { calls: readonly SeccompJobCall[] }) {
  const whole: SeccompJob = { programs: [], scope: "process", ...job };
  const { code, signal, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-lock", "-A", CHILD.href, JSON.stringify(whole)],
    stdin: "null",
  }).output();
  const lines = new TextDecoder().decode(stdout).trim().split("\n");
  return { code, signal, results: lines.slice(1), stderr };
}

function encode(policy: Policy, options: CompileOptions = {}): string {
  return btoa(String.fromCharCode(...encodeProgram(compilePolicy(policy, options))));
}

function jobCall({ number, args }: SyscallData): SeccompJobCall {
  return { number, args: (args ?? []).map(String) };
}

/** The policy with calls that do not exist, and actions that do not end the process. */
function harmless(policy: Policy): Policy {
  const soften = (action: Action): Action => {
    if (action.kind === "errno" || action.kind === "allow") return action;
    return { kind: "errno", errno: action.kind.length };
  };
  const seen = new Set<number>();
  const syscalls = policy.syscalls.flatMap((call) => {
    const number = FIRST_FREE + call.number % FREE_COUNT;
    if (seen.has(number)) return [];
    seen.add(number);
    const rules = call.rules.map((rule) => ({ ...rule, action: soften(rule.action) }));
    return [{ ...call, number, rules }];
  });
  return { ...policy, syscalls, defaultAction: { kind: "allow" } };
}

Deno.test("the kernel decides as random policies say", async () => {
  const cases = policies(60).map(harmless).chain((policy) =>
    fc.tuple(fc.constant(policy), fc.array(calls(policy), { minLength: 300, maxLength: 300 }))
  );
  let denied = 0;
  for (const [policy, list] of fc.sample(cases, 10)) {
    const made = list.filter(({ number, arch }) =>
      number >= FIRST_FREE && number < FIRST_FREE + FREE_COUNT && arch === 0xc000_003e
    );
    const { code, results } = await runJob({
      programs: [encode(policy)],
      calls: made.map(jobCall),
    });
    assert.equal(code, 0);
    assert.equal(results.pop(), "done");
    const expected = made.map((call) => {
      const { action } = judge(policy, call);
      const errno = action.kind === "errno" ? action.errno : ENOSYS;
      if (errno !== ENOSYS) denied++;
      return String(-errno);
    });
    assert.deepEqual(results, expected);
  }
  assert.ok(denied > 100);
});

const ATTACKS = loadPolicy("p", {
  source: memoryFiles({
    p: `
# What the process needs to tell what happens.
{read, write, writev, close, mmap, munmap, mprotect, madvise, futex, exit, exit_group}: allow
{rt_sigprocmask, rt_sigaction, rt_sigreturn, sigaltstack, clone3, rseq, set_robust_list}: allow
{gettid, getpid, sched_yield, epoll_wait, sched_getaffinity, prctl, seccomp}: allow
getpriority: arg0 == PRIO_PROCESS && arg1 != 7; return EACCES
getpgid: return ENOENT
getsid: kill-process
getuid: trap
`,
  }),
});

Deno.test("each verdict is the kernel's", async () => {
  const call = (name: string, ...args: number[]) => ({
    number: syscallNumber(name)!,
    args: args.map(String),
  });
  const { results } = await runJob({
    programs: [encode(ATTACKS)],
    calls: [
      call("getpriority", 0, 0),
      call("getpriority", 0, 7),
      call("getpriority", 1, 0),
      call("getpgid", 0),
    ],
  });
  assert.ok(Number(results[0]) > 0, "getpriority itself answers");
  assert.deepEqual(results.slice(1), ["-13", "-13", "-2", "done"]);

  for (const name of ["getsid", "getuid", "socket", "execve", "fork", "open", "ptrace"]) {
    const ended = await runJob({ programs: [encode(ATTACKS)], calls: [call(name)] });
    assert.equal(ended.signal, "SIGSYS", name);
    assert.deepEqual(ended.results, [], name);
  }
});

Deno.test("what traps is reported, what kills is not", async () => {
  const number = syscallNumber("socket")!;
  const job = { reportFd: 2, calls: [{ number, args: ["1", "2", "3"] }] };
  const trapped = await runJob({ ...job, programs: [encode(ATTACKS)] });
  assert.equal(trapped.code, VIOLATION_EXIT_STATUS);
  assert.equal(parseViolation(trapped.stderr)?.syscall, number);
  assert.deepEqual(parseViolation(trapped.stderr)?.args.slice(0, 3), [1n, 2n, 3n]);
  const killed = await runJob({
    ...job,
    programs: [encode(ATTACKS, { violation: "kill-process" })],
  });
  assert.equal(killed.signal, "SIGSYS");
  assert.equal(killed.stderr.length, 0);
});

Deno.test("a log of failures lets everything pass that is not refused by name", async () => {
  const { results } = await runJob({
    programs: [encode(ATTACKS, { violation: "log" })],
    calls: [
      { number: syscallNumber("getpgrp")!, args: [] },
      { number: syscallNumber("getpgid")!, args: ["0"] },
    ],
  });
  assert.ok(Number(results[0]) >= 0);
  assert.deepEqual(results.slice(1), ["-2", "done"]);
});

Deno.test("the 32-bit and x32 interfaces are closed", async () => {
  const policy = loadPolicy("p", { source: memoryFiles({ p: "getpid: allow\n" }) });
  // Everything is let through, so that it is the architecture that is refused.
  const program = encode({ ...policy, defaultAction: { kind: "allow" } });
  const number = syscallNumber("getpid")!;
  const open = await runJob({ programs: [program], calls: [{ number, args: [] }] });
  assert.equal(open.code, 0);
  const x32 = await runJob({
    programs: [program],
    calls: [{ number: 0x4000_0000 | number, args: [] }],
  });
  assert.equal(x32.signal, "SIGSYS");
  // 20 is getpid there, and writev here.
  const i386 = await runJob({
    programs: [program],
    calls: [{ number: 20, args: [], int80: true }],
  });
  assert.equal(i386.signal, "SIGSYS");
  assert.deepEqual(i386.results, []);
});
