import assert from "node:assert/strict";
import { join } from "node:path";
import { runVmctl } from "./support/vmctl.ts";

async function inFolder(
  files: Readonly<Record<string, string>>,
  test: (path: (name: string) => string) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "vmctl-policy-" });
  try {
    for (const [name, text] of Object.entries(files)) {
      await Deno.writeTextFile(join(folder, name), text);
    }
    await test((name) => join(folder, name));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("policy check reads files and what it was given as a descriptor, and waits for no FIFO", async () => {
  const check = (path: string, stdin?: string) =>
    runVmctl(["policy", "check", path], stdin === undefined ? {} : { stdin });
  await inFolder({}, async (path) => {
    const fifo = path("fifo");
    assert.ok((await new Deno.Command("mkfifo", { args: [fifo] }).output()).success);
    using _listener = Deno.listen({ transport: "unix", path: path("socket") });
    const refused: [string, string][] = [
      [fifo, "expected a regular file, got a FIFO"],
      [path("socket"), "expected a regular file, got a socket"],
      ["/dev/zero", "expected a regular file, got a character device"],
      [path("."), "it is a folder"],
      [path("missing"), "no such file"],
    ];
    for (const [file, message] of refused) {
      const { code, stdout, stderr } = await check(file);
      const expected = {
        code: 1,
        stdout: "",
        stderr: `vmctl: ${file}: cannot read the policy: ${message}\n`,
      };
      assert.deepEqual({ code, stdout, stderr }, expected);
    }
    await Deno.writeTextFile(path("including.policy"), "@include ./fifo\n");
    const including = await check(path("including.policy"));
    assert.match(
      including.stderr,
      /:1:10: cannot read .*fifo: expected a regular file, got a FIFO/,
    );
    for (const file of ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"]) {
      const { stdout, stderr } = await check(file, "read: 1\n");
      assert.match(stdout, /: ok, 1 system calls/, stderr);
    }
    const long = await check("/dev/stdin", `# ${"x".repeat(1 << 20)}\n`);
    assert.equal(
      long.stderr,
      "vmctl: /dev/stdin: cannot read the policy: expected at most 1048576 bytes\n",
    );
  });
});

Deno.test("policy check names all that is wrong, with file and line", async () => {
  const files = {
    "good.policy": "@include ./common.policy\nioctl: arg1 == FIONBIO\n",
    "common.policy": "read: 1\n",
    "bad.policy": "raed: 1\nwrite: arg0 == PROT_RAED\n",
  };
  await inFolder(files, async (path) => {
    const good = await runVmctl(["policy", "check", path("good.policy")]);
    assert.equal(good.code, 0);
    assert.match(good.stdout, /good\.policy: ok, 2 system calls, [0-9]+ instructions\n$/);
    const both = await runVmctl(["policy", "check", path("bad.policy"), path("good.policy")]);
    assert.equal(both.code, 1);
    assert.equal(both.stdout, good.stdout);
    assert.equal(
      both.stderr,
      `vmctl: ${path("bad.policy")}:1:1: unknown system call "raed"; did you mean "read"?\n` +
        "  raed: 1\n  ^^^^\n" +
        `vmctl: ${
          path("bad.policy")
        }:2:16: unknown constant "PROT_RAED"; did you mean "PROT_READ"?\n` +
        "  write: arg0 == PROT_RAED\n                 ^^^^^^^^^\n",
    );
    const json = await runVmctl(["policy", "check", "--json", path("bad.policy")]);
    assert.equal(json.code, 1);
    assert.deepEqual(JSON.parse(json.stdout)[0].problems[0], {
      file: path("bad.policy"),
      line: 1,
      column: 1,
      message: 'unknown system call "raed"',
      suggestion: "read",
    });
  });
});

Deno.test("policy compile writes instructions, JSON or text, to a file or the output", async () => {
  await inFolder({ "p.policy": "read: 1\nwrite: return EPERM\n" }, async (path) => {
    const out = path("p.bpf");
    const raw = await runVmctl(["policy", "compile", path("p.policy"), "-o", out]);
    assert.deepEqual([raw.code, raw.stdout, raw.stderr], [0, "", ""]);
    const bytes = await Deno.readFile(out);
    assert.equal(bytes.length % 8, 0);
    // Load the architecture: BPF_LD | BPF_W | BPF_ABS of offset 4.
    assert.deepEqual([...bytes.subarray(0, 8)], [0x20, 0, 0, 0, 4, 0, 0, 0]);
    const json = await runVmctl(["policy", "compile", "--json", path("p.policy")]);
    const { instructions } = JSON.parse(json.stdout);
    assert.equal(instructions.length, bytes.length / 8);
    assert.deepEqual(instructions[0], { code: 0x20, jt: 0, jf: 0, k: 4 });
    const text = await runVmctl(["policy", "compile", "--text", path("p.policy")]);
    assert.equal(text.stdout.trimEnd().split("\n").length, instructions.length);
    assert.match(text.stdout, /return errno EPERM/);
    const killing = await runVmctl([
      ...["policy", "compile", "--text", "--violation", "kill-process", path("p.policy")],
    ]);
    assert.doesNotMatch(killing.stdout, /return trap/);
    const two = await runVmctl(["policy", "compile", "--text", "--json", path("p.policy")]);
    assert.equal(two.code, 1);
    const nowhere = await runVmctl([
      ...["policy", "compile", path("p.policy"), "-o", path("no/such/folder")],
    ]);
    assert.equal(nowhere.code, 1);
    assert.match(nowhere.stderr, /^vmctl: cannot write .*\/no\/such\/folder: no such file$/m);
  });
});

Deno.test("policy explain tells what happens, and by which line", async () => {
  const text = "read: 1\nioctl: arg1 == FIONBIO || arg1 == 2; return ENOTTY\nfcntl: arg1 & 8\n";
  await inFolder({ "p.policy": text }, async (path) => {
    const file = path("p.policy");
    const explain = async (...words: string[]) =>
      await runVmctl(["policy", "explain", file, ...words]);
    const all = await explain();
    assert.equal(all.code, 0);
    assert.match(all.stdout, /^CALL +ACTION +WHERE +CONDITION\n/);
    assert.match(all.stdout, /^ioctl +allow +.*:2 +arg1 == FIONBIO \|\| arg1 == 2\n/m);
    assert.match(all.stdout, /^ +return ENOTTY +.*:2 +otherwise\n/m);
    assert.match(all.stdout, /^\(any other\) +trap +by default\n/m);
    assert.equal(
      (await explain("fcntl")).stdout,
      `fcntl (72)\n  allow, ${file}:3 where arg1 & 8\n  otherwise trap, by default\n`,
    );
    assert.equal(
      (await explain("41", "--violation", "log")).stdout,
      "socket (41)\n  log, by default: the policy does not name it\n",
    );
    assert.equal(
      (await explain("ioctl", "0", "FIONBIO")).stdout,
      `ioctl(0x0, 0x5421): allow, ${file}:2: by this rule\n`,
    );
    assert.equal(
      (await explain("fcntl", "0", "~8")).stdout,
      "fcntl(0x0, 0xfffffffffffffff7): trap, by default: none of the call's rules fits\n",
    );
    const json = JSON.parse((await explain("--json", "ioctl", "0", "3")).stdout);
    assert.equal(json.action, "return ENOTTY");
    assert.equal(json.line, 2);
    assert.equal(json.returns, 0x5_0000 + 25);
    const unknown = await explain("scoket");
    assert.equal(unknown.code, 1);
    assert.match(unknown.stderr, /unknown system call "scoket"; did you mean "socket"\?/);
    const tooMany = await explain("read", "1", "2", "3", "4", "5", "6", "7");
    assert.equal(tooMany.code, 1);
  });
});

Deno.test("the program's own policies can be looked at", async () => {
  const check = await runVmctl(["policy", "check", "builtin:common_device"]);
  assert.equal(check.code, 0, check.stderr);
  const openat = await runVmctl(["policy", "explain", "builtin:common_device", "openat"]);
  assert.match(openat.stdout, /return ENOENT, policies\/common_device\.policy:[0-9]+\n/);
  const missing = await runVmctl(["policy", "check", "builtin:nothing"]);
  assert.equal(missing.code, 1);
  assert.match(missing.stderr, /no built-in policy "nothing"; there are: .*common_device/);
});
