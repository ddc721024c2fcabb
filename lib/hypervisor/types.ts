/**
 * What a hypervisor gives to the machine above it. Nothing above `lib/hypervisor` knows which engine
 * runs, and nothing in it knows a device: port and memory accesses leave through {@link VcpuIo}.
 *
 * @module
 */

import type { GuestMemory } from "../memory/mod.ts";

/** Which engine executes guest code. */
export type EngineKind = "kvm" | "soft";

/** What an engine can do on this host. */
export interface Capabilities {
  /** Most vCPUs that one VM may have. */
  readonly maxVcpus: number;
  /** Most guest RAM in bytes. */
  readonly maxMemoryBytes: number;
  /** Whether written pages can be logged. */
  readonly dirtyLog: boolean;
  /** Guest TSC frequency in kHz, where known. */
  readonly tscKhz: number | undefined;
}

/** An engine that is open and able to make VMs. */
export interface Hypervisor extends Disposable {
  /** Which engine this is. */
  readonly kind: EngineKind;
  /** What it can do on this host. */
  readonly capabilities: Capabilities;
  /**
   * Makes a VM over `memory`, with interrupt controllers, PIT and all vCPU slots, none running yet.
   * @throws {HypervisorError} when the host refuses or a limit is exceeded.
   */
  createVm(memory: GuestMemory, options: VmOptions): Vm;
}

/** Settings of a VM. */
export interface VmOptions {
  /** Number of vCPUs, their APIC ids are 0 to `vcpuCount - 1`. */
  readonly vcpuCount: number;
}

/** A `structuredClone`-able description of a VM from which a worker of this process attaches to it. */
export type VmHandle = { readonly kind: EngineKind } & Record<string, unknown>;

/** Where an ioeventfd listens. */
export interface IoEventAddress {
  /** Port or memory space. */
  readonly space: "pio" | "mmio";
  /** Port number or guest physical address. */
  readonly address: number;
  /** Width of the write in bytes; 0 matches any width. */
  readonly length: 0 | 1 | 2 | 4 | 8;
  /** Only writes of this value signal; any value where absent. */
  readonly datamatch?: bigint;
}

/** Where a global system interrupt goes. */
export type GsiRoute =
  | { readonly type: "irqchip"; readonly chip: "pic" | "ioapic"; readonly pin: number }
  | { readonly type: "msi"; readonly address: bigint; readonly data: number };

/** A virtual machine. Every method may be called from any worker that holds or attached the VM. */
export interface Vm extends Disposable {
  /** Which engine runs it. */
  readonly kind: EngineKind;
  /** Number of vCPUs. */
  readonly vcpuCount: number;
  /** For another worker of this process: `attachVm(handle)`; the attached object does not own the VM. */
  handle(): VmHandle;
  /** Makes vCPU `id` in the calling worker, which is the one that runs it. Each id once. */
  createVcpu(id: number): Vcpu;
  /** Work that a thread of its own may do for the vCPUs; undefined where there is none. */
  readonly service?: VmService | undefined;
  /** What the engine did so far, as JSON for people; undefined where it does not count. */
  engineStats?(): Record<string, unknown>;
  /** Drives interrupt line `gsi` (level semantics; an edge is a raise and a lower). */
  setIrqLine(gsi: number, level: boolean): void;
  /** Sends a message-signalled interrupt (Intel SDM vol. 3, 11.11). */
  signalMsi(address: bigint, data: number): void;
  /** Replaces the routes of `gsi` (0 to 23 begin as PIC and I/O APIC pins, as on a PC). */
  setGsiRoutes(gsi: number, routes: readonly GsiRoute[]): void;
  /** Raises `gsi` each time that `eventFd` is signalled; `resampleFd` is signalled at its EOI. */
  registerIrqfd(eventFd: number, gsi: number, resampleFd?: number): void;
  /** Undoes {@link registerIrqfd}. */
  unregisterIrqfd(eventFd: number, gsi: number): void;
  /** Signals `eventFd` at a guest write instead of leaving {@link Vcpu.run}. */
  registerIoeventfd(at: IoEventAddress, eventFd: number): void;
  /** Undoes {@link registerIoeventfd}. */
  unregisterIoeventfd(at: IoEventAddress, eventFd: number): void;
  /** Stops guest time (all vCPUs are out of {@link Vcpu.run}). */
  pauseClock(): void;
  /** Lets guest time go on from where it stopped. */
  resumeClock(): void;
  /** Starts or stops logging of written pages in memory region `regionIndex`. */
  setDirtyLog(regionIndex: number, enabled: boolean): void;
  /** Takes and clears the log: bit n of the result is page n of the region. */
  takeDirtyLog(regionIndex: number): Uint8Array;
  /** Makes vCPU `id` leave {@link Vcpu.run} soon with `Interrupted`; callable from any worker. */
  kick(id: number): void;
}

/** Work for the vCPUs that they do themselves where nobody else does it. */
export interface VmService {
  /** Does it on the calling thread, until {@link end}. */
  serve(): void;
  /** Says that whoever did it does not any more. */
  lost(): void;
  /** Lets {@link serve} return, on whatever thread it is. */
  end(): void;
}

/**
 * Where port and memory accesses of a vCPU go. `data` is little-endian, its first `size` bytes count;
 * it is reused, so it must not be kept. Nothing is allocated per access. A method that throws makes
 * {@link Vcpu.run} throw.
 */
export interface VcpuIo {
  /** IN: fill `data` (all ones where nothing answers). */
  portIn(port: number, size: number, data: DataView): void;
  /** OUT. */
  portOut(port: number, size: number, data: DataView): void;
  /** Load from a guest physical address that is not RAM; size 1, 2, 4 or 8. */
  mmioRead(address: number, size: number, data: DataView): void;
  /** Store to a guest physical address that is not RAM. */
  mmioWrite(address: number, size: number, data: DataView): void;
  /**
   * After each handled access: true makes {@link Vcpu.run} return `Interrupted` at the next
   * instruction boundary (a device asked for power-off or reset).
   */
  readonly stopRequested: boolean;
}

/** Why {@link Vcpu.run} came back. */
export enum ExitReason {
  /** Kicked, or {@link VcpuIo.stopRequested}, or a signal. Run again to go on. */
  Interrupted,
  /** Triple fault. */
  Shutdown,
  /** The guest asked for a reset through the engine (KVM_SYSTEM_EVENT_RESET). */
  SystemReset,
  /** The guest asked for power-off through the engine (KVM_SYSTEM_EVENT_SHUTDOWN). */
  SystemShutdown,
  /** The guest reported a crash through the engine (KVM_SYSTEM_EVENT_CRASH). */
  SystemCrash,
  /** HLT without an in-engine interrupt controller able to wake it. */
  Halt,
  /** The processor could not be entered; {@link VcpuExit.detail} says why. */
  FailEntry,
  /** The engine cannot go on; {@link VcpuExit.detail} says why, with registers. */
  InternalError,
  /** An exit that nobody handles; {@link VcpuExit.detail} names it. */
  Unhandled,
}

/** The result of {@link Vcpu.run}; one object per vCPU, overwritten by the next run. */
export interface VcpuExit {
  /** Why. */
  reason: ExitReason;
  /** For the failing reasons: what happened, with the engine's codes and the registers. */
  detail: string;
}

/** General registers, all 64 bits wide. */
export interface Regs {
  rax: bigint;
  rbx: bigint;
  rcx: bigint;
  rdx: bigint;
  rsi: bigint;
  rdi: bigint;
  rsp: bigint;
  rbp: bigint;
  r8: bigint;
  r9: bigint;
  r10: bigint;
  r11: bigint;
  r12: bigint;
  r13: bigint;
  r14: bigint;
  r15: bigint;
  rip: bigint;
  rflags: bigint;
}

/** A segment register with its hidden part. */
export interface Segment {
  base: bigint;
  /** In bytes (the granularity bit is already applied). */
  limit: number;
  selector: number;
  /** Segment type field, 4 bits. */
  type: number;
  present: boolean;
  dpl: number;
  /** D/B bit: default operand size. */
  db: boolean;
  /** S bit: code or data, not system. */
  s: boolean;
  /** L bit: 64-bit code. */
  l: boolean;
  /** G bit. */
  g: boolean;
  avl: boolean;
  unusable: boolean;
}

/** Descriptor table register. */
export interface TableRegister {
  base: bigint;
  limit: number;
}

/** System registers. */
export interface Sregs {
  cs: Segment;
  ds: Segment;
  es: Segment;
  fs: Segment;
  gs: Segment;
  ss: Segment;
  tr: Segment;
  ldt: Segment;
  gdt: TableRegister;
  idt: TableRegister;
  cr0: bigint;
  cr2: bigint;
  cr3: bigint;
  cr4: bigint;
  cr8: bigint;
  efer: bigint;
  apicBase: bigint;
}

/** Whether a vCPU runs, waits for INIT/SIPI, or sleeps in HLT. */
export type MpState = "runnable" | "uninitialized" | "halted" | "sipi-received";

/** One virtual processor. Used by the worker that made it, except {@link Vm.kick}. */
export interface Vcpu extends Disposable {
  /** Its number and APIC id. */
  readonly id: number;
  /**
   * Makes ready what the guest is likely to need, while there is nothing to run yet.
   *
   * @param isCalled Asked now and then: true where {@link Vcpu.run} is to come soon.
   */
  prepare(isCalled: () => boolean): void;
  /**
   * Executes guest code until there is a reason to come back. Sleeps in HLT. EINTR and EAGAIN of the
   * host come back as `Interrupted` only after a kick, else they are retried inside.
   */
  run(io: VcpuIo): VcpuExit;
  /** Reads the general registers. */
  getRegs(): Regs;
  /** Writes the general registers. */
  setRegs(regs: Partial<Regs>): void;
  /** Reads the system registers. */
  getSregs(): Sregs;
  /** Writes the system registers. */
  setSregs(sregs: Partial<Sregs>): void;
  /** Reads model-specific register `index`. */
  getMsr(index: number): bigint;
  /** Writes model-specific register `index`. */
  setMsr(index: number, value: bigint): void;
  /** Reads the multiprocessor state. */
  getMpState(): MpState;
}
