import assert from "node:assert/strict";
import { parseViolation, VIOLATION_EXIT_STATUS, VIOLATION_REPORT_BYTES } from "./seccomp.ts";
import { Errno } from "./errno.ts";
import type { SeccompJob } from "./testing/seccomp_child.ts";

const CHILD = new URL("./testing/seccomp_child.ts", import.meta.url);

const ALLOW = 0x7fff_0000;
const TRAP = 0x0003_0000;
const KILL_PROCESS = 0x8000_0000;
const KILL_THREAD = 0;
const ERRNO = 0x0005_0000;
const GETPRIORITY = 140;
const X32_BIT = 0x4000_0000;
/** Longest that anything may take that ends at all, however busy the host. */
const PATIENCE_MS = 120_000;

/** A filter that answers one call with `value` and allows all others, of any architecture. */
function answering(number: number, value: number): string {
  const view = new DataView(new ArrayBuffer(32));
  const put = (index: number, [code, jt, jf, k]: readonly number[]) => {
    view.setUint16(index * 8, code!, true);
    view.setUint8(index * 8 + 2, jt!);
    view.setUint8(index * 8 + 3, jf!);
    view.setUint32(index * 8 + 4, k!, true);
  };
  put(0, [0x20, 0, 0, 0]);
  put(1, [0x15, 0, 1, number]);
  put(2, [0x06, 0, 0, value]);
  put(3, [0x06, 0, 0, ALLOW]);
  return btoa(String.fromCharCode(...new Uint8Array(view.buffer)));
}

async function runJob(job: SeccompJob) {
  const { code, signal, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-lock", "-A", CHILD.href, JSON.stringify(job)],
    stdin: "null",
  }).output();
  const lines = new TextDecoder().decode(stdout).trim().split("\n");
  return { code, signal, lines, stderr };
}

const call = { number: GETPRIORITY, args: ["0", "0"] };

Deno.test("a filter answers calls of the thread that loads it", async () => {
  const { code, lines } = await runJob({
    programs: [answering(GETPRIORITY, ERRNO + Errno.EDOM)],
    scope: "thread",
    inWorker: true,
    calls: [call, { number: X32_BIT | GETPRIORITY, args: [] }, call],
  });
  assert.equal(code, 0);
  assert.match(lines[0]!, /^ready [0-9]+ true$/);
  // This kernel may or may not know the x32 interface; the filter says nothing about it.
  assert.deepEqual([lines[1], lines[3]], [`-${Errno.EDOM}`, `-${Errno.EDOM}`]);
  assert.equal(lines.at(-2), "done");
  assert.match(lines.at(-1)!, /^main [0-9]+$/);
});

Deno.test("a filter for the process answers calls of all threads", async () => {
  const { code, lines } = await runJob({
    programs: [answering(GETPRIORITY, ERRNO + Errno.EDOM)],
    scope: "process",
    inWorker: true,
    calls: [call],
  });
  assert.equal(code, 0);
  assert.equal(lines.at(-1), `main -${Errno.EDOM}`);
});

Deno.test("kill-process and trap end the process with SIGSYS", async () => {
  for (const value of [KILL_PROCESS, TRAP]) {
    const { signal, lines } = await runJob({
      programs: [answering(GETPRIORITY, value)],
      scope: "process",
      calls: [call],
    });
    assert.equal(signal, "SIGSYS");
    assert.equal(lines.length, 1);
  }
});

Deno.test("kill-thread ends the thread that made the call", async () => {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--quiet", "--no-lock", "-A", CHILD.href],
      JSON.stringify(
        {
          programs: [answering(GETPRIORITY, KILL_THREAD)],
          scope: "thread",
          inWorker: true,
          calls: [call],
        } satisfies SeccompJob,
      ),
    ],
    stdout: "piped",
  }).spawn();
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  const { value } = await reader.read();
  const tid = Number(/^ready ([0-9]+) true\n/.exec(value ?? "")?.[1]);
  assert.ok(tid > 0, value);
  const deadline = Date.now() + PATIENCE_MS;
  const isThere = () => {
    try {
      return /^State:\s+[^ZX]/m.test(
        Deno.readTextFileSync(`/proc/${child.pid}/task/${tid}/status`),
      );
    } catch {
      return false;
    }
  };
  while (isThere()) {
    assert.ok(Date.now() < deadline, "the thread lives on");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.ok(Deno.statSync(`/proc/${child.pid}`).isDirectory);
  await reader.cancel();
  child.kill("SIGKILL");
  await child.status;
});

Deno.test("a trapped call is reported with its number and arguments", async () => {
  const { code, stderr } = await runJob({
    programs: [answering(GETPRIORITY, TRAP)],
    scope: "process",
    inWorker: true,
    reportFd: 2,
    calls: [{ number: GETPRIORITY, args: ["11", "22", "33", "44", "55", "18446744073709551615"] }],
  });
  assert.equal(code, VIOLATION_EXIT_STATUS);
  assert.equal(stderr.length, VIOLATION_REPORT_BYTES);
  const violation = parseViolation(stderr);
  assert.equal(violation?.syscall, GETPRIORITY);
  assert.equal(violation?.arch, 0xc000_003e);
  assert.deepEqual(violation?.args, [11n, 22n, 33n, 44n, 55n, 0xffff_ffff_ffff_ffffn]);
  assert.ok(violation !== undefined && violation.address > 0n);
});

Deno.test("what is no report is not taken for one", () => {
  assert.equal(parseViolation(new Uint8Array(VIOLATION_REPORT_BYTES)), undefined);
  assert.equal(parseViolation(new Uint8Array(3)), undefined);
});
