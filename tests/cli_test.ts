import { deepStrictEqual, doesNotMatch, match, strictEqual } from "node:assert/strict";
import { join } from "node:path";
import { runVmctl, vmctlBinary } from "./support/vmctl.ts";

/** A folder with these files, gone at the end of its scope. */
class Folder implements Disposable {
  readonly path = Deno.makeTempDirSync({ prefix: "vmctl-cli-" });

  write(name: string, content: unknown): string {
    const path = join(this.path, name);
    Deno.writeTextFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
    return path;
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

/** Runs `script` in bash with the program as `$VMCTL`. */
async function bash(
  script: string,
  options: { cwd?: string; env?: Record<string, string> } = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  const command = new Deno.Command("bash", {
    args: ["--norc", "--noprofile", "-c", script],
    cwd: options.cwd ?? Deno.cwd(),
    env: { ...options.env, VMCTL: await vmctlBinary() },
    stdin: "null",
  });
  const { code, stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

Deno.test("--version names program and version, as deno.json does", async () => {
  const { version } = JSON.parse(await Deno.readTextFile(new URL("../deno.json", import.meta.url)));
  for (const option of ["--version", "-V"]) {
    const { code, stdout, stderr } = await runVmctl([option]);
    deepStrictEqual([code, stdout, stderr], [0, `vmctl ${version}\n`, ""]);
  }
});

Deno.test("every command has help with examples, without colors in a pipe", async () => {
  const commands = [
    [],
    ["run"],
    ["stop"],
    ["suspend"],
    ["resume"],
    ["powerbtn"],
    ["status"],
    ["state"],
    ["list"],
    ["doctor"],
    ["config"],
    ["config", "check"],
    ["config", "show"],
    ["config", "schema"],
    ["balloon"],
    ["balloon_stats"],
    ["disk", "resize"],
    ["device"],
    ["device", "block"],
    ["device", "rng"],
    ["device", "balloon"],
    ["device", "console"],
    ["policy"],
    ["policy", "check"],
    ["policy", "compile"],
    ["policy", "explain"],
    ["completions"],
  ];
  for (const command of commands) {
    const { code, stdout, stderr } = await runVmctl([...command, "--help"]);
    deepStrictEqual([code, stderr], [0, ""], command.join(" "));
    match(stdout, new RegExp(`Usage: ${["vmctl", ...command].join(" ")} `));
    match(stdout, /Examples:\n {2}# .*\n {2}.*vmctl /);
    // deno-lint-ignore no-control-regex
    doesNotMatch(stdout, /\x1b/);
    strictEqual(stdout.split("\n").every((line) => line.length <= 100), true, stdout);
  }
});

Deno.test("wrong words end with a message, a hint, and status 1 or 35", async () => {
  const cases: [string[], RegExp][] = [
    [[], /^vmctl: expected a command$/m],
    [["config"], /^vmctl: expected a command$/m],
    [["rnu"], /^vmctl: unknown command "rnu"; did you mean "run"\?$/m],
    [["wibble"], /^vmctl: unknown command "wibble"; expected one of run, stop, /m],
    [["run", "--kernl", "x"], /^vmctl: unknown option "--kernl"; did you mean "--kernel"\?$/m],
    [["run", "-x"], /^vmctl: unknown option "-x"$/m],
    [["run", "--mem"], /^vmctl: --mem: expected SIZE, got nothing$/m],
    [["run", "--mem", "--cpus", "2", "k"], /^vmctl: --mem: expected SIZE, got "--cpus"$/m],
    [["run", "a", "b"], /^vmctl: unexpected argument "b": vmctl run takes KERNEL$/m],
    [["list", "a"], /^vmctl: unexpected argument "a": vmctl list takes no arguments$/m],
    [["stop"], /^vmctl: expected VM \(.*\), got nothing$/m],
    [["--cpus", "2", "run", "k"], /unknown option "--cpus" before the command; .* "run"/],
    [["run"], /^vmctl: expected a kernel or firmware to boot, got neither/m],
    [["run", "-m", "0", "k"], /^vmctl: -m: expected a size from 16 MiB to 16 TiB, got "0"$/m],
    [["run", "-m4", "k"], /^vmctl: -m: expected a size from 16 MiB/m],
    [["run", "--cpus=0", "k"], /^vmctl: --cpus: expected a whole number from 1 to 255/m],
    [
      ["run", "--bios", "/dev/null", "/dev/null"],
      /--bios: expected a kernel or firmware, got both/,
    ],
    [
      ["run", "/nowhere/k"],
      /^vmctl: KERNEL: expected a file that can be read, got \/nowhere\/k: no/m,
    ],
    [["run", "/proc/self/fd/987"], /KERNEL: .*got \/proc\/self\/fd\/987, which is not open/],
    [
      ["run", "--serial", "type=file", "/dev/null"],
      /--serial.path: expected a path with type=file/,
    ],
    [
      ["run", "--hypervisor", "sof", "k"],
      /expected auto, kvm or soft, got "sof"; did you mean "soft"/,
    ],
    [["run", "--kernel", "/dev/null", "/dev/null"], /KERNEL: the kernel is given twice/],
    [["completions", "bsh"], /SHELL: expected bash, zsh or fish, got "bsh"; did you mean "bash"\?/],
    [["stop", "--full", "x"], /unknown option "--full"/],
    [["run", "--\x1b[31m"], /unknown option "--\ufffd\[31m"/],
  ];
  for (const [args, message] of cases) {
    const plain = await runVmctl(args);
    deepStrictEqual([plain.code, plain.stdout], [1, ""], args.join(" "));
    match(plain.stderr, message);
    const extended = await runVmctl([...args, "--extended-status"]);
    // Where the value is missing, the option itself stands in its place.
    strictEqual(extended.code, 35, args.join(" "));
  }
});

Deno.test("what is not there is named once, with the reason, and status 1", async () => {
  using folder = new Folder();
  const missing = join(folder.path, "missing");
  const left = folder.write("left", "");
  const cases: [string[], string][] = [
    [["stop", missing], `no VM listens at ${missing}: no such file or directory (ENOENT)`],
    [
      ["balloon", "64M", missing],
      `no VM listens at ${missing}: no such file or directory (ENOENT)`,
    ],
    [["suspend", left], `no VM listens at ${left}: nobody listens there (ECONNREFUSED)`],
    [
      ["disk", "info", missing],
      `${missing}: it cannot be opened: no such file or directory (ENOENT)`,
    ],
    [["policy", "check", missing], `${missing}: cannot read the policy: no such file`],
    [["run", "--bios", "/dev/null"], "--bios: expected a kernel instead"],
  ];
  for (const [args, message] of cases) {
    const { code, stdout, stderr } = await runVmctl([...args, "--extended-status"]);
    deepStrictEqual([code, stdout], [1, ""], `${args.join(" ")}: ${stderr}`);
    strictEqual(stderr.startsWith(`vmctl: ${message}`), true, stderr);
    const paths = stderr.split(folder.path).length - 1;
    strictEqual(paths <= 1, true, stderr);
  }
});

Deno.test("--extended-status counts wherever it stands, also in a config file", async () => {
  using folder = new Folder();
  const wrong = folder.write("wrong.json", { "extended-status": true, "mem": 0 });
  const right = folder.write("right.toml", "extended-status = true\n");
  const cases: [string[], number][] = [
    [["--extended-status", "run", "--wibble"], 35],
    [["run", "--extended-status", "--wibble"], 35],
    [["run", "--wibble", "--extended-status"], 35],
    [["run", "--wibble", "--", "--extended-status"], 1],
    [["run", "--cfg", wrong], 35],
    [["run", "--cfg", right], 35],
    [["run", "--cfg", right, "-m", "0"], 35],
    [["run", "--wibble", `--cfg=${right}`], 35],
    [["run", "--cfg", "/nowhere", "--wibble"], 1],
    [["config", "check", wrong], 35],
    [["config", "check", right], 0],
    [["stop", "/nowhere/socket", "--extended-status"], 1],
  ];
  for (const [args, status] of cases) {
    strictEqual((await runVmctl(args)).code, status, args.join(" "));
  }
});

Deno.test("several wrong values are told at once, with the place in each", async () => {
  const { stderr } = await runVmctl([
    "run",
    "-c0",
    "--serial",
    "type=stdout,nmu=1",
    "--name=a/b",
    "k",
  ]);
  strictEqual(
    stderr,
    'vmctl: -c: expected a whole number from 1 to 255, got "0"\n' +
      'vmctl: --serial.nmu: unknown key "nmu"; did you mean "num"?\n' +
      "  type=stdout,nmu=1\n" +
      "              ^^^\n" +
      "vmctl: --name: expected a name of at most 64 letters, digits, _ . and -, not beginning " +
      'with . or -, got "a/b"\n',
  );
});

Deno.test("options stand before or after KERNEL, with = or a blank; after -- all are arguments", async () => {
  using folder = new Folder();
  const forms = [
    ["-m", "512", "-c2", "--params", "a=b c", "--name=x", "k"],
    ["k", "--mem=512", "--cpus", "num-cores=2", "-pa=b c", "--name", "x"],
    ["--name", "x", "-c=2", "-m512M", "-p", "a=b c", "--", "k"],
    ["--name", "y", "--name", "x", "k", "-m", "0x200", "-c", "2", "-p=a=b c"],
  ];
  const results = await Promise.all(forms.map(async (form) => {
    const { stdout, stderr } = await runVmctl(["config", "show", "--json", ...form], {
      cwd: folder.path,
    });
    strictEqual(stderr, "");
    return JSON.parse(stdout);
  }));
  strictEqual(results[0].kernel, join(folder.path, "k"));
  deepStrictEqual(results[0].params, ["a=b c"]);
  deepStrictEqual([results[0].cpus, results[0].mem, results[0].name], [
    { "num-cores": 2 },
    { size: 512 },
    "x",
  ]);
  for (const result of results) deepStrictEqual(result, results[0]);
  const dashed = await runVmctl(["config", "show", "--json", "--", "--k"], { cwd: folder.path });
  strictEqual(JSON.parse(dashed.stdout).kernel, join(folder.path, "--k"));
});

Deno.test("config show prints what it reads again: files, then the command line", async () => {
  using folder = new Folder();
  folder.write("base.toml", 'kernel = "vmlinuz"\nparams = ["base"]\n[mem]\nsize = "1G"\n');
  const main = folder.write("vm.json", {
    cfg: ["base.toml"],
    params: ["vm"],
    serial: [{ type: "file", path: "log", num: 2 }],
  });
  const args = ["config", "show", "--cfg", main, "-p", "line", "--mem", "64"];
  const json = await runVmctl([...args, "--json"]);
  const shown = JSON.parse(json.stdout);
  strictEqual(shown.kernel, join(folder.path, "vmlinuz"));
  deepStrictEqual(shown.params, ["base", "vm", "line"]);
  deepStrictEqual(shown.mem, { size: 64 });
  const toml = await runVmctl(args);
  for (const [name, text] of [["again.json", json.stdout], ["again.toml", toml.stdout]] as const) {
    const again = await runVmctl([
      "config",
      "show",
      "--json",
      "--cfg",
      folder.write(name, text),
    ]);
    deepStrictEqual(JSON.parse(again.stdout), shown, name);
  }
});

Deno.test("config show prints a command line that amounts to the same", async () => {
  using folder = new Folder();
  const args =
    `-p "a='b \\"c\\"'" -p '[x,y]' --serial "type=file,path='a,b [c]'" --disable-sandbox -c 2 k`;
  const { stdout, stderr } = await bash(
    `"$VMCTL" config show --json ${args}\n` +
      `line="$("$VMCTL" config show --args ${args})"\n` +
      `eval "\"$VMCTL\" config show --json \${line#vmctl run}"`,
    { cwd: folder.path },
  );
  strictEqual(stderr, "");
  const [first, second] = stdout.split(/(?<=^\})\n/m).map((text) => text && JSON.parse(text));
  deepStrictEqual(first.params, ["a='b \"c\"'", "[x,y]"]);
  strictEqual(first.serial[0].path, join(folder.path, "a,b [c]"));
  deepStrictEqual(second, first);
});

Deno.test("config check tells every problem of every file, and which files are right", async () => {
  using folder = new Folder();
  folder.write("right.json", { mem: 64 });
  folder.write("wrong.json", { kernl: "x", cpus: { "num-cores": "two" }, cfg: ["gone.toml"] });
  folder.write("cycle.toml", 'cfg = ["cycle.toml"]\n');
  const args = ["config", "check", "right.json", "wrong.json", "cycle.toml"];
  const { code, stdout, stderr } = await runVmctl(args, { cwd: folder.path });
  strictEqual(code, 1);
  strictEqual(stdout, "right.json: ok\n");
  deepStrictEqual(stderr.trimEnd().split("\n"), [
    'vmctl: wrong.json: kernl: unknown option "kernl"; did you mean "kernel"?',
    'vmctl: wrong.json: cpus.num-cores: expected a whole number from 1 to 255, got "two"',
    "vmctl: wrong.json: cfg[0]: cannot read gone.toml: no such file",
    "vmctl: cycle.toml: cfg[0]: cycle.toml includes itself: cycle.toml -> cycle.toml",
  ]);
  const json = await runVmctl([...args, "--json"], { cwd: folder.path });
  const reports = JSON.parse(json.stdout) as { ok: boolean; problems: { key: string }[] }[];
  deepStrictEqual(reports.map(({ ok }) => ok), [true, false, false]);
  deepStrictEqual(reports[1]!.problems.map(({ key }) => key), [
    "kernl",
    "cpus.num-cores",
    "cfg[0]",
  ]);
});

Deno.test("config schema is JSON and knows the options", async () => {
  const { stdout } = await runVmctl(["config", "schema"]);
  const schema = JSON.parse(stdout);
  strictEqual(schema.additionalProperties, false);
  strictEqual(schema.properties.kernel.type, "string");
});

Deno.test("config files may be handed down as descriptors and pipes", async () => {
  using folder = new Folder();
  const { stdout, stderr } = await bash(
    `"$VMCTL" config show --json --cfg <(echo 'name = "pipe"') --cfg /proc/self/fd/5 5<<<'{"initrd": "i"}'`,
    { cwd: folder.path },
  );
  strictEqual(stderr, "");
  const shown = JSON.parse(stdout);
  deepStrictEqual([shown.name, shown.initrd], ["pipe", join(folder.path, "i")]);
});

Deno.test("a reader that leaves early is no error", async () => {
  const { code, stdout, stderr } = await bash(
    `set -o pipefail; for i in 1 2 3; do "$VMCTL" config schema | head -c 1; done; ` +
      `"$VMCTL" --help | true`,
  );
  deepStrictEqual([code, stdout.startsWith("{{{"), stderr], [0, true, ""]);
});

Deno.test("doctor knows the host, for people and programs", async () => {
  const plain = await runVmctl(["doctor"]);
  match(plain.stdout, /^(ok {2}|warn) {2}KVM /m);
  const json = await runVmctl(["doctor", "--json"]);
  const { canRun, facts } = JSON.parse(json.stdout) as {
    canRun: boolean;
    facts: { id: string; level: string; value: string; advice?: string }[];
  };
  strictEqual(json.code, canRun ? 0 : 1);
  deepStrictEqual(
    [
      "kvm",
      "engine",
      "memory",
      "psi",
      "user-namespaces",
      "seccomp",
      "tun",
      "cache-folder",
      "terminal",
    ]
      .filter((id) => !facts.some((fact) => fact.id === id)),
    [],
  );
  for (const { id, level, advice } of facts) {
    if (level !== "ok") strictEqual(typeof advice, "string", id);
  }
});

Deno.test("list and completions of names are empty without VMs, other commands name the VM", async () => {
  using folder = new Folder();
  const env = { XDG_RUNTIME_DIR: folder.path };
  deepStrictEqual(JSON.parse((await runVmctl(["list", "--json"], { env })).stdout), []);
  strictEqual((await runVmctl(["list", "--names"], { env })).stdout, "");
  for (const command of ["stop", "suspend", "resume", "powerbtn", "status"]) {
    const { code, stdout, stderr } = await runVmctl([command, "nobody"], { env });
    deepStrictEqual([code, stdout], [1, ""], command);
    match(stderr, /^vmctl: .*nobody/);
  }
});

const COMPLETE = `
source <("$VMCTL" completions bash)
vmctl() { [[ "$*" == "list --names" ]] && printf 'web\\nweb2\\ndb\\n'; }
complete_line() {
  COMP_LINE="$1" COMP_POINT=\${#1} COMP_WORDS=(vmctl) COMPREPLY=()
  _vmctl
  echo "\${COMPREPLY[*]}"
}
`;

Deno.test("bash completes commands, options, values, keys, files and names of VMs", async () => {
  using folder = new Folder();
  folder.write("vmlinuz", "");
  folder.write("vm one.json", "");
  const cases: [string, string][] = [
    ["vmctl st", "state status stop"],
    ["vmctl config ", "check show schema"],
    ["vmctl --log-level info sto", "stop"],
    ["vmctl run --hyp", "--hypervisor"],
    ["vmctl run --hypervisor ", "auto kvm soft"],
    ["vmctl run --hypervisor=s", "soft"],
    ["vmctl run --serial ha", "hardware="],
    ["vmctl run --serial type=st", "stdout stdin"],
    ["vmctl run --serial=type=file,pa", "file,path="],
    ["vmctl run --serial=type=file,path=vml", "vmlinuz"],
    ["vmctl run -i vml", "vmlinuz"],
    ["vmctl run -m 512 vml", "vmlinuz"],
    ["vmctl config check a.json vm\\ ", "vm one.json"],
    ["vmctl config check vm", "vmlinuz vm one.json"],
    ["vmctl stop w", "web web2"],
    ["vmctl completions ", "bash zsh fish"],
  ];
  const script = COMPLETE + cases.map(([line]) => `complete_line '${line}'`).join("\n");
  const { stdout, stderr } = await bash(script, { cwd: folder.path });
  strictEqual(stderr, "");
  const sorted = (text: string) => text.split(" ").sort().join(" ");
  deepStrictEqual(
    stdout.trimEnd().split("\n").map(sorted),
    cases.map(([, expected]) => sorted(expected)),
  );
});

for (const [shell, args] of [["zsh", ["-n"]], ["fish", ["--no-execute"]]] as const) {
  const isThere = await new Deno.Command("sh", { args: ["-c", `command -v ${shell}`] }).output();
  Deno.test({
    name: `completions for ${shell} are a script that it reads` +
      (isThere.success ? "" : ` (skipped: no ${shell})`),
    ignore: !isThere.success,
    fn: async () => {
      const { stdout } = await runVmctl(["completions", shell]);
      using folder = new Folder();
      const { code, stderr } = await new Deno.Command(shell, {
        args: [...args, folder.write("completions", stdout)],
      }).output();
      deepStrictEqual([code, new TextDecoder().decode(stderr)], [0, ""]);
    },
  });
}
