/**
 * What a VM is made of, once command line and config files are read, merged and checked. The machine
 * takes it as it is: every default is filled in, every path is absolute, every number is in range.
 *
 * @module
 */

/** A file that is opened by its path, or that the caller of vmctl opened and passed on. */
export type FileSource =
  | {
    readonly kind: "path";
    /** Absolute path. */
    readonly path: string;
  }
  | {
    readonly kind: "fd";
    /** Inherited descriptor, to be checked and duplicated with lib/host's `validateInheritedFd`. */
    readonly fd: number;
    /** As the user wrote it, such as `/proc/self/fd/5`, for messages. */
    readonly path: string;
  };

/** Which engine runs the guest; `auto` takes KVM where it is there and is real. */
export type HypervisorChoice = "auto" | "kvm" | "soft";

/** How much is logged to stderr, each level includes those before it. */
export type LogLevelName = "error" | "warn" | "info" | "debug" | "trace";

/** Where the bytes that a guest writes to a serial port go. */
export type SerialOutput =
  | { readonly type: "stdout" }
  | { readonly type: "sink" }
  | { readonly type: "syslog" }
  /** Appended to, made if missing. */
  | { readonly type: "file"; readonly file: FileSource }
  /** Sent to the datagram socket at `path`. */
  | { readonly type: "unix"; readonly path: string }
  /** Connected to the stream socket at `path`, which is also the input. */
  | { readonly type: "unix-stream"; readonly path: string };

/** Where the bytes that a guest reads from a serial port come from. */
export type SerialInput =
  | { readonly type: "stdin" }
  | { readonly type: "file"; readonly file: FileSource }
  /** The stream socket that is the output, too. */
  | { readonly type: "unix-stream" };

/** A 16550 serial port. */
export interface SerialConfig {
  /** 1 is COM1 (`ttyS0` in the guest), 2 is COM2. */
  readonly num: 1 | 2;
  /** Where output goes. */
  readonly output: SerialOutput;
  /** Where input comes from; nothing is ever received where undefined. */
  readonly input: SerialInput | undefined;
  /** Whether the guest kernel is told to use this port as its console. At most one port. */
  readonly console: boolean;
  /** Whether the guest kernel is told to use this port as its early console. At most one port. */
  readonly earlycon: boolean;
  /** Whether each line of output is prefixed with the time since the VM's start. */
  readonly outTimestamp: boolean;
}

/** A disk. */
export interface DiskConfig {
  /** Absolute path of an image or block device, or an inherited descriptor as `/proc/self/fd/N`. */
  readonly path: string;
  readonly readOnly: boolean;
  /** Whether the guest kernel finds its root file system on it. At most one disk. */
  readonly root: boolean;
  /** Whether storage that the guest discards is given back to the host. */
  readonly sparse: boolean;
  /** Bytes of a logical block. */
  readonly blockBytes: number;
  /** Whether the host's page cache is left out. */
  readonly direct: boolean;
  /** Whether the file is locked, shared where it is read-only, else exclusive. */
  readonly lock: boolean;
  /** Serial number, at most 20 ASCII characters. */
  readonly id: string;
  /** `probe` tells by the first bytes. */
  readonly format: "probe" | "raw" | "qcow2";
  /** Most queues. */
  readonly queueCount: number;
  /** Whether packed queues are offered. */
  readonly packedQueues: boolean;
  /** How the file is read and written: `uring` must be possible, `auto` takes it where it is. */
  readonly executor: "auto" | "uring" | "epoll";
  /** Its number on PCI bus 0, 1 to 31; the first that is free where undefined. */
  readonly pciDevice: number | undefined;
  /** Its place in the order in which firmware tries disks. */
  readonly bootIndex: number | undefined;
}

/** A port of the virtio console. */
export interface ConsoleConfig extends Omit<SerialConfig, "num" | "earlycon"> {
  /** 1 is `hvc0` in the guest. */
  readonly num: number;
}

/** When the guest has to give memory back. */
export type BalloonPolicyChoice = "off" | "auto" | "device" | "pressure" | "available";

/** The balloon. */
export interface BalloonConfig {
  /** When it grows by itself. */
  readonly policy: BalloonPolicyChoice;
  /** Whether the guest reports free pages. */
  readonly pageReporting: boolean;
  /** Absolute path of the control group whose memory counts beside the host's. */
  readonly cgroup: string | undefined;
}

/** What the guest runs first: a Linux kernel, or firmware. Exactly one of them. */
export type BootSource =
  | {
    readonly kind: "kernel";
    readonly kernel: FileSource;
    readonly initrd: FileSource | undefined;
    /** What the user adds to the kernel's command line, in order; joined with blanks. */
    readonly params: readonly string[];
  }
  | { readonly kind: "firmware"; readonly firmware: FileSource };

/** Where the control socket is. */
export type SocketConfig =
  /** At this path, or in it as `vmctl-PID.sock` where it is a directory. */
  | { readonly kind: "path"; readonly path: string }
  /** A listening SOCK_SEQPACKET socket that the caller opened. */
  | { readonly kind: "fd"; readonly fd: number; readonly path: string };

/** What a foreign vhost-user back end serves. */
export type VhostUserType =
  | "block"
  | "console"
  | "fs"
  | "gpu"
  | "input"
  | "net"
  | "rng"
  | "vsock";

/** A virtio device whose back end somebody else has started. */
export interface VhostUserConfig {
  readonly type: VhostUserType;
  /** Where the back end listens. */
  readonly socket: string;
  /** Most entries of a queue, a power of two; the machine's choice where undefined. */
  readonly maxQueueSize: number | undefined;
  /** Whether packed queues are offered, where the back end has them. */
  readonly packedQueues: boolean;
}

/** Settings of the software engine. */
export interface SoftConfig {
  /** Whether translated code is kept on disk for the next run. */
  readonly cache: boolean;
  /** Folder for it; that of the user's caches where undefined. */
  readonly cacheFolder: string | undefined;
  /** How large its file may become. */
  readonly cacheMib: number;
  /** About how much memory translated code may take. */
  readonly codeMib: number;
}

/** How devices are jailed. */
export interface SandboxConfig {
  /** Absolute path of the folder that becomes the root of jails. */
  readonly pivotRoot: string;
  /** Absolute path of the folder with policies; undefined for the program's own. */
  readonly seccompPolicyDir: string | undefined;
  /** Whether forbidden system calls are made, and logged. */
  readonly seccompLogFailures: boolean;
}

/** A complete, valid configuration of a VM. */
export interface VmConfig {
  /** Name under which `vmctl stop NAME` and `vmctl list` know the VM; generated from the pid where undefined. */
  readonly name: string | undefined;
  /** What the guest boots. */
  readonly boot: BootSource;
  /** Number of vCPUs, at least 1. */
  readonly cpuCount: number;
  /** Guest RAM in MiB. */
  readonly memoryMib: number;
  /** Always two ports, COM1 and COM2, in this order; one that was not asked for is a sink. */
  readonly serial: readonly [SerialConfig, SerialConfig];
  /** Disks, `/dev/vda` in the guest first. */
  readonly disks: readonly DiskConfig[];
  /** Ports of the virtio console by number, without gaps; there is no such device where empty. */
  readonly consoles: readonly ConsoleConfig[];
  /** Whether there is a source of random bytes. */
  readonly rng: boolean;
  /** The balloon, where there is one. */
  readonly balloon: BalloonConfig | undefined;
  /** Devices of foreign vhost-user back ends. */
  readonly vhostUser: readonly VhostUserConfig[];
  /** Whether the back end of a device is started again when it has died; else the VM ends. */
  readonly restartDevices: boolean;
  /** Control socket; by `name` under the user's run directory where undefined. */
  readonly socket: SocketConfig | undefined;
  /** Engine. */
  readonly hypervisor: HypervisorChoice;
  readonly soft: SoftConfig;
  /** File for the software engine's counters. */
  readonly engineStats: string | undefined;
  /** Whether the exit status tells reset, crash, panic and watchdog apart (32, 33, 34, 36). */
  readonly extendedStatus: boolean;
  /** Least important level that is logged. */
  readonly logLevel: LogLevelName;
  /** Levels of single parts, such as `disk` in `info,disk=warn`. */
  readonly logModules: Readonly<Record<string, LogLevelName>>;
  /** Jails of devices; undefined where they run in workers of the VMM instead. */
  readonly sandbox: SandboxConfig | undefined;
}
