import { deepStrictEqual, strictEqual } from "node:assert/strict";
import { decodeArgument } from "./argument.ts";
import { Decoder, inheritedFd } from "./decode.ts";
import { RUN_OPTIONS, type RunOptions } from "./options.ts";
import { type ConfigProblem, formatProblem } from "./problem.ts";

function fromFile(value: unknown): { options: RunOptions; problems: string[] } {
  const problems: ConfigProblem[] = [];
  const decoder = new Decoder({ file: "vm.json", baseDir: "/base" }, problems);
  const options = decoder.options(RUN_OPTIONS, value);
  return { options, problems: problems.map(formatProblem) };
}

function argument(name: keyof typeof RUN_OPTIONS, text: string): unknown {
  const problems: ConfigProblem[] = [];
  const value: unknown = decodeArgument(RUN_OPTIONS[name], text, {
    name: `--${name}`,
    baseDir: "/base",
    problems,
  });
  return problems.length === 0 ? value : problems.map(formatProblem).join("\n");
}

Deno.test("a file's options are decoded, relative paths from its folder", () => {
  const { options, problems } = fromFile({
    $schema: "./schema.json",
    kernel: "vmlinuz",
    initrd: "/abs/../initrd",
    cpus: { "num-cores": 2 },
    mem: "2G",
    params: ["a", "b c"],
    serial: [{ type: "file", path: "../log", num: 2, console: true }, "sink"],
    firmware: "/proc/self/fd/7",
    "extended-status": true,
    cfg: ["base.json"],
  });
  deepStrictEqual(problems, []);
  deepStrictEqual(options, {
    kernel: "/base/vmlinuz",
    initrd: "/initrd",
    cpus: { "num-cores": 2 },
    mem: { size: 2048 },
    params: ["a", "b c"],
    serial: [{ type: "file", path: "/log", num: 2, console: true }, { type: "sink" }],
    bios: "/proc/self/fd/7",
    "extended-status": true,
    cfg: ["/base/base.json"],
  });
});

Deno.test("all problems of a file come at once, with key, expectation and suggestion", () => {
  const { options, problems } = fromFile({
    kernl: "x",
    wibble: 1,
    initrd: 5,
    cpus: { "num-core": 2, "num-cores": 0 },
    mem: { size: "lots" },
    params: "quiet",
    serial: [{ type: "stdot" }, { type: "sink", num: 33 }, "type=sink", 7],
    hypervisor: "qemu",
    name: "../x",
    "extended-status": "yes",
    "log-level": "loud",
    bios: "/proc/self/fd/x",
  });
  deepStrictEqual(options, { cpus: {}, mem: {}, serial: [{}, { type: "sink" }] });
  deepStrictEqual(problems.map((line) => line.replace(/^vm\.json: /, "")), [
    'kernl: unknown option "kernl"; did you mean "kernel"?',
    'wibble: unknown option "wibble"; expected kernel, initrd, params, bios, cpus, mem, ' +
    "hypervisor, soft, serial, block, no-rng, no-balloon, balloon-page-reporting, " +
    "balloon-policy, memory-cgroup, vhost-user, restart-devices, disable-sandbox, pivot-root, " +
    "seccomp-policy-dir, seccomp-log-failures, name, socket, extended-status, log-level, " +
    "engine-stats or cfg",
    "initrd: expected a path, got the number 5",
    'cpus.num-core: unknown key "num-core"; did you mean "num-cores"?',
    "cpus.num-cores: expected a whole number from 1 to 255, got the number 0",
    'mem.size: expected a size in MiB, or with a unit such as 512M or 2G, got "lots"',
    'params: expected a list, got "quiet"',
    "serial[0].type: expected stdout, stdin, file, unix, unix-stream, sink or syslog, got " +
    '"stdot"; did you mean "stdout"?',
    "serial[1].num: expected a whole number from 1 to 32, got the number 33",
    'serial[2]: expected a table such as {"type": …} instead of key=value text, got "type=sink"',
    "serial[3]: expected stdout, stdin, file, unix, unix-stream, sink or syslog, got the number 7",
    'hypervisor: expected auto, kvm or soft, got "qemu"',
    "name: expected a name of at most 64 letters, digits, _ . and -, not beginning with . or -, " +
    'got "../x"',
    'extended-status: expected true or false, got "yes"',
    'log-level: expected error, warn, info, debug or trace, or such as "info,disk=warn", got "loud"',
    'bios: expected a descriptor\'s number as the last part of the path, got "/proc/self/fd/x"',
  ]);
});

Deno.test("what is no table of options is refused whole", () => {
  for (const value of [null, 1, "x", true, [], [{}], new Date(0)]) {
    const { options, problems } = fromFile(value);
    deepStrictEqual(options, {});
    strictEqual(problems.length, 1, JSON.stringify(value));
  }
});

Deno.test("an option under two of its names is given twice", () => {
  const { problems } = fromFile({ bios: "/a", firmware: "/b" });
  deepStrictEqual(problems, ['vm.json: firmware: option "bios" is given twice']);
});

Deno.test("keys that every object has are unknown, too", () => {
  const { problems } = fromFile(
    JSON.parse('{"__proto__": 1, "constructor": 2, "cpus": {"toString": 1}}'),
  );
  strictEqual(problems.length, 3);
});

Deno.test("nesting beyond the schema is not walked", () => {
  const deep = JSON.parse(`{"kernel": ${"[".repeat(50_000)}${"]".repeat(50_000)}}`);
  deepStrictEqual(fromFile(deep).problems, ["vm.json: kernel: expected a path, got a list of 1"]);
});

Deno.test("arguments: numbers in the notations of C, sizes with units", () => {
  deepStrictEqual(argument("cpus", "4"), { "num-cores": 4 });
  deepStrictEqual(argument("cpus", "num-cores=0x10"), { "num-cores": 16 });
  const sizes: [string, number | undefined][] = [
    ["512", 512],
    ["512M", 512],
    ["512MiB", 512],
    ["2g", 2048],
    ["size=1T", 1024 * 1024],
    ["65536K", 64],
    ["67108864B", 64],
    ["1500K", undefined],
    ["-1", undefined],
    ["1.5G", undefined],
    ["15", undefined],
    ["99999999999T", undefined],
  ];
  for (const [text, size] of sizes) {
    const value = argument("mem", text);
    if (size === undefined) strictEqual(typeof value, "string", text);
    else deepStrictEqual(value, { size }, text);
  }
});

Deno.test("arguments: plain options take their text as it is, repeated ones as a list", () => {
  deepStrictEqual(argument("params", 'a="b,c" [d]'), ['a="b,c" [d]']);
  deepStrictEqual(argument("initrd", "a,b=c"), "/base/a,b=c");
  deepStrictEqual(argument("serial", "stdout,console,num=2"), [
    { type: "stdout", console: true, num: 2 },
  ]);
  deepStrictEqual(argument("serial", "type=file,path='/a,b',out_timestamp=false"), [
    { type: "file", path: "/a,b", "out-timestamp": false },
  ]);
});

Deno.test("arguments: a first key that is a flag is also one by its name", () => {
  deepStrictEqual(argument("soft", "cache"), { cache: true });
  deepStrictEqual(argument("soft", "cache,code-memory=64M"), { cache: true, "code-memory": 64 });
  deepStrictEqual(argument("soft", "false,cache-size=1G"), { cache: false, "cache-size": 1024 });
  strictEqual(
    argument("soft", "cache,cache"),
    '--soft.cache: key "cache" is given twice\n  cache,cache\n        ^^^^^',
  );
  strictEqual(argument("soft", "cash"), '--soft: expected true or false, got "cash"');
});

Deno.test("arguments: an error shows the place", () => {
  strictEqual(
    argument("serial", "type=stdout,nmu=1"),
    '--serial.nmu: unknown key "nmu"; did you mean "num"?\n  type=stdout,nmu=1\n              ^^^',
  );
  strictEqual(
    argument("serial", "type=stdout,num"),
    "--serial.num: expected num=a whole number from 1 to 32, got no value\n" +
      "  type=stdout,num\n              ^^^",
  );
  strictEqual(
    argument("serial", "type=stdout,hardware=debugcon"),
    '--serial.hardware: expected serial or virtio-console, got "debugcon"\n' +
      "  type=stdout,hardware=debugcon\n                       ^^^^^^^^",
  );
  strictEqual(
    argument("serial", "type=file,path="),
    '--serial: expected a value after "=", got the end (an empty value is written "")\n' +
      "  type=file,path=\n                 ^",
  );
  strictEqual(argument("cpus", ""), "--cpus: expected keys of num-cores, got nothing");
});

Deno.test("inherited descriptors by their two paths", () => {
  deepStrictEqual(
    [
      "/proc/self/fd/0",
      "/dev/fd/12",
      "/proc/self/fd/",
      "/proc/self/fd/1/x",
      "/dev/fd/-1",
      "/dev/fd",
    ]
      .map(inheritedFd),
    [0, 12, undefined, undefined, undefined, undefined],
  );
});
