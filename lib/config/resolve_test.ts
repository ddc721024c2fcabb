import { deepStrictEqual, strictEqual } from "node:assert/strict";
import type { ConfigLayer } from "./config_file.ts";
import type { RunOptions } from "./options.ts";
import { type ConfigProblem, formatProblem } from "./problem.ts";
import { type Resolved, resolveLayers, type ResolveOptions } from "./resolve.ts";

function resolve(
  layers: readonly ConfigLayer[],
  how: ResolveOptions = { requireBoot: true, requireFiles: "none" },
): Resolved & { problems: string[] } {
  const problems: ConfigProblem[] = [];
  const resolved = resolveLayers(layers, problems, how);
  return { ...resolved, problems: problems.map(formatProblem) };
}

function fromCommandLine(options: RunOptions): Resolved & { problems: string[] } {
  return resolve([{ file: undefined, options }]);
}

Deno.test("defaults are the seeds': one vCPU, 256 MiB, the console on standard input and output", () => {
  deepStrictEqual(fromCommandLine({ kernel: "/k" }).config, {
    name: undefined,
    boot: { kind: "kernel", kernel: { kind: "path", path: "/k" }, initrd: undefined, params: [] },
    cpuCount: 1,
    memoryMib: 256,
    serial: [
      {
        num: 1,
        output: { type: "stdout" },
        input: { type: "stdin" },
        console: true,
        earlycon: false,
        outTimestamp: false,
      },
      {
        num: 2,
        output: { type: "sink" },
        input: undefined,
        console: false,
        earlycon: false,
        outTimestamp: false,
      },
    ],
    consoles: [],
    rng: true,
    balloon: { policy: "auto", pageReporting: false, cgroup: undefined },
    disks: [],
    vhostUser: [],
    restartDevices: false,
    socket: undefined,
    hypervisor: "auto",
    soft: { cache: true, cacheFolder: undefined, cacheMib: 64, codeMib: 256 },
    engineStats: undefined,
    extendedStatus: false,
    logLevel: "info",
    logModules: {},
    sandbox: { pivotRoot: "/var/empty", seccompPolicyDir: undefined, seccompLogFailures: false },
  });
});

Deno.test("ports of the virtio console: beside the serial ones, without gaps, one of all the console", () => {
  const { config } = fromCommandLine({
    kernel: "/k",
    serial: [
      { hardware: "virtio-console", type: "stdout", stdin: true, console: true },
      { hardware: "virtio-console", type: "file", path: "/log", num: 3, "out-timestamp": true },
    ],
  });
  deepStrictEqual(config?.serial.map(({ output, console }) => [output.type, console]), [
    ["sink", false],
    ["sink", false],
  ]);
  deepStrictEqual(config?.consoles, [
    {
      num: 1,
      output: { type: "stdout" },
      input: { type: "stdin" },
      console: true,
      outTimestamp: false,
    },
    { num: 2, output: { type: "sink" }, input: undefined, console: false, outTimestamp: false },
    {
      num: 3,
      output: { type: "file", file: { kind: "path", path: "/log" } },
      input: undefined,
      console: false,
      outTimestamp: true,
    },
  ]);
  deepStrictEqual(
    fromCommandLine({
      kernel: "/k",
      serial: [
        { hardware: "virtio-console", type: "sink", earlycon: true },
        { hardware: "virtio-console", type: "sink" },
        { type: "sink", num: 3 },
      ],
    }).problems,
    [
      "--serial.earlycon: expected hardware=serial: the other needs a driver",
      "--serial.num: console port 1 is given twice",
      "--serial.num: expected 1 or 2 with hardware=serial, got 3",
    ],
  );
});

Deno.test("the balloon and the source of random bytes are there unless they are not wanted", () => {
  const { config } = fromCommandLine({
    kernel: "/k",
    "no-rng": true,
    "balloon-page-reporting": true,
    "balloon-policy": "available",
    "memory-cgroup": "/sys/fs/cgroup/vm",
  });
  deepStrictEqual([config?.rng, config?.balloon], [
    false,
    { policy: "available", pageReporting: true, cgroup: "/sys/fs/cgroup/vm" },
  ]);
  deepStrictEqual(
    fromCommandLine({ kernel: "/k", "no-balloon": true, "balloon-policy": "off" }).config?.balloon,
    undefined,
  );
  deepStrictEqual(
    fromCommandLine({
      kernel: "/k",
      "no-balloon": true,
      "balloon-page-reporting": true,
      "balloon-policy": "pressure",
      "memory-cgroup": "/g",
    }).problems,
    [
      "--balloon-page-reporting: expected a balloon, which reports the pages, but --no-balloon is given",
      "--balloon-policy: expected a balloon, which obeys it, but --no-balloon is given",
      "--memory-cgroup: expected a balloon, which grows for it, but --no-balloon is given",
    ],
  );
});

Deno.test("foreign back ends: queues are split unless packed ones are asked for", () => {
  const { config } = fromCommandLine({
    kernel: "/k",
    "vhost-user": [
      { type: "block", socket: "/a", "packed-queue": true },
      { type: "net", socket: "/b", "max-queue-size": 512 },
    ],
  });
  deepStrictEqual(config?.vhostUser, [
    { type: "block", socket: "/a", maxQueueSize: undefined, packedQueues: true },
    { type: "net", socket: "/b", maxQueueSize: 512, packedQueues: false },
  ]);
});

Deno.test("disks arrive with crosvm's defaults, and what does not fit is told", () => {
  const options: RunOptions = {
    kernel: "/k",
    block: [{ path: "/a", root: true }, { path: "/b", ro: true, "block-size": 4096, id: "b" }],
  };
  const defaults = {
    readOnly: false,
    root: false,
    sparse: true,
    blockBytes: 512,
    direct: false,
    lock: true,
    id: "",
    format: "probe",
    queueCount: 16,
    packedQueues: false,
    executor: "auto",
    pciDevice: undefined,
    bootIndex: undefined,
  };
  deepStrictEqual(fromCommandLine(options).config?.disks, [
    { ...defaults, path: "/a", root: true },
    { ...defaults, path: "/b", readOnly: true, blockBytes: 4096, id: "b" },
  ]);
  const file = {
    file: "vm.toml",
    options: { block: [{ ro: true }, { path: "/c", root: true }] },
  };
  const wrong = resolve([{ file: undefined, options }, file, {
    file: undefined,
    options: { block: [{ path: "/d", "block-size": 1000 }] },
  }]);
  deepStrictEqual(wrong.problems, [
    "vm.toml: block[0].path: expected the path of a disk image, got none",
    "vm.toml: block[1].root: another disk is the root already",
    "--block.block-size: expected a power of two, got 1000",
  ]);
});

Deno.test("disks have places on the PCI bus and in the order of firmware, each its own", () => {
  const disks = (...all: NonNullable<RunOptions["block"]>) =>
    fromCommandLine({ kernel: "/k", block: all });
  const good = disks(
    { path: "/a", "pci-address": "00:05.0", bootindex: 2 },
    { path: "/b", "pci-address": "0000:0:1F.0", bootindex: 1 },
    { path: "/c", "multiple-workers": true, "packed-queue": true },
  );
  deepStrictEqual(
    good.config?.disks.map(({ pciDevice, bootIndex }) => [pciDevice, bootIndex]),
    [[5, 2], [31, 1], [undefined, undefined]],
  );
  deepStrictEqual(good.config?.disks.map(({ packedQueues }) => packedQueues), [false, false, true]);
  const bad = disks(
    { path: "/a", "pci-address": "00:05.0", bootindex: 2 },
    { path: "/b", "pci-address": "00:5.0", bootindex: 2 },
    { path: "/c", "pci-address": "00:00.0" },
    { path: "/d", "pci-address": "01:04.0" },
    { path: "/e", "pci-address": "00:06.1" },
    { path: "/f", "pci-address": "00:20.0" },
  );
  deepStrictEqual(bad.problems, [
    "--block.pci-address: another disk is at 00:5.0 already",
    "--block.bootindex: another disk is number 2 already",
    "--block.pci-address: expected another device than the host bridge, got 00:00.0",
    "--block.pci-address: expected an address on bus 00, the only one, got 01:04.0",
    "--block.pci-address: expected function 0, the only one of a device, got 00:06.1",
    "--block.pci-address: expected a device up to 1f, got 00:20.0",
  ]);
});

Deno.test("everything that is given arrives", () => {
  const { config } = fromCommandLine({
    kernel: "/proc/self/fd/5",
    initrd: "/i",
    params: ["a", "b"],
    cpus: { "num-cores": 3 },
    mem: { size: 64 },
    hypervisor: "soft",
    soft: { cache: false, "cache-dir": "/c", "cache-size": 5, "code-memory": 99 },
    "engine-stats": "/e",
    serial: [{ type: "file", path: "/dev/fd/6", num: 2, input: "/in", earlycon: true }],
    socket: "/dev/fd/7",
    name: "web",
    "extended-status": true,
    "log-level": "warn,disk=trace,net=error",
    "disable-sandbox": true,
  });
  deepStrictEqual(config?.boot, {
    kind: "kernel",
    kernel: { kind: "fd", fd: 5, path: "/proc/self/fd/5" },
    initrd: { kind: "path", path: "/i" },
    params: ["a", "b"],
  });
  deepStrictEqual(config?.serial[1], {
    num: 2,
    output: { type: "file", file: { kind: "fd", fd: 6, path: "/dev/fd/6" } },
    input: { type: "file", file: { kind: "path", path: "/in" } },
    console: false,
    earlycon: true,
    outTimestamp: false,
  });
  strictEqual(config?.serial[0].console, true);
  deepStrictEqual(config?.socket, { kind: "fd", fd: 7, path: "/dev/fd/7" });
  deepStrictEqual([config?.logLevel, config?.logModules], ["warn", {
    disk: "trace",
    net: "error",
  }]);
  deepStrictEqual([config?.cpuCount, config?.memoryMib, config?.name], [3, 64, "web"]);
});

Deno.test("a port that is the console elsewhere leaves the first one silent", () => {
  const { config } = fromCommandLine({
    kernel: "/k",
    serial: [{ num: 2, type: "stdout", console: true, stdin: true }],
  });
  deepStrictEqual(config?.serial.map(({ output, input, console }) => [output, input, console]), [
    [{ type: "sink" }, undefined, false],
    [{ type: "stdout" }, { type: "stdin" }, true],
  ]);
});

Deno.test("a kernel or firmware, and not both", () => {
  const cases: [RunOptions, string[]][] = [
    [{}, [
      "expected a kernel or firmware to boot, got neither: name a KERNEL, or use --bios FILE, or " +
      "--cfg FILE with one of them",
    ]],
    [{ initrd: "/i" }, [
      "expected a kernel or firmware to boot, got neither: name a KERNEL, or use --bios FILE, or " +
      "--cfg FILE with one of them",
    ]],
    [{ kernel: "/k", bios: "/b" }, [
      "--bios: expected a kernel or firmware, got both (KERNEL is given)",
    ]],
    [{ bios: "/b", initrd: "/i" }, [
      "--initrd: expected no initrd with firmware, got one (--bios is given)",
    ]],
    [{ bios: "/b" }, []],
  ];
  for (const [options, problems] of cases) {
    deepStrictEqual(fromCommandLine(options).problems, problems);
  }
  deepStrictEqual(fromCommandLine({ bios: "/b" }).config?.boot, {
    kind: "firmware",
    firmware: { kind: "path", path: "/b" },
  });
});

Deno.test("problems between sources name the file and key of each", () => {
  const { problems } = resolve([
    { file: "base.json", options: { kernel: "/k", serial: [{ num: 1, stdin: true }] } },
    { file: "vm.json", options: { bios: "/b", serial: [{ num: 2 }, { num: 1, stdin: true }] } },
    { file: undefined, options: { serial: [{ num: 2, type: "file" }] } },
  ]);
  deepStrictEqual(problems, [
    "vm.json: bios: expected a kernel or firmware, got both (kernel is given in base.json)",
    "vm.json: serial[1].num: serial port 1 is given twice",
    "vm.json: serial[1].stdin: another port has standard input already",
    "--serial.path: expected a path with type=file, got none",
    "--serial.num: serial port 2 is given twice",
  ]);
});

Deno.test("serial ports: what does not go together", () => {
  const cases: [RunOptions["serial"], string][] = [
    [[{ type: "file" }], "--serial.path: expected a path with type=file, got none"],
    [[{ type: "unix" }], "--serial.path: expected a path with type=unix, got none"],
    [[{ type: "sink", path: "/x" }], "--serial.path: expected no path with type=sink, got /x"],
    [
      [{ type: "unix", path: "/dev/fd/4" }],
      "--serial.path: expected a socket's path with type=unix, got /dev/fd/4",
    ],
    [
      [{ type: "sink", stdin: true, input: "/x" }],
      "--serial.input: expected one source of input, got two of stdin, input and type=unix-stream",
    ],
    [
      [{ num: 1, console: true }, { num: 2, console: true }],
      "--serial.console: another port is the console already",
    ],
    [
      [{ num: 1, earlycon: true }, { num: 2, earlycon: true }],
      "--serial.earlycon: another port is the early console already",
    ],
  ];
  for (const [serial, problem] of cases) {
    deepStrictEqual(fromCommandLine({ kernel: "/k", serial: serial! }).problems, [problem]);
  }
});

Deno.test("files that are named must be there, and no folders", () => {
  const layers: ConfigLayer[] = [
    { file: "vm.json", options: { kernel: "/nowhere/k", serial: [{ type: "sink", input: "/" }] } },
    { file: undefined, options: { initrd: "/proc/self/fd/999999" } },
  ];
  const expected = [
    "vm.json: kernel: expected a file that can be read, got /nowhere/k: no such file",
    "--initrd: expected a file that can be read, got /proc/self/fd/999999, which is not open",
    "vm.json: serial[0].input: expected a file that can be read, got the folder /",
  ];
  const problems = (requireFiles: ResolveOptions["requireFiles"]) =>
    resolve(layers, { requireBoot: true, requireFiles }).problems;
  deepStrictEqual(problems("all"), expected);
  deepStrictEqual(problems("paths"), expected.filter((problem) => !problem.includes("/fd/")));
  deepStrictEqual(problems("none"), []);
});
