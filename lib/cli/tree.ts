/**
 * The tree of commands.
 *
 * @module
 */

import { RUN_OPTIONS } from "../config/mod.ts";
import { alias, type Command, group, leaf, type Positional } from "./command.ts";
import {
  BALLOON_DEVICE_OPTIONS,
  BALLOON_OPTIONS,
  BALLOON_STATS_OPTIONS,
  BLOCK_DEVICE_OPTIONS,
  CHECK_OPTIONS,
  CHECK_POLICY_OPTIONS,
  COMPILE_OPTIONS,
  CONSOLE_DEVICE_OPTIONS,
  CREATE_QCOW2_OPTIONS,
  DEVICE_OPTIONS,
  DISK_OPTIONS,
  DISK_RESIZE_OPTIONS,
  DOCTOR_OPTIONS,
  EXPLAIN_OPTIONS,
  LIST_OPTIONS,
  SHOW_OPTIONS,
  STATUS_OPTIONS,
  SUSPEND_OPTIONS,
  VM_OPTIONS,
} from "./command_options.ts";

const KERNEL: Positional = {
  name: "KERNEL",
  help: "Linux kernel to boot: bzImage or vmlinux",
  optional: true,
  completes: "file",
};
const VM: Positional = {
  name: "VM",
  help: "name of a running VM, or path of its control socket",
  completes: "vm",
};

const RUN = leaf({
  name: "run",
  help: "run a VM until it powers off",
  details: [
    "The guest's console is on standard input and output; Ctrl-a x ends the VM, Ctrl-a h helps.",
    "Values of several keys are written first,key=value,flag; quotes take commas and brackets as they are.",
    "A file that is /proc/self/fd/N or /dev/fd/N is descriptor N, passed on by the caller.",
    "Exit status: 0 the VM stopped, 1 an error; with --extended-status also 32 reset, 33 crash, " +
    "34 guest panic, 35 invalid arguments, 36 watchdog.",
  ],
  options: RUN_OPTIONS,
  positionals: [KERNEL],
  examples: [
    {
      help: "boot a kernel and an initial RAM disk to a shell",
      command: 'vmctl run -m 512 -i initrd.img -p "rdinit=/bin/sh" vmlinuz',
    },
    {
      help: "two processors, a name, the console's output in a file",
      command: "vmctl run -c 2 --name web --serial type=file,path=web.log,console vmlinuz",
    },
    {
      help: "what config files say, with more memory",
      command: "vmctl run --cfg base.toml --cfg web.json -m 2G",
    },
  ],
  run: async (input) => await (await import("./commands/run.ts")).run(input),
});

const STATUS = leaf({
  name: "status",
  help: "show how a running VM is",
  options: STATUS_OPTIONS,
  positionals: [VM],
  examples: [{ help: "for a program", command: "vmctl status --json web" }],
  run: async (input) => await (await import("./commands/control.ts")).status(input),
});

const CONTROL: readonly Command[] = [
  leaf({
    name: "stop",
    help: "end a running VM at once",
    details: [
      "It comes back when the VM is gone. A device that does nothing for 5 seconds when it is to end, or takes " +
      "longer than 60 to write what it holds, is killed.",
    ],
    options: VM_OPTIONS,
    positionals: [VM],
    examples: [{ help: "by name", command: "vmctl stop web" }],
    run: async (input) => await (await import("./commands/control.ts")).stop(input),
  }),
  leaf({
    name: "suspend",
    help: "pause a running VM",
    options: SUSPEND_OPTIONS,
    positionals: [VM],
    examples: [{ help: "by socket", command: "vmctl suspend /run/vms/web.sock" }],
    run: async (input) => await (await import("./commands/control.ts")).suspend(input),
  }),
  leaf({
    name: "resume",
    help: "let a paused VM go on",
    options: SUSPEND_OPTIONS,
    positionals: [VM],
    examples: [{ help: "by name", command: "vmctl resume web" }],
    run: async (input) => await (await import("./commands/control.ts")).resume(input),
  }),
  leaf({
    name: "powerbtn",
    help: "press a VM's power button, so that the guest shuts down",
    options: VM_OPTIONS,
    positionals: [VM],
    examples: [{ help: "by name", command: "vmctl powerbtn web" }],
    run: async (input) => await (await import("./commands/control.ts")).powerbtn(input),
  }),
  leaf({
    name: "balloon",
    help: "set how much of its memory a VM gives back",
    details: [
      "SIZE is in bytes, or with a unit as in 512M; 0 gives the guest all of it again.",
      "Where the guest has not made it so in time, --wait ends with status 1 and says how far it is. That, or " +
      "Ctrl-C, only ends the waiting: the size stays asked for.",
    ],
    options: BALLOON_OPTIONS,
    positionals: [{ name: "SIZE", help: "size of the balloon", completes: [] }, VM],
    examples: [{ help: "half a GiB, now", command: "vmctl balloon --wait 512M web" }],
    run: async (input) => await (await import("./commands/control.ts")).balloon(input),
  }),
  leaf({
    name: "balloon_stats",
    help: "show what a VM's balloon driver reports",
    options: BALLOON_STATS_OPTIONS,
    positionals: [VM],
    examples: [{ help: "for a program", command: "vmctl balloon_stats --json web" }],
    run: async (input) => await (await import("./commands/control.ts")).balloonStats(input),
  }),
  STATUS,
  alias("state", STATUS),
  leaf({
    name: "list",
    help: "list running VMs",
    options: LIST_OPTIONS,
    examples: [{ help: "stop them all", command: "vmctl list --names | xargs -n1 vmctl stop" }],
    run: async (input) => await (await import("./commands/control.ts")).list(input),
  }),
];

const CONFIG = group("config", [
  leaf({
    name: "check",
    help: "check config files",
    options: CHECK_OPTIONS,
    positionals: [{
      name: "FILE",
      help: "config file, JSON or TOML",
      repeated: true,
      completes: "file",
    }],
    examples: [{ help: "two of them", command: "vmctl config check base.toml web.json" }],
    run: async (input) => await (await import("./commands/config.ts")).checkConfig(input),
  }),
  leaf({
    name: "show",
    help: "show what config files and options amount to",
    details: ["The options are those of vmctl run. What is printed is itself a config file."],
    options: SHOW_OPTIONS,
    positionals: [KERNEL],
    examples: [{
      help: "with an option over a file",
      command: "vmctl config show --cfg web.toml --mem 2G",
    }],
    run: async (input) => await (await import("./commands/config.ts")).showConfig(input),
  }),
  leaf({
    name: "schema",
    help: "print the JSON Schema of config files, for editors",
    options: {},
    examples: [{ help: "to a file", command: "vmctl config schema > vmctl.schema.json" }],
    run: async () => await (await import("./commands/config.ts")).printSchema(),
  }),
], {
  help: "check, show and describe config files",
  examples: [{ help: "check a file", command: "vmctl config check web.toml" }],
});

const POLICY_FILE: Positional = {
  name: "FILE",
  help: "policy file, or builtin:NAME for one of the program's own",
  completes: "file",
};

const POLICY = group("policy", [
  leaf({
    name: "check",
    help: "check policy files, with what they include",
    options: CHECK_POLICY_OPTIONS,
    positionals: [{ ...POLICY_FILE, repeated: true }],
    examples: [{ help: "two of them", command: "vmctl policy check block.policy net.policy" }],
    run: async (input) => await (await import("./commands/policy.ts")).checkPolicies(input),
  }),
  leaf({
    name: "compile",
    help: "compile a policy file to a program for the kernel",
    details: ["What is printed is an array of struct sock_filter, as minijail takes it."],
    options: COMPILE_OPTIONS,
    positionals: [POLICY_FILE],
    examples: [
      { help: "to a file", command: "vmctl policy compile block.policy -o block.bpf" },
      { help: "to read", command: "vmctl policy compile --text builtin:common_device" },
    ],
    run: async (input) => await (await import("./commands/policy.ts")).compile(input),
  }),
  leaf({
    name: "explain",
    help: "tell what a policy makes of system calls, and by which line",
    options: EXPLAIN_OPTIONS,
    positionals: [POLICY_FILE, {
      name: "SYSCALL",
      help: "name or number of a system call; all where absent",
      optional: true,
      completes: [],
    }, {
      name: "ARG",
      help: "the call's arguments: numbers, or expressions of constants",
      optional: true,
      repeated: true,
      completes: [],
    }],
    examples: [
      { help: "one call", command: "vmctl policy explain block.policy ioctl" },
      {
        help: "one call with its arguments",
        command: "vmctl policy explain builtin:common_device mmap 0 4096 'PROT_READ|PROT_EXEC'",
      },
    ],
    run: async (input) => await (await import("./commands/policy.ts")).explain(input),
  }),
], {
  help: "check, compile and explain policies of system calls",
  examples: [{ help: "check a file", command: "vmctl policy check block.policy" }],
});

const IMAGE: Positional = { name: "PATH", help: "disk image", completes: "file" };

const DISKS: readonly Command[] = [
  leaf({
    name: "create_qcow2",
    help: "make a qcow2 disk image",
    details: [
      "SIZE is in bytes or has a suffix, as 512M or 20G; without one, it is the backing file's.",
    ],
    options: CREATE_QCOW2_OPTIONS,
    positionals: [
      { name: "PATH", help: "the new image; a file that is there is replaced", completes: "file" },
      { name: "SIZE", help: "size of the disk", optional: true, completes: [] },
    ],
    examples: [
      { help: "an empty disk", command: "vmctl create_qcow2 disk.qcow2 20G" },
      {
        help: "a disk over another, which stays as it is",
        command: "vmctl create_qcow2 --backing-file base.qcow2 disk.qcow2",
      },
    ],
    run: async (input) => await (await import("./commands/create_qcow2.ts")).createQcow2(input),
  }),
  group("disk", [
    leaf({
      name: "info",
      help: "show what a disk image is and what it is based on",
      options: DISK_OPTIONS,
      positionals: [IMAGE],
      examples: [{ help: "for a program", command: "vmctl disk info --json disk.qcow2" }],
      run: async (input) => await (await import("./commands/disk.ts")).info(input),
    }),
    leaf({
      name: "check",
      help: "check that a qcow2 image that is not in use is sound",
      details: ["Exit status: 0 the image is sound, 1 it is damaged or cannot be read."],
      options: DISK_OPTIONS,
      positionals: [IMAGE],
      examples: [{ help: "one image", command: "vmctl disk check disk.qcow2" }],
      run: async (input) => await (await import("./commands/disk.ts")).check(input),
    }),
    leaf({
      name: "resize",
      help: "change the size of a running VM's disk",
      details: [
        "SIZE is in bytes, or with a unit as in 20G. A raw file can become smaller, where --shrink is given; " +
        "a qcow2 image cannot.",
      ],
      options: DISK_RESIZE_OPTIONS,
      positionals: [
        { name: "INDEX", help: "which disk: 0 is /dev/vda", completes: [] },
        { name: "SIZE", help: "size from now on", completes: [] },
        VM,
      ],
      examples: [{ help: "the first disk", command: "vmctl disk resize 0 20G web" }],
      run: async (input) => await (await import("./commands/control.ts")).resizeDisk(input),
    }),
  ], {
    help: "show, check and resize disks",
    examples: [{ help: "what an image is", command: "vmctl disk info disk.qcow2" }],
  }),
];

const DEVICES = group("device", [
  leaf({
    name: "block",
    help: "serve a disk image",
    options: BLOCK_DEVICE_OPTIONS,
    examples: [{
      help: "a disk for whoever connects",
      command: "vmctl device block --socket-path disk.sock --path disk.qcow2",
    }],
    run: async (input) => await (await import("./commands/device.ts")).serveBlock(input),
  }),
  leaf({
    name: "rng",
    help: "serve random bytes",
    options: DEVICE_OPTIONS,
    examples: [{
      help: "for whoever connects",
      command: "vmctl device rng --socket-path rng.sock",
    }],
    run: async (input) => await (await import("./commands/device.ts")).serveRng(input),
  }),
  leaf({
    name: "balloon",
    help: "serve a memory balloon",
    options: BALLOON_DEVICE_OPTIONS,
    examples: [{
      help: "one by which free memory goes back to the host",
      command: "vmctl device balloon --socket-path balloon.sock --page-reporting",
    }],
    run: async (input) => await (await import("./commands/device.ts")).serveBalloon(input),
  }),
  leaf({
    name: "console",
    help: "serve a console",
    options: CONSOLE_DEVICE_OPTIONS,
    examples: [{
      help: "one on this terminal, and one in a file",
      command: "vmctl device console --socket-path console.sock --port /dev/tty,input=/dev/tty " +
        "--port hvc1.log",
    }],
    run: async (input) => await (await import("./commands/device.ts")).serveConsole(input),
  }),
], {
  help: "serve a virtio device to a VMM by vhost-user",
  examples: [{
    help: "a disk that only can be read",
    command: "vmctl device block --socket-path disk.sock --path disk.img,ro",
  }],
});

/** The shells that completions are made for. */
export const SHELLS = ["bash", "zsh", "fish"] as const;

const COMPLETIONS = leaf({
  name: "completions",
  help: "print a script that completes vmctl's words in a shell",
  options: {},
  positionals: [{ name: "SHELL", help: "bash, zsh or fish", completes: SHELLS }],
  examples: [
    { help: "in this bash", command: "source <(vmctl completions bash)" },
    {
      help: "in every fish",
      command: "vmctl completions fish > ~/.config/fish/completions/vmctl.fish",
    },
  ],
  run: async (input) => await (await import("./commands/completions.ts")).completions(input),
});

const DOCTOR = leaf({
  name: "doctor",
  help: "show what this host offers to VMs, and what to do about what it lacks",
  details: ["Exit status: 0 where a VM can run, 1 where none can."],
  options: DOCTOR_OPTIONS,
  examples: [{ help: "for a program", command: "vmctl doctor --json" }],
  run: async (input) => await (await import("./commands/doctor.ts")).doctor(input),
});

/** `vmctl` itself. */
export const ROOT: Command = group(
  "vmctl",
  [RUN, ...CONTROL, ...DISKS, DEVICES, DOCTOR, CONFIG, POLICY, COMPLETIONS],
  {
    help: "Virtual machine monitor for Linux guests, with or without hardware virtualization",
    examples: [
      { help: "boot a kernel", command: "vmctl run -i initrd.img vmlinuz" },
      { help: "see what the host offers", command: "vmctl doctor" },
    ],
  },
);
