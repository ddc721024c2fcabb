import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { addSegment, ElfError } from "./elf.ts";
import { writeExecutable } from "./executable.ts";

const isRoot = Deno.uid() === 0;

/** A script that says, as JSON, what it was started with, and can be its own worker and child. */
const PROBE = `"use strict";
function describeFiles(libc) {
  return [...Deno.readDirSync("/proc/self/fd")].map(({ name }) => {
    try {
      const target = Deno.readLinkSync("/proc/self/fd/" + name);
      return { fd: Number(name), target, closeOnExec: libc.symbols.fcntl(Number(name), 1) === 1 };
    } catch {
      return undefined;
    }
  }).filter((file) => file !== undefined);
}

async function main() {
  const libc = Deno.dlopen("libc.so.6", {
    getpid: { parameters: [], result: "i32" },
    fcntl: { parameters: ["i32", "i32"], result: "i32" },
  });
  const worker = new Worker(Deno.mainModule, { type: "module", name: "a worker" });
  const answer = await new Promise((resolve) => worker.onmessage = (event) => resolve(event.data));
  worker.terminate();
  console.log(JSON.stringify({
    args: Deno.args,
    builtin: require("node:path").join("a", "b"),
    execPath: Deno.execPath(),
    env: Deno.env.toObject(),
    ffi: libc.symbols.getpid() === Deno.pid,
    worker: answer,
    comm: Deno.readTextFileSync("/proc/self/comm").trim(),
    cmdline: Deno.readTextFileSync("/proc/self/cmdline").split("\\0").slice(0, -1),
    files: describeFiles(libc),
  }));
}

if ("WorkerGlobalScope" in globalThis) {
  self.postMessage([self.name, ...Deno.args]);
} else if (Deno.args[0] === "child") {
  const child = new Deno.Command(Deno.execPath(), { args: ["-x", "of a child"] }).outputSync();
  Deno.stdout.writeSync(child.stdout);
} else {
  main();
}
`;

interface Said {
  args: string[];
  builtin: string;
  execPath: string;
  env: Record<string, string>;
  ffi: boolean;
  worker: string[];
  comm: string;
  cmdline: string[];
  files: { fd: number; target: string; closeOnExec: boolean }[];
}

class Probe implements Disposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "vmctl-executable-" });
  readonly path = join(this.folder, "probe");

  constructor(script = PROBE) {
    Deno.chmodSync(this.folder, 0o755);
    writeExecutable(this.path, { script });
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.folder, { recursive: true });
  }
}

async function run(program: string, options: Deno.CommandOptions = {}): Promise<Said> {
  const { code, signal, stdout, stderr } = await new Deno.Command(program, {
    stdin: "null",
    signal: AbortSignal.timeout(600_000),
    ...options,
  }).output();
  const errors = new TextDecoder().decode(stderr);
  assert.equal(code, 0, `status ${code}, signal ${signal}: ${errors}`);
  assert.equal(errors, "");
  return JSON.parse(new TextDecoder().decode(stdout));
}

function bundles({ files }: Said): Said["files"] {
  return files.filter(({ target }) => target.startsWith("/memfd:vmctl.js"));
}

function shell(script: string, ...args: string[]): Promise<Said> {
  return run("/bin/sh", { args: ["-c", script, ...args] });
}

Deno.test("the script runs as main program, with workers and foreign functions", async () => {
  using probe = new Probe();
  const said = await run(probe.path, { cwd: "/" });
  assert.deepEqual(said.args, []);
  assert.equal(said.builtin, "a/b");
  assert.equal(said.execPath, probe.path);
  assert.equal(said.ffi, true);
  assert.deepEqual(said.worker, ["a worker"]);
  assert.equal(said.comm, "probe");
  assert.deepEqual(said.cmdline, [probe.path]);
});

Deno.test("workers have scripts by their names", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "vmctl-executable-" });
  try {
    const path = join(folder, "probe");
    const worker = (role: string) => `self.postMessage([self.name, ${JSON.stringify(role)}]);`;
    writeExecutable(path, {
      script: `Promise.all(["engine7", "engine", "other"].map((name) => {
        const worker = new Worker(Deno.mainModule, { type: "module", name });
        return new Promise((resolve) => worker.onmessage = ({ data }) => resolve(data));
      })).then((said) => {
        console.log(JSON.stringify(said));
        Deno.exit(0);
      });`,
      worker: worker("any"),
      namedWorkers: { "^engine\\d+$": worker("engine") },
    });
    const { stdout } = await new Deno.Command(path).output();
    assert.deepEqual(JSON.parse(new TextDecoder().decode(stdout)), [
      ["engine7", "engine"],
      ["engine", "any"],
      ["other", "any"],
    ]);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

Deno.test("arguments arrive as they are, whatever the runtime would make of them", async () => {
  using probe = new Probe();
  const args = ["run", "--help", "-A", "--", "--v8-flags=--help", "", "a b", "ü\n$(x)"];
  const said = await run(probe.path, { args });
  assert.deepEqual(said.args, args);
  assert.deepEqual(said.worker, ["a worker", ...args]);
  const long = ["x".repeat(100_000), ...Array.from({ length: 5_000 }, (_, n) => `${n}`)];
  assert.deepEqual((await run(probe.path, { args: long })).args, long);
});

Deno.test("the environment arrives, without settings that are meant for another runtime", async () => {
  using probe = new Probe();
  const { env } = await run(probe.path, {
    clearEnv: true,
    env: {
      HOME: "/nowhere",
      EMPTY: "",
      DENO: "kept",
      DENOTES: "kept",
      N: "kept",
      HOMER: "kept",
      DENO_DIR: join(probe.folder, "cache"),
      DENO_V8_FLAGS: "--no-such-flag",
      NODE_OPTIONS: "--require /no/such/file",
      OTEL_DENO: "true",
    },
  });
  assert.deepEqual(env, {
    DENO_DIR: "/dev/null/vmctl",
    DENO_LOG: "error,deno::cache=off",
    DENO_NO_PACKAGE_JSON: "1",
    DENO_NO_UPDATE_CHECK: "1",
    HOME: "/nowhere",
    EMPTY: "",
    DENO: "kept",
    DENOTES: "kept",
    N: "kept",
    HOMER: "kept",
  });
  assert.deepEqual([...Deno.readDirSync(probe.folder)].map(({ name }) => name), ["probe"]);
});

Deno.test("the bundle's descriptor is high and closes at exec, low ones stay the caller's", async () => {
  using probe = new Probe();
  const said = await shell('exec "$0" 3</etc/hostname 5</etc/passwd', probe.path);
  const target = (fd: number) => said.files.find((file) => file.fd === fd)?.target;
  assert.equal(target(3), "/etc/hostname");
  assert.equal(target(5), "/etc/passwd");
  assert.deepEqual(bundles(said).map(({ fd, closeOnExec }) => [fd, closeOnExec]), [[63, true]]);
});

Deno.test("a taken descriptor number and a low limit are evaded", async () => {
  using probe = new Probe();
  // Not every shell takes two-digit numbers in redirections.
  const taken = await run("/bin/bash", { args: ["-c", 'exec "$0" 63</etc/passwd', probe.path] });
  assert.deepEqual(bundles(taken).map(({ fd }) => fd), [64]);
  const limited = await shell('ulimit -n 48; exec "$0"', probe.path);
  assert.deepEqual(bundles(limited).map(({ fd }) => fd < 48), [true]);
});

Deno.test("closed standard streams do no harm", async () => {
  using probe = new Probe();
  const said = await shell('exec "$0" 0<&- 2>&-', probe.path);
  assert.deepEqual(said.worker, ["a worker"]);
});

Deno.test("found by relative path, PATH, link, and after its file is gone", async () => {
  using probe = new Probe();
  assert.equal((await run("./probe", { cwd: probe.folder })).execPath, probe.path);
  const link = join(probe.folder, "link");
  await Deno.symlink("probe", link);
  assert.equal((await run(link)).execPath, probe.path);
  assert.equal((await shell('PATH="$0" probe', probe.folder)).execPath, probe.path);
  const renamed = await run("/bin/bash", {
    args: ["-c", 'exec -a "deno x" "$0" --eval', probe.path],
  });
  assert.deepEqual(renamed.args, ["--eval"]);
  const gone = await shell('exec 3<"$0"; rm "$0"; exec /proc/self/fd/3 still', probe.path);
  assert.deepEqual(gone.args, ["still"]);
});

Deno.test("it starts itself as a child", async () => {
  using probe = new Probe();
  assert.deepEqual((await run(probe.path, { args: ["child"] })).args, ["-x", "of a child"]);
});

Deno.test("a config file where it is started has no say", async () => {
  using probe = new Probe();
  const cwd = join(probe.folder, "there");
  await Deno.mkdir(cwd);
  for (const name of ["deno.json", "package.json", ".npmrc", "deno.lock"]) {
    await Deno.writeTextFile(join(cwd, name), "{ broken");
  }
  assert.deepEqual((await run(probe.path, { cwd })).worker, ["a worker"]);
});

Deno.test("broken settings in the home folder have no say, and no home is none", async () => {
  using probe = new Probe();
  const home = join(probe.folder, "home");
  await Deno.mkdir(home);
  await Deno.writeFile(join(home, ".npmrc"), Uint8Array.of(0xff, 0xfe));
  assert.equal((await run(probe.path, { env: { HOME: home } })).env["HOME"], home);
  assert.equal((await run(probe.path, { env: { HOME: "/dev/null" } })).env["HOME"], "/dev/null");
  assert.equal((await run(probe.path, { env: { HOME: "" } })).env["HOME"], "");
  assert.ok(!("HOME" in (await run(probe.path, { clearEnv: true })).env));
});

Deno.test("sixteen start at once", async () => {
  using probe = new Probe();
  const said = await Promise.all(
    Array.from({ length: 16 }, (_, n) => run(probe.path, { args: [`${n}`], clearEnv: true })),
  );
  assert.deepEqual(said.map(({ args }) => args), said.map((_, n) => [`${n}`]));
});

Deno.test({
  name: "another user without a home runs it" + (isRoot ? "" : " (skipped: needs root)"),
  ignore: !isRoot,
  async fn() {
    using probe = new Probe();
    const said = await run(probe.path, { uid: 65534, gid: 65534, clearEnv: true, cwd: "/" });
    assert.deepEqual(said.worker, ["a worker"]);
  },
});

const script = existsSync("/usr/bin/script");

Deno.test({
  name: "on a terminal the runtime says nothing of its own" +
    (script ? "" : " (skipped: no script command)"),
  ignore: !script,
  async fn() {
    using probe = new Probe();
    const said = await run("/usr/bin/script", { args: ["-qec", probe.path, "/dev/null"] });
    assert.deepEqual(said.worker, ["a worker"]);
    assert.match(said.files.find(({ fd }) => fd === 2)?.target ?? "", /^\/dev\/(pts|tty)/);
  },
});

Deno.test("an exception shows, and its status is 1", async () => {
  using probe = new Probe(`function fails() { throw new TypeError("as it should"); }\nfails();`);
  const { code, stderr } = await new Deno.Command(probe.path, { env: { NO_COLOR: "1" } }).output();
  assert.equal(code, 1);
  const errors = new TextDecoder().decode(stderr);
  assert.match(errors, /TypeError: as it should\n[^]* at fails \(vmctl\.js/);
});

Deno.test("other files than x86-64 programs are refused", () => {
  const refused = (image: Uint8Array, message: RegExp) =>
    assert.throws(
      () => addSegment(image, () => assert.fail("not reached")),
      (error) => error instanceof ElfError && message.test(error.message),
    );
  const image = new Uint8Array(4096);
  refused(new Uint8Array(10), /10 bytes/);
  refused(image, /little-endian 64-bit ELF/);
  image.set([0x7f, 0x45, 0x4c, 0x46, 2, 1]);
  const data = new DataView(image.buffer);
  data.setUint16(16, 3, true);
  data.setUint16(18, 183, true);
  refused(image, /expected an x86-64 program, got machine 183/);
  data.setUint16(18, 62, true);
  refused(image, /program headers of 56 bytes/);
  data.setUint16(54, 56, true);
  data.setUint16(56, 100, true);
  refused(image, /within 4096 bytes/);
  data.setUint16(56, 2, true);
  data.setBigUint64(32, 64n, true);
  refused(image, /PT_NOTE/);
  data.setUint32(64, 4, true);
  refused(image, /PT_LOAD/);
  data.setUint32(120, 1, true);
  refused(image, /dynamically linked/);
});
