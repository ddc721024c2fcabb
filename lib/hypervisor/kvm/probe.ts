/**
 * What KVM is worth on this host. There are KVMs that interpret a guest's kernel code instead of
 * running it on the processor's virtualization; they answer every request like a real one and are a
 * hundred times slower. Only a clock tells them apart.
 *
 * @module
 */

import { describeError } from "../../base/mod.ts";
import { Errno, Fd, ioctl, ioctlFast, mmap, monotonicNs, tryIoctl } from "../../host/mod.ts";
import { API_VERSION, Capability, Exit, Request, RunOffset, TSS_ADDRESS } from "./abi.ts";
import { readSregs, REGS_SIZE_BYTES, SREGS_SIZE_BYTES, writeSregs } from "./registers.ts";
import { createVmFd } from "./vm.ts";
import { apiVersion, KVM_PATH, missingCapabilities, openDevice, remedyOf } from "./system.ts";

/** What {@link probeKvm} found. */
export interface KvmFacts {
  /** Path of the device node. */
  readonly path: string;
  /** Whether the device node could be opened. */
  readonly accessible: boolean;
  /** Whether the KVM engine works here at all (possibly slowly). */
  readonly usable: boolean;
  /** API version, where it was asked. */
  readonly apiVersion?: number;
  /** Required capabilities that are not there, without `KVM_CAP_`. */
  readonly missingCapabilities: readonly string[];
  /** Most vCPUs of a VM, where known. */
  readonly maxVcpus?: number;
  /** Whether guest kernel code runs on the processor, where it was measured. */
  readonly execution?: "hardware" | "emulated";
  /** Measured simple ring-0 instructions per second, where it was measured. */
  readonly instructionsPerSecond?: number;
  /** What is in the way, in a sentence. */
  readonly problem?: string;
  /** What to do about it. */
  readonly remedy?: string;
}

/**
 * Hardware executes more than 500 million of the loop's instructions a second even on a slow or loaded
 * machine; emulations reach 3 to 30 million.
 */
const HARDWARE_INSTRUCTIONS_PER_SECOND = 100e6;
/** Turns of the first run: 0.7 ms of work for an emulation of 3 million instructions a second. */
const SHORT_TURNS = 1_000;
/** Turns of the second run, which only a fast KVM gets: 0.1 to 0.4 ms. */
const LONG_TURNS = 200_000;
const INSTRUCTIONS_PER_TURN = 2;
const ATTEMPTS = 3;

/** `dec ecx; jnz .-3; hlt` */
const LOOP = [0xff, 0xc9, 0x75, 0xfc, 0xf4];
const GUEST_SIZE_BYTES = 4096;
const RCX_AT = 16;
const RIP_AT = 16 * 8;
const RFLAGS_AT = 17 * 8;

/** Finds out whether KVM is there, complete and real. Takes about 2 ms; never throws. */
export function probeKvm(): KvmFacts {
  const nothing = { path: KVM_PATH, accessible: false, usable: false, missingCapabilities: [] };
  let device: Fd;
  try {
    device = openDevice();
  } catch (error) {
    return {
      ...nothing,
      problem: describeError(error),
      remedy: remedyOf(error instanceof Error ? error.cause : error),
    };
  }
  using fd = device;
  try {
    return measure(fd);
  } catch (error) {
    return { ...nothing, accessible: true, problem: describeError(error) };
  }
}

function measure(fd: Fd): KvmFacts {
  const version = apiVersion(fd);
  const missing = version === API_VERSION ? missingCapabilities(fd) : [];
  const facts = {
    path: KVM_PATH,
    accessible: true,
    usable: version === API_VERSION && missing.length === 0,
    apiVersion: version,
    missingCapabilities: missing,
    maxVcpus: Math.max(1, tryIoctl(fd.raw, Request.CheckExtension, Capability.MaxVcpus)),
  };
  if (version !== API_VERSION) {
    const problem = `${KVM_PATH} speaks API version ${version}, expected ${API_VERSION}`;
    return { ...facts, problem };
  }
  if (missing.length > 0) {
    const list = missing.map((name) => `KVM_CAP_${name}`).join(", ");
    return { ...facts, problem: `${KVM_PATH} lacks ${list}`, remedy: "use a newer kernel" };
  }
  const instructionsPerSecond = measureRate(fd);
  if (instructionsPerSecond >= HARDWARE_INSTRUCTIONS_PER_SECOND) {
    return { ...facts, execution: "hardware", instructionsPerSecond };
  }
  return {
    ...facts,
    execution: "emulated",
    instructionsPerSecond,
    problem: `${KVM_PATH} interprets guest kernel code at ` +
      `${(instructionsPerSecond / 1e6).toFixed(1)} million instructions a second`,
    remedy:
      "use a host with hardware virtualization (VMX or SVM); until then the software engine " +
      "is faster",
  };
}

/** Runs the loop in 32-bit protected mode, ring 0, without paging; instructions a second. */
function measureRate(kvm: Fd): number {
  using vm = createVmFd(kvm);
  ioctl(vm, Request.SetTssAddr, TSS_ADDRESS, "KVM_SET_TSS_ADDR");
  using memory = mmap(GUEST_SIZE_BYTES);
  memory.bytes.set(LOOP);
  const slot = new DataView(new ArrayBuffer(32));
  slot.setBigUint64(16, BigInt(GUEST_SIZE_BYTES), true);
  slot.setBigUint64(24, memory.address, true);
  ioctl(vm, Request.SetUserMemoryRegion, slot, "KVM_SET_USER_MEMORY_REGION");
  using vcpu = Fd.adopt(ioctl(vm, Request.CreateVcpu, 0, "KVM_CREATE_VCPU"));
  using run = mmap(ioctl(kvm, Request.GetVcpuMmapSize, 0, "KVM_GET_VCPU_MMAP_SIZE"), { fd: vcpu });
  enterProtectedMode(vcpu);

  const time = (turns: number): number => {
    const regs = new DataView(new ArrayBuffer(REGS_SIZE_BYTES));
    regs.setBigUint64(RCX_AT, BigInt(turns), true);
    regs.setBigUint64(RIP_AT, 0n, true);
    regs.setBigUint64(RFLAGS_AT, 2n, true);
    ioctl(vcpu, Request.SetRegs, regs, "KVM_SET_REGS");
    const start = monotonicNs();
    let result: number;
    do result = ioctlFast(vcpu.raw, Request.Run, 0); while (
      result === -Errno.EINTR || result === -Errno.EAGAIN
    );
    const elapsed = monotonicNs() - start;
    const reason = run.view.getUint32(RunOffset.ExitReason, true);
    // One that cannot even run this loop is as good as none.
    return result === 0 && reason === Exit.Hlt ? elapsed : Infinity;
  };
  // The first entry sets much up; the shortest of a few times is the one that nothing disturbed.
  const best = (turns: number) => Math.min(...Array.from({ length: ATTEMPTS }, () => time(turns)));
  time(1);
  const entry = best(1);
  const short = rate(SHORT_TURNS, best(SHORT_TURNS) - entry);
  return short < HARDWARE_INSTRUCTIONS_PER_SECOND / 4
    ? short
    : rate(LONG_TURNS, best(LONG_TURNS) - entry);
}

function rate(turns: number, elapsedNs: number): number {
  return turns * INSTRUCTIONS_PER_TURN / Math.max(elapsedNs, 1) * 1e9;
}

function enterProtectedMode(vcpu: Fd): void {
  const bytes = new DataView(new ArrayBuffer(SREGS_SIZE_BYTES));
  ioctl(vcpu, Request.GetSregs, bytes, "KVM_GET_SREGS");
  const sregs = readSregs(bytes);
  const flat = {
    ...sregs.cs,
    base: 0n,
    limit: 0xffff_ffff,
    dpl: 0,
    db: true,
    g: true,
    present: true,
  };
  const data = { ...flat, selector: 16, type: 3, s: true };
  writeSregs(bytes, {
    cs: { ...flat, selector: 8, type: 11, s: true },
    ds: data,
    es: data,
    ss: data,
    cr0: sregs.cr0 | 1n,
  });
  ioctl(vcpu, Request.SetSregs, bytes, "KVM_SET_SREGS");
}
