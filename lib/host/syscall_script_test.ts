import assert from "node:assert/strict";
import { signalProcess, takeProcessEnd } from "./child.ts";
import { HostError } from "./errno.ts";
import { Fd } from "./fd.ts";
import { pipe, read } from "./file.ts";
import { PollEvent, pollFd } from "./poll.ts";
import {
  describeScriptFailure,
  SCRIPT_FAILURE_STATUS,
  type ScriptStep,
  startScript,
} from "./syscall_script.ts";

const SIGCHLD = 17;
const CLONE_PIDFD = 0x1000;
const SYS = {
  write: 1,
  close: 3,
  pause: 34,
  dup2: 33,
  getpid: 39,
  execve: 59,
  exit: 231,
  mkdir: 83,
};

interface Outcome {
  readonly end: ReturnType<typeof takeProcessEnd>;
  readonly output: string;
  readonly failure: string | undefined;
}

function run(steps: (fds: { output: number }) => readonly ScriptStep[]): Outcome {
  const { reader, writer } = pipe();
  const { reader: reportReader, writer: reportWriter } = pipe();
  using output = reader;
  using report = reportReader;
  const pidfd = new Int32Array(1);
  let process;
  {
    using _writer = writer;
    using reportEnd = reportWriter;
    process = startScript(steps({ output: writer.raw }), {
      flags: SIGCHLD | CLONE_PIDFD,
      pidfd,
      reportFd: reportEnd.raw,
    });
  }
  using handle = Fd.adopt(pidfd[0]!);
  pollFd(handle, PollEvent.In, 20_000);
  const bytes = new Uint8Array(4096);
  const failed = bytes.subarray(0, read(report, bytes));
  const failure = process.failureOf(failed.slice());
  return {
    end: takeProcessEnd(handle),
    failure: failure === undefined ? undefined : describeScriptFailure(failure),
    output: new TextDecoder().decode(bytes.subarray(0, read(output, bytes))),
  };
}

const exit = (status: number): ScriptStep => ({ label: "exit", syscall: SYS.exit, args: [status] });

Deno.test("a script makes its calls one after the other", () => {
  const { end, output, failure } = run(({ output }) => [
    { label: "write", syscall: SYS.write, args: [output, "one ", 4] },
    { label: "write", syscall: SYS.write, args: [output, new Uint8Array([50, 10]), 2], expect: 2 },
    { label: "close", syscall: SYS.close, args: [-1], expect: "any" },
    exit(7),
  ]);
  assert.deepEqual(end, { kind: "exited", status: 7 });
  assert.equal(output, "one 2\n");
  assert.equal(failure, undefined);
});

Deno.test("a script ends in another program", () => {
  const { end, output } = run(({ output }) => [
    { label: "dup2", syscall: SYS.dup2, args: [output, 1], expect: 1 },
    {
      label: "execve of /bin/sh",
      syscall: SYS.execve,
      args: ["/bin/sh", ["sh", "-c", 'echo "$WORD $0"; kill -9 $$', null], ["WORD=hello", null]],
    },
  ]);
  assert.deepEqual(end, { kind: "killed", signal: 9, dumpedCore: false });
  assert.equal(output, "hello sh\n");
});

Deno.test("a step that fails is named, and nothing is done after it", () => {
  for (
    const [step, message] of [
      [
        { label: "mkdir of /proc/x", syscall: SYS.mkdir, args: ["/proc/x", 0o755] },
        "mkdir of /proc/x: no such file or directory (ENOENT)",
      ],
      [
        { label: "getpid", syscall: SYS.getpid, args: [], expect: 1 },
        /^getpid: expected the result 1, got [0-9]+$/,
      ],
    ] as const
  ) {
    const { end, output, failure } = run(({ output }) => [
      step,
      { label: "write", syscall: SYS.write, args: [output, "on", 2] },
      exit(0),
    ]);
    assert.deepEqual(end, { kind: "exited", status: SCRIPT_FAILURE_STATUS });
    assert.equal(output, "");
    if (typeof message === "string") assert.equal(failure, message);
    else assert.match(failure ?? "", message);
  }
});

Deno.test("a process that cannot be made is an error", () => {
  // CLONE_THREAD without CLONE_SIGHAND.
  assert.throws(() => startScript([exit(0)], { flags: 0x10000, reportFd: 2 }), HostError);
});

Deno.test("a child ends once, and by a signal to its pidfd", () => {
  const pidfd = new Int32Array(1);
  startScript([{ label: "pause", syscall: SYS.pause, args: [] }], {
    flags: SIGCHLD | CLONE_PIDFD,
    pidfd,
    reportFd: 2,
  });
  using handle = Fd.adopt(pidfd[0]!);
  assert.equal(takeProcessEnd(handle), undefined);
  assert.equal(signalProcess(handle, 9), true);
  pollFd(handle, PollEvent.In, 20_000);
  assert.deepEqual(takeProcessEnd(handle), { kind: "killed", signal: 9, dumpedCore: false });
  assert.equal(signalProcess(handle, 9), false);
  assert.throws(() => takeProcessEnd(handle), HostError);
});
