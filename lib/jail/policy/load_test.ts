import assert from "node:assert/strict";
import * as fc from "fast-check";
import { PolicyError } from "../errors.ts";
import type { Policy } from "./ast.ts";
import { judge } from "./evaluate.ts";
import { loadPolicy } from "./load.ts";
import { memoryFiles } from "./source.ts";
import { syscallNumber } from "./syscalls.ts";

function load(files: string | Record<string, string>): Policy {
  const source = memoryFiles(typeof files === "string" ? { "dir/p.policy": files } : files);
  return loadPolicy("dir/p.policy", { source });
}

function problemsOf(files: string | Record<string, string>): string[] {
  try {
    load(files);
  } catch (error) {
    assert.ok(error instanceof PolicyError);
    return error.problems.map(({ place, message, suggestion }) =>
      `${place.file}:${place.line}:${place.column}: ${message}` +
      (suggestion === undefined ? "" : ` (${suggestion}?)`)
    );
  }
  return [];
}

function verdict(policy: Policy, name: string, ...args: bigint[]): string {
  const { action } = judge(policy, { number: syscallNumber(name)!, args });
  return action.kind === "errno" ? `errno ${action.errno}` : action.kind;
}

Deno.test("actions, comments, continuation lines, blank lines", () => {
  const policy = load(`
# A comment.
read: allow
write: 1  # behind a statement
openat: return ENOENT
close: return 0x9
futex: \\
  arg1 == FUTEX_WAIT || \\
  arg1 == FUTEX_WAKE   # at the end of the last line
kill: kill
tkill: kill-process
tgkill: kill-thread
ptrace: trap
bpf: log
mount: user-notify
umount2: trace\r
`);
  assert.equal(verdict(policy, "read"), "allow");
  assert.equal(verdict(policy, "write"), "allow");
  assert.equal(verdict(policy, "openat"), "errno 2");
  assert.equal(verdict(policy, "close"), "errno 9");
  assert.equal(verdict(policy, "futex", 0n, 0n), "allow");
  assert.equal(verdict(policy, "futex", 0n, 1n), "allow");
  assert.equal(verdict(policy, "futex", 0n, 2n), "kill");
  assert.equal(verdict(policy, "kill"), "kill");
  assert.equal(verdict(policy, "tkill"), "kill-process");
  assert.equal(verdict(policy, "tgkill"), "kill-thread");
  assert.equal(verdict(policy, "ptrace"), "trap");
  assert.equal(verdict(policy, "bpf"), "log");
  assert.equal(verdict(policy, "mount"), "user-notify");
  assert.equal(verdict(policy, "umount2"), "trace");
  assert.equal(verdict(policy, "socket"), "kill");
});

Deno.test("numbers and expressions", () => {
  const accepts = (expression: string, value: bigint) => {
    const policy = load(`ioctl: arg1 == ${expression}\n`);
    assert.equal(verdict(policy, "ioctl", 0n, value), "allow", expression);
  };
  accepts("10", 10n);
  accepts("010", 8n);
  accepts("0x10", 16n);
  accepts("0", 0n);
  accepts("-1", 0xffff_ffff_ffff_ffffn);
  accepts("0xffffffffffffffff", 0xffff_ffff_ffff_ffffn);
  accepts("AT_FDCWD", 0xffff_ffff_ffff_ff9cn);
  accepts("PROT_READ|PROT_WRITE", 3n);
  accepts("PROT_READ | PROT_WRITE | 0x100", 0x103n);
  accepts("~PROT_READ", 0xffff_ffff_ffff_fffen);
  accepts("~(PROT_READ|PROT_WRITE)", 0xffff_ffff_ffff_fffcn);
  accepts("(1|(2|(4)))", 7n);
  accepts("~1|1", 0xffff_ffff_ffff_ffffn);
  accepts("FIONBIO", 0x5421n);
  accepts("KVM_RUN", 0xae80n);
  accepts("VHOST_NET_SET_BACKEND", 0x4008_af30n);
});

Deno.test("operators", () => {
  const policy = load(`
read: arg0 == 5
write: arg0 != 5
close: arg0 < 5
fstat: arg0 <= 5
lseek: arg0 > 5
mmap: arg2 in PROT_READ|PROT_WRITE
brk: arg0 & 6
poll: arg5 >= 0x100000000
`);
  const allowed = (name: string, ...args: bigint[]) => verdict(policy, name, ...args) === "allow";
  assert.deepEqual([4n, 5n, 6n].map((value) => allowed("read", value)), [false, true, false]);
  assert.deepEqual([4n, 5n, 6n].map((value) => allowed("write", value)), [true, false, true]);
  assert.deepEqual([4n, 5n, 6n].map((value) => allowed("close", value)), [true, false, false]);
  assert.deepEqual([4n, 5n, 6n].map((value) => allowed("fstat", value)), [true, true, false]);
  assert.deepEqual([4n, 5n, 6n].map((value) => allowed("lseek", value)), [false, false, true]);
  assert.deepEqual(
    [0n, 1n, 3n, 4n, 7n, 1n << 40n].map((value) => allowed("mmap", 0n, 0n, value)),
    [true, true, true, false, false, false],
  );
  assert.deepEqual([1n, 2n, 6n, 8n].map((value) => allowed("brk", value)), [
    false,
    true,
    true,
    false,
  ]);
  const wide = [0xffff_ffffn, 1n << 32n].map((value) => allowed("poll", 0n, 0n, 0n, 0n, 0n, value));
  assert.deepEqual(wide, [false, true]);
});

Deno.test("&& binds tighter than ||", () => {
  const policy = load("ioctl: arg0 == 1 && arg1 == 2 || arg0 == 3\n");
  assert.equal(verdict(policy, "ioctl", 1n, 2n), "allow");
  assert.equal(verdict(policy, "ioctl", 1n, 3n), "kill");
  assert.equal(verdict(policy, "ioctl", 3n, 9n), "allow");
});

Deno.test("return behind a condition is for what the condition does not allow", () => {
  const policy = load("socket: arg0 == AF_UNIX; return EACCES\n");
  assert.equal(verdict(policy, "socket", 1n), "allow");
  assert.equal(verdict(policy, "socket", 2n), "errno 13");
});

Deno.test("filters in braces are tried in their order", () => {
  const policy = load(`
{read, write[arch=x86_64,arm64]}: {arg0 == 1; return EBADF, arg0 == 2, arg0 > 9; log}
open[arch=arm]: allow
no_such_call[arch=arm]: allow
`);
  for (const name of ["read", "write"]) {
    assert.equal(verdict(policy, name, 1n), "errno 9");
    assert.equal(verdict(policy, name, 2n), "allow");
    assert.equal(verdict(policy, name, 3n), "kill");
    assert.equal(verdict(policy, name, 10n), "log");
  }
  assert.equal(verdict(policy, "open"), "kill");
});

Deno.test("@include, @frequency and @default", () => {
  const policy = load({
    "dir/p.policy":
      "@include ./sub/common.policy\n@frequency ./f\n@default kill-process\nread: 1\n",
    "dir/sub/common.policy": "@include ../more.policy\nioctl: arg1 == 1\n",
    "dir/more.policy": "ioctl: arg1 == 2\nwrite: 1\n",
    "dir/f": "read: 100 # often\nwrite: 7\n",
  });
  assert.equal(verdict(policy, "ioctl", 0n, 1n), "allow");
  assert.equal(verdict(policy, "ioctl", 0n, 2n), "allow");
  assert.equal(verdict(policy, "ioctl", 0n, 3n), "kill-process");
  assert.equal(verdict(policy, "open"), "kill-process");
  assert.deepEqual(
    policy.syscalls.map(({ name, frequency }) => [name, frequency]),
    [["ioctl", 1], ["write", 7], ["read", 100]],
  );
  assert.deepEqual(policy.syscalls[0]!.rules[1]!.place, {
    file: "dir/sub/common.policy",
    line: 2,
    column: 8,
  });
});

Deno.test("all problems come at once, each with its place and what was meant", () => {
  assert.deepEqual(
    problemsOf({
      "dir/p.policy": `raed: 1
write: arg0 == O_CLOEXCE || arg6 == 1
close: alow
mmap arg2 in 1
@include ./other.policy
@includ ./other.policy
ioctl: arg1 == TCGETS |
dup: arg0 == 09
dup2: return 5000
dup3: arg0 = 1
fcntl: arg1 == F_GETFD; kill
`,
      "dir/other.policy": "fork: allow\n  vfork: alllow\nclone: $\n",
    }),
    [
      'dir/p.policy:1:1: unknown system call "raed" (read?)',
      'dir/p.policy:2:16: unknown constant "O_CLOEXCE" (O_CLOEXEC?)',
      'dir/p.policy:2:29: expected arg0 to arg5, got "arg6"',
      'dir/p.policy:3:8: unknown action "alow" (allow?)',
      'dir/p.policy:4:6: expected ":" after the system call, got "arg2"',
      'dir/p.policy:6:1: unknown statement "@includ" (@include?)',
      "dir/p.policy:7:24: expected a number or the name of a constant, got the end of the line",
      "dir/p.policy:8:14: expected a decimal number, an octal one that begins with 0, or a " +
      'hexadecimal one that begins with 0x, got "09"',
      "dir/p.policy:9:14: expected an error number from 0 to 4095, got 5000",
      'dir/p.policy:10:12: expected ==, !=, <, <=, >, >=, & or in, got "="',
      'dir/p.policy:11:25: expected "return" (other actions behind a condition stand in braces), ' +
      'got "kill"',
      'dir/other.policy:2:10: unknown action "alllow" (allow?)',
      'dir/other.policy:3:8: unexpected character "$"',
    ],
  );
});

Deno.test("an excerpt shows what is wrong", () => {
  assert.throws(() => load("read: arg0 == O_RDONYL\n"), {
    message: 'dir/p.policy:1:15: unknown constant "O_RDONYL"; did you mean "O_RDONLY"?\n' +
      "  read: arg0 == O_RDONYL\n" +
      "                ^^^^^^^^",
  });
});

Deno.test("a filter behind one without a condition is refused", () => {
  assert.deepEqual(problemsOf("read: 1\nread: arg0 == 1\nwrite: arg0 == 1\nwrite: return 1\n"), [
    "dir/p.policy:2:1: read has a filter without a condition already, at dir/p.policy:1",
  ]);
  assert.deepEqual(problemsOf("{read, read}: allow\n"), [
    "dir/p.policy:1:8: read has a filter without a condition already, at dir/p.policy:1",
  ]);
});

Deno.test("includes that never end, and files that are missing, are refused", () => {
  assert.deepEqual(problemsOf("@include ./p.policy\n"), [
    "dir/p.policy:1:10: dir/p.policy includes itself: dir/p.policy -> dir/p.policy",
  ]);
  assert.deepEqual(problemsOf("@include ./no.policy\n@include no.policy\n@include\n"), [
    "dir/p.policy:1:10: cannot read dir/no.policy: no such file",
    'dir/p.policy:2:10: expected a path that begins with "/", "./" or "../", got "no.policy"',
    "dir/p.policy:3:9: expected a path, got the end of the line",
  ]);
  const chain: Record<string, string> = { "dir/p.policy": "@include ./1\n" };
  for (let index = 1; index < 20; index++) chain[`dir/${index}`] = `@include ./${index + 1}\n`;
  assert.match(problemsOf(chain).join(), /at most 10 files that include one another/);
  const wide: Record<string, string> = { "dir/p.policy": "@include ./a\n".repeat(2) };
  const next = "@include ./b\n".repeat(300);
  wide["dir/a"] = next;
  wide["dir/b"] = "read[arch=arm]: allow\n";
  assert.match(problemsOf(wide).join(), /at most 256 files in all/);
  assert.throws(() => loadPolicy("/nowhere/at/all.policy"), {
    message: "/nowhere/at/all.policy: cannot read the policy: no such file",
  });
});

Deno.test("defaults that let calls through, and deny lists, are refused", () => {
  assert.equal(problemsOf("@default allow\n").length, 1);
  assert.equal(problemsOf("@default return 1\n").length, 1);
  assert.equal(problemsOf("@denylist\n").length, 1);
  assert.equal(problemsOf("@default trap\n").length, 0);
});

Deno.test("any text is read or refused, never anything else", () => {
  const words = fc.constantFrom(
    ...["read", "ioctl", ":", "arg0", "arg9", "==", "&&", "||", "|", "&", "in", "~", "(", ")", "{"],
    ...["}", "[", "]", ",", ";", "=", "return", "allow", "1", "0x", "-5", "EPERM", "PROT_READ"],
    ...["@include", "@default", "./x", "\n", "\\\n", "#", "\\", "\t", " ", "@", "!"],
  );
  const text = fc.oneof(
    fc.array(words, { maxLength: 60 }).map((parts) => parts.join(" ")),
    fc.string({ unit: "binary", maxLength: 200 }),
  );
  fc.assert(
    fc.property(text, (policy) => {
      try {
        load(policy);
      } catch (error) {
        assert.ok(error instanceof PolicyError);
        assert.ok(error.problems.length > 0);
      }
    }),
    { numRuns: 3000 },
  );
});
