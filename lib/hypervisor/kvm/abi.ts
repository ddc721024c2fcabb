/**
 * Numbers of the KVM interface (linux/kvm.h and asm/kvm.h for x86-64; Documentation/virt/kvm/api.rst).
 *
 * @module
 */

/** Version that every KVM since Linux 2.6.22 reports. */
export const API_VERSION = 12;

/** ioctl requests. */
export const Request = {
  GetApiVersion: 0xae00,
  CreateVm: 0xae01,
  CheckExtension: 0xae03,
  GetVcpuMmapSize: 0xae04,
  GetSupportedCpuid: 0xc008ae05,

  CreateVcpu: 0xae41,
  GetDirtyLog: 0x4010ae42,
  SetUserMemoryRegion: 0x4020ae46,
  SetTssAddr: 0xae47,
  SetIdentityMapAddr: 0x4008ae48,
  CreateIrqchip: 0xae60,
  IrqLine: 0x4008ae61,
  SetGsiRouting: 0x4008ae6a,
  Irqfd: 0x4020ae76,
  CreatePit2: 0x4040ae77,
  Ioeventfd: 0x4040ae79,
  SetClock: 0x4030ae7b,
  GetClock: 0x8030ae7c,
  GetPit2: 0x8070ae9f,
  SetPit2: 0x4070aea0,
  SignalMsi: 0x4020aea5,

  Run: 0xae80,
  GetRegs: 0x8090ae81,
  SetRegs: 0x4090ae82,
  GetSregs: 0x8138ae83,
  SetSregs: 0x4138ae84,
  GetMsrs: 0xc008ae88,
  SetMsrs: 0x4008ae89,
  SetFpu: 0x41a0ae8d,
  GetLapic: 0x8400ae8e,
  SetLapic: 0x4400ae8f,
  SetCpuid2: 0x4008ae90,
  GetMpState: 0x8004ae98,
  GetTscKhz: 0xaea3,
  KvmclockCtrl: 0xaead,
  SetDeviceAttr: 0x4018aee1,
  GetDeviceAttr: 0x4018aee2,
} as const;

/** Capabilities (KVM_CAP_…) that the engine cannot do without, by name. */
export const REQUIRED_CAPABILITIES: Readonly<Record<string, number>> = {
  IRQCHIP: 0,
  USER_MEMORY: 3,
  SET_TSS_ADDR: 4,
  EXT_CPUID: 7,
  NR_MEMSLOTS: 10,
  MP_STATE: 14,
  DESTROY_MEMORY_REGION_WORKS: 21,
  IRQ_ROUTING: 25,
  IRQFD: 32,
  PIT2: 33,
  IOEVENTFD: 36,
  SET_IDENTITY_MAP_ADDR: 37,
  INTERNAL_ERROR_DATA: 40,
  SIGNAL_MSI: 77,
  IMMEDIATE_EXIT: 136,
};

/** Capabilities that are used where they are there. */
export const Capability = {
  NrVcpus: 9,
  PitState2: 35,
  AdjustClock: 39,
  GetTscKhz: 61,
  MaxVcpus: 66,
  TscDeadlineTimer: 72,
  KvmclockCtrl: 76,
  IrqfdResample: 82,
} as const;

/** Where the three pages lie that older Intel processors need for real mode. */
export const TSS_ADDRESS = 0xfffb_d000;
/** Where the identity-map page lies that they need, too. */
export const IDENTITY_MAP_ADDRESS = 0xfffb_c000;

/** Flag of KVM_CREATE_PIT2: port 0x61 is answered as well. */
export const PIT_SPEAKER_DUMMY = 1;
/** Flag of KVM_SET_USER_MEMORY_REGION. */
export const MEM_LOG_DIRTY_PAGES = 1;

/** Flags of KVM_IRQFD. */
export const IrqfdFlag = { Deassign: 1, Resample: 2 } as const;
/** Flags of KVM_IOEVENTFD. */
export const IoeventfdFlag = { Datamatch: 1, Pio: 2, Deassign: 4 } as const;

/** Chips of an interrupt route. */
export const Irqchip = { PicMaster: 0, PicSlave: 1, Ioapic: 2 } as const;
/** Types of an interrupt route. */
export const RouteType = { Irqchip: 1, Msi: 2 } as const;
/** Size of `struct kvm_irq_routing_entry` in bytes; its header has 8. */
export const ROUTE_SIZE_BYTES = 48;

/** Offsets in `struct kvm_run`. */
export const RunOffset = {
  ImmediateExit: 1,
  ExitReason: 8,
  Union: 32,
  IoDirection: 32,
  IoSize: 33,
  IoPort: 34,
  IoCount: 36,
  IoDataOffset: 40,
  MmioAddress: 32,
  MmioData: 40,
  MmioLength: 48,
  MmioIsWrite: 52,
  FailEntryReason: 32,
  FailEntryCpu: 40,
  InternalSuberror: 32,
  InternalDataCount: 36,
  InternalData: 40,
  SystemEventType: 32,
  SystemEventDataCount: 36,
  SystemEventData: 40,
} as const;

/** Exit reasons that {@link KvmVcpu.run} tells apart. */
export const Exit = {
  Unknown: 0,
  Exception: 1,
  Io: 2,
  Hypercall: 3,
  Debug: 4,
  Hlt: 5,
  Mmio: 6,
  IrqWindowOpen: 7,
  Shutdown: 8,
  FailEntry: 9,
  Intr: 10,
  SetTpr: 11,
  TprAccess: 12,
  Nmi: 16,
  InternalError: 17,
  SystemEvent: 24,
  IoapicEoi: 26,
  Hyperv: 27,
  X86Rdmsr: 29,
  X86Wrmsr: 30,
  BusLock: 33,
  Notify: 37,
  MemoryFault: 39,
} as const;

/** Every exit reason, by number (linux/kvm.h, KVM_EXIT_…). */
export const EXIT_NAMES: readonly string[] = [
  "UNKNOWN",
  "EXCEPTION",
  "IO",
  "HYPERCALL",
  "DEBUG",
  "HLT",
  "MMIO",
  "IRQ_WINDOW_OPEN",
  "SHUTDOWN",
  "FAIL_ENTRY",
  "INTR",
  "SET_TPR",
  "TPR_ACCESS",
  "S390_SIEIC",
  "S390_RESET",
  "DCR",
  "NMI",
  "INTERNAL_ERROR",
  "OSI",
  "PAPR_HCALL",
  "S390_UCONTROL",
  "WATCHDOG",
  "S390_TSCH",
  "EPR",
  "SYSTEM_EVENT",
  "S390_STSI",
  "IOAPIC_EOI",
  "HYPERV",
  "ARM_NISV",
  "X86_RDMSR",
  "X86_WRMSR",
  "DIRTY_RING_FULL",
  "AP_RESET_HOLD",
  "X86_BUS_LOCK",
  "XEN",
  "RISCV_SBI",
  "RISCV_CSR",
  "NOTIFY",
  "LOONGARCH_IOCSR",
  "MEMORY_FAULT",
  "TDX",
];

/** Suberrors of KVM_EXIT_INTERNAL_ERROR, by number. */
export const SUBERROR_NAMES: readonly string[] = [
  "none",
  "EMULATION (an instruction could not be emulated)",
  "SIMUL_EX (two exceptions at once)",
  "DELIVERY_EV (unexpected exit while an event was delivered)",
  "UNEXPECTED_EXIT_REASON",
];

/** Types of KVM_EXIT_SYSTEM_EVENT. */
export const SystemEvent = { Shutdown: 1, Reset: 2, Crash: 3 } as const;
/** Their names, by number. */
export const SYSTEM_EVENT_NAMES: readonly string[] = [
  "none",
  "SHUTDOWN",
  "RESET",
  "CRASH",
  "WAKEUP",
  "SUSPEND",
  "SEV_TERM",
];

/** Multiprocessor states of KVM_GET_MP_STATE. */
export const MpStateCode = {
  Runnable: 0,
  Uninitialized: 1,
  InitReceived: 2,
  Halted: 3,
  SipiReceived: 4,
} as const;
