import assert from "node:assert/strict";
import { join } from "node:path";
import { constantNames, constantValue, errnoConstantName } from "./constants.ts";
import { syscallName, syscallNames, syscallNumber } from "./syscalls.ts";

/** Those that differ on purpose, or that the C library has under the name with another meaning. */
const DIFFERENT: ReadonlySet<string> = new Set(["O_LARGEFILE"]);

const HEADERS = [
  ...["sys/mman.h", "linux/mman.h", "fcntl.h", "sched.h", "linux/sched.h", "sys/socket.h"],
  ...["netinet/in.h", "netinet/tcp.h", "sys/epoll.h", "sys/eventfd.h", "sys/timerfd.h"],
  ...["sys/signalfd.h", "sys/inotify.h", "linux/futex.h", "sys/prctl.h", "asm/prctl.h", "time.h"],
  ...["sys/time.h", "sys/resource.h", "signal.h", "sys/wait.h", "errno.h", "sys/random.h"],
  ...["linux/memfd.h", "linux/seccomp.h", "sys/ptrace.h", "linux/falloc.h", "sys/uio.h"],
  ...["sys/mount.h", "sys/stat.h", "unistd.h", "sys/file.h", "sys/ioctl.h", "termios.h"],
  ...["linux/sockios.h", "linux/fs.h", "linux/kvm.h", "linux/vhost.h", "linux/if_tun.h"],
  ...["linux/loop.h", "linux/vfio.h", "linux/random.h", "linux/userfaultfd.h", "sys/shm.h"],
  ...["linux/nsfs.h", "linux/mempolicy.h", "linux/input.h", "poll.h", "linux/vm_sockets.h"],
];

async function compile(source: string): Promise<string | undefined> {
  const folder = await Deno.makeTempDir();
  try {
    const [input, output] = [join(folder, "t.c"), join(folder, "t")];
    await Deno.writeTextFile(input, source);
    const args = ["-w", "-o", output, input];
    if (!(await run("gcc", args)).success) return undefined;
    return new TextDecoder().decode((await run(output, [])).stdout);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function run(program: string, args: string[]): Promise<Deno.CommandOutput> {
  return await new Deno.Command(program, { args, stderr: "null" }).output();
}

async function hasCompiler(): Promise<boolean> {
  try {
    return (await compile("#include <linux/kvm.h>\nint main(void) { return 0; }\n")) !== undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

const canCompile = await hasCompiler();
const suffix = canCompile ? "" : " (skipped: no gcc with Linux's headers)";

Deno.test({
  name: `constants are those of the host's headers${suffix}`,
  ignore: !canCompile,
  async fn() {
    const names = constantNames();
    const source = [
      "#define _GNU_SOURCE",
      ...HEADERS.map((header) => `#include <${header}>`),
      "#include <stdio.h>",
      '#define SHOW(name) printf(#name " %llx\\n", (__typeof__(name))-1 < 0 && (name) < 0 ? ' +
      "(unsigned long long)(long long)(name) : (unsigned long long)(name));",
      "int main(void) {",
      ...names.map((name) => `#ifdef ${name}\nSHOW(${name})\n#endif`),
      "return 0; }",
    ];
    const output = await compile(source.join("\n"));
    assert.ok(output !== undefined);
    let compared = 0;
    for (const line of output.trim().split("\n")) {
      const [name, value] = line.split(" ");
      if (DIFFERENT.has(name!)) continue;
      assert.equal(constantValue(name!), BigInt(`0x${value}`), name);
      compared++;
    }
    assert.ok(compared > 1200, `${compared} of ${names.length} compared`);
  },
});

Deno.test({
  name: `system calls have the numbers of the host's headers${suffix}`,
  ignore: !canCompile,
  async fn() {
    const names = [...syscallNames()];
    const source = [
      "#include <asm/unistd.h>",
      "#include <stdio.h>",
      "int main(void) {",
      ...names.map((name) => `#ifdef __NR_${name}\nprintf("${name} %d\\n", __NR_${name});\n#endif`),
      "return 0; }",
    ];
    const output = await compile(source.join("\n"));
    assert.ok(output !== undefined);
    const lines = output.trim().split("\n");
    for (const line of lines) {
      const [name, number] = line.split(" ");
      assert.equal(syscallNumber(name!), Number(number), name);
    }
    assert.ok(lines.length > 350);
  },
});

Deno.test("system calls and error numbers have their names", () => {
  assert.equal(syscallName(0), "read");
  assert.equal(syscallName(59), "execve");
  assert.equal(syscallName(334), "rseq");
  assert.equal(syscallName(435), "clone3");
  assert.equal(syscallName(462), "mseal");
  assert.equal(syscallName(400), undefined);
  assert.equal(syscallNumber("io_uring_setup"), 425);
  assert.equal(syscallNumber("toString"), undefined);
  for (const name of syscallNames()) assert.equal(syscallName(syscallNumber(name)!), name);
  for (const name of constantNames()) assert.notEqual(constantValue(name), undefined, name);
  assert.equal(constantValue("O_CLOEXE"), undefined);
  assert.equal(constantValue("CLOEXEC"), undefined);
  assert.equal(constantValue(""), undefined);
  assert.equal(new Set(constantNames()).size, constantNames().length);
  assert.equal(errnoConstantName(11), "EAGAIN");
  assert.equal(errnoConstantName(2), "ENOENT");
  assert.equal(errnoConstantName(4000), "4000");
});
