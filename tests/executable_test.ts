import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { engineTest, type TestEngine } from "./support/engines.ts";
import { tinyKernels } from "./support/tiny_kernel.ts";
import { runVmctl, vmctlBinary } from "./support/vmctl.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const NOBODY = 65534;
const isRoot = Deno.uid() === 0;

/** A world of its own with nothing in it but the executable and a guest. */
class Place implements AsyncDisposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "vmctl-executable-" });
  readonly program = join(this.folder, "vmctl");
  readonly kernel = join(this.folder, "hello.elf");

  static async create(): Promise<Place> {
    const place = new Place();
    Deno.chmodSync(place.folder, 0o755);
    await Deno.copyFile(await vmctlBinary(), place.program);
    await Deno.writeFile(place.kernel, tinyKernels.hello("it runs\n"));
    return place;
  }

  /** Arguments that run the guest. */
  guest(kind: TestEngine["kind"]): string[] {
    return ["run", "--mem", "64", "--hypervisor", kind, this.kernel];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.folder, { recursive: true });
  }
}

async function runCommand(program: string, options: Deno.CommandOptions): Promise<string> {
  const { code, signal, stdout, stderr } = await new Deno.Command(program, {
    stdin: "null",
    ...options,
  }).output();
  const errors = new TextDecoder().decode(stderr);
  assert.equal(code, 0, `${program} ended with ${signal ?? code}: ${errors}`);
  return new TextDecoder().decode(stdout);
}

/** Why no namespaces can be made here, or undefined. */
function namespaceProblem(): string | undefined {
  try {
    const { success } = new Deno.Command("unshare", {
      args: ["--user", "--map-root-user", "--mount", "--net", "true"],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).outputSync();
    return success ? undefined : "no user namespaces";
  } catch {
    return "no unshare command";
  }
}

Deno.test("the executable runs with an empty environment and no home", async () => {
  const version = (await runVmctl(["--version"])).stdout;
  assert.match(version, /^vmctl \d+\.\d+\.\d+\n$/);
  const bare = await runVmctl(["--version"], { clearEnv: true, cwd: "/" });
  assert.deepEqual(bare, { code: 0, signal: null, stdout: version, stderr: "" });
  const nowhere = await runVmctl(["--version"], {
    clearEnv: true,
    env: { HOME: "/proc/nowhere", XDG_CACHE_HOME: "/proc/nowhere", TMPDIR: "/proc/nowhere" },
  });
  assert.deepEqual(nowhere, bare);
});

Deno.test("the executable shows the licenses of all that is in it", async () => {
  const { code, stdout, stderr } = await runVmctl(["--licenses"], { clearEnv: true, cwd: "/" });
  assert.deepEqual([code, stderr], [0, ""]);
  for (const whose of ["vmctl authors", "smol-toml", "Deno authors", "V8 project authors"]) {
    assert.ok(stdout.includes(whose), whose);
  }
  assert.equal(stdout, await Deno.readTextFile(`${await vmctlBinary()}.licenses.txt`));
});

engineTest("a copy of the executable in an empty environment runs a guest", async (engine) => {
  await using place = await Place.create();
  const output = await runCommand(place.program, {
    args: place.guest(engine.kind),
    clearEnv: true,
    cwd: "/",
  });
  assert.equal(output, "it runs\n");
  const left = [...Deno.readDirSync(place.folder)].map(({ name }) => name).sort();
  assert.deepEqual(left, ["hello.elf", "vmctl"]);
});

Deno.test("the executable brings its interpreter along, and keeps none on disk", async () => {
  await using place = await Place.create();
  const cache = join(place.folder, "cache");
  const kept = join(cache, "vmctl", "translations");
  await Deno.mkdir(kept, { recursive: true });
  const output = await runCommand(place.program, {
    args: place.guest("soft"),
    clearEnv: true,
    env: { XDG_CACHE_HOME: cache },
    cwd: "/",
  });
  assert.equal(output, "it runs\n");
  const names = [...Deno.readDirSync(kept)].map(({ name }) => name);
  assert.deepEqual(names.filter((name) => name.startsWith("interpreter-")), []);
});

const noNamespaces = namespaceProblem();

engineTest(
  "a guest runs without network, checkout and home",
  async (engine) => {
    await using place = await Place.create();
    const home = Deno.env.get("HOME") ?? "/root";
    const hidden = [ROOT, home, dirname(Deno.execPath())];
    const script = `set -e
for folder in ${hidden.map((folder) => `'${folder}'`).join(" ")}; do
  [ ! -d "$folder" ] || mount -t tmpfs -o ro none "$folder"
done
[ ! -e '${Deno.execPath()}' ]
exec "$0" "$@"`;
    const output = await runCommand("unshare", {
      args: [
        ...["--user", "--map-root-user", "--mount", "--net"],
        ...["/bin/sh", "-c", script, place.program, ...place.guest(engine.kind)],
      ],
      env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
      clearEnv: true,
      cwd: "/",
    });
    assert.equal(output, "it runs\n");
  },
  { unless: () => noNamespaces },
);

engineTest(
  "another user runs a guest",
  async (engine) => {
    await using place = await Place.create();
    const runDirectory = join(place.folder, "run");
    await Deno.mkdir(runDirectory);
    await Deno.chown(runDirectory, NOBODY, NOBODY);
    const output = await runCommand(place.program, {
      args: place.guest(engine.kind),
      uid: NOBODY,
      gid: NOBODY,
      clearEnv: true,
      env: { XDG_RUNTIME_DIR: runDirectory },
      cwd: "/",
    });
    assert.equal(output, "it runs\n");
  },
  {
    unless: ({ kind }) =>
      !isRoot
        ? "needs root to become another user"
        : kind === "kvm"
        ? "/dev/kvm is not open to everybody"
        : undefined,
  },
);

engineTest("sixteen start at once", async (engine) => {
  await using place = await Place.create();
  const outputs = await Promise.all(
    Array.from(
      { length: 16 },
      () => runCommand(place.program, { args: place.guest(engine.kind), clearEnv: true }),
    ),
  );
  assert.deepEqual(outputs, outputs.map(() => "it runs\n"));
});

Deno.test("the executable is of reasonable size and starts in reasonable time", async () => {
  const program = await vmctlBinary();
  const { size } = await Deno.stat(program);
  assert.ok(size < 200e6, `${size} bytes`);
  const best = async (path: string) => {
    let least = Infinity;
    for (let run = 0; run < 5; run++) {
      const begin = performance.now();
      await runCommand(path, { args: ["--version"] });
      least = Math.min(least, performance.now() - begin);
    }
    return least;
  };
  const ours = await best(program);
  const runtime = await best(Deno.execPath());
  console.log(
    `${(size / 1e6).toFixed(1)} MB, --version in ${ours.toFixed(0)} ms ` +
      `(deno --version: ${runtime.toFixed(0)} ms)`,
  );
  // A busy host is slow with any program.
  assert.ok(ours < Math.max(2_000, 20 * runtime), `${ours} ms`);
});
