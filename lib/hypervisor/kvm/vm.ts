/**
 * A VM of KVM: memory slots, interrupt controllers, event descriptors, clock.
 *
 * @module
 */

import { alignUp } from "../../base/mod.ts";
import {
  bufferAddress,
  Errno,
  Fd,
  FIRST_REALTIME_SIGNAL,
  getpid,
  gettid,
  HostError,
  ioctl,
  type Mapping,
  mmap,
  tgkill,
  tryIoctl,
  viewMemory,
} from "../../host/mod.ts";
import { type GuestMemory, PAGE_SIZE } from "../../memory/mod.ts";
import { HypervisorError } from "../errors.ts";
import type { GsiRoute, IoEventAddress, Vcpu, Vm, VmHandle, VmOptions } from "../types.ts";
import {
  IDENTITY_MAP_ADDRESS,
  IoeventfdFlag,
  IrqfdFlag,
  MEM_LOG_DIRTY_PAGES,
  PIT_SPEAKER_DUMMY,
  Request,
  RunOffset,
  TSS_ADDRESS,
} from "./abi.ts";
import { restoreClock, saveClock } from "./clock.ts";
import { SharedVmState } from "./shared_state.ts";
import type { KvmSystem } from "./system.ts";
import { KvmVcpu } from "./vcpu.ts";
import { setUpVcpu } from "./vcpu_setup.ts";

/** KVM_CREATE_VM; it may give up when a signal comes, and succeeds at the next try. */
export function createVmFd(kvm: Fd): Fd {
  for (;;) {
    const result = tryIoctl(kvm.raw, Request.CreateVm);
    if (result >= 0) return Fd.adopt(result);
    if (result !== -Errno.EINTR) throw new HostError("KVM_CREATE_VM", -result);
  }
}

/** Signal that makes a vCPU's thread leave KVM_RUN. */
export const KICK_SIGNAL: number = FIRST_REALTIME_SIGNAL;

interface MemorySlot {
  readonly guestAddress: number;
  readonly sizeBytes: number;
  readonly hostAddress: bigint;
}

/** Everything another worker needs; numbers of descriptors and addresses hold in the whole process. */
interface KvmVmParts {
  readonly fd: number;
  readonly vcpuFds: readonly number[];
  readonly runAddresses: readonly bigint[];
  readonly runSizeBytes: number;
  readonly slots: readonly MemorySlot[];
  readonly shared: SharedArrayBuffer;
}

/** A VM, or its attached counterpart in another worker. */
export class KvmVm implements Vm {
  readonly kind = "kvm";
  readonly vcpuCount: number;
  readonly #parts: KvmVmParts;
  readonly #state: SharedVmState;
  readonly #owned: DisposableStack | undefined;
  readonly #runHeads: (Uint8Array | undefined)[] = [];
  readonly #pid = getpid();
  #disposed = false;

  private constructor(parts: KvmVmParts, state: SharedVmState, owned?: DisposableStack) {
    this.vcpuCount = parts.vcpuFds.length;
    this.#parts = parts;
    this.#state = state;
    this.#owned = owned;
  }

  /** Makes a VM over `memory`; it must outlive the VM. */
  static create(system: KvmSystem, memory: GuestMemory, options: VmOptions): KvmVm {
    using stack = new DisposableStack();
    const vm = stack.use(createVmFd(system.fd));
    setUpAddresses(vm.raw);
    // Before the interrupt controllers: later each slot waits until no vCPU can look at the old ones.
    const slots = memory.regions.map(({ guestAddress, sizeBytes, hostAddress }) => ({
      guestAddress,
      sizeBytes,
      hostAddress,
    }));
    slots.forEach((slot, index) => setMemorySlot(vm.raw, index, slot, 0));
    ioctl(vm, Request.CreateIrqchip, 0, "KVM_CREATE_IRQCHIP");
    const pit = new DataView(new ArrayBuffer(64));
    pit.setUint32(0, PIT_SPEAKER_DUMMY, true);
    ioctl(vm, Request.CreatePit2, pit, "KVM_CREATE_PIT2");

    const state = SharedVmState.create(options.vcpuCount);
    ioctl(vm, Request.SetGsiRouting, state.routingTable(), "KVM_SET_GSI_ROUTING");

    const supportedCpuid = system.supportedCpuid();
    const vcpus = Array.from({ length: options.vcpuCount }, (_, id) => {
      const fd = stack.use(Fd.adopt(ioctl(vm, Request.CreateVcpu, id, "KVM_CREATE_VCPU")));
      setUpVcpu(fd.raw, {
        id,
        vcpuCount: options.vcpuCount,
        tscDeadline: system.tscDeadline,
        supportedCpuid,
      });
      return { fd, run: stack.use(mmap(system.runSizeBytes, { fd })) };
    });

    const parts = {
      fd: vm.raw,
      vcpuFds: vcpus.map(({ fd }) => fd.raw),
      runAddresses: vcpus.map(({ run }: { run: Mapping }) => run.address),
      runSizeBytes: system.runSizeBytes,
      slots,
      shared: state.buffer,
    };
    return new KvmVm(parts, state, stack.move());
  }

  /** The VM that another worker of this process made. */
  static attach(handle: VmHandle): KvmVm {
    const parts = handle["parts"] as KvmVmParts;
    return new KvmVm(parts, SharedVmState.attach(parts.shared, parts.vcpuFds.length));
  }

  handle(): VmHandle {
    return { kind: "kvm", parts: this.#parts };
  }

  createVcpu(id: number): Vcpu {
    const { vcpuFds, runAddresses, runSizeBytes } = this.#parts;
    const fd = vcpuFds[id];
    const runAddress = runAddresses[id];
    if (fd === undefined || runAddress === undefined) throw this.#noSuchVcpu(id);
    const slot = this.#state.slot(id);
    if (!slot.claim()) throw new HypervisorError(`vCPU ${id} was made already`);
    return new KvmVcpu({ id, fd, runAddress, runSizeBytes, slot });
  }

  setIrqLine(gsi: number, level: boolean): void {
    irqLevel.setUint32(0, gsi, true);
    irqLevel.setUint32(4, Number(level), true);
    ioctl(this.#parts.fd, Request.IrqLine, irqLevel, "KVM_IRQ_LINE");
  }

  signalMsi(address: bigint, data: number): void {
    const msi = new DataView(new ArrayBuffer(32));
    msi.setBigUint64(0, address, true);
    msi.setUint32(8, data, true);
    ioctl(this.#parts.fd, Request.SignalMsi, msi, "KVM_SIGNAL_MSI");
  }

  setGsiRoutes(gsi: number, routes: readonly GsiRoute[]): void {
    this.#state.lock.withLock(() => {
      this.#state.setRoutes(gsi, routes);
      const table = this.#state.routingTable();
      ioctl(this.#parts.fd, Request.SetGsiRouting, table, "KVM_SET_GSI_ROUTING");
    });
  }

  registerIrqfd(eventFd: number, gsi: number, resampleFd?: number): void {
    const flags = resampleFd === undefined ? 0 : IrqfdFlag.Resample;
    this.#irqfd({ eventFd, gsi, flags, resampleFd: resampleFd ?? 0 });
  }

  unregisterIrqfd(eventFd: number, gsi: number): void {
    this.#irqfd({ eventFd, gsi, flags: IrqfdFlag.Deassign, resampleFd: 0 });
  }

  registerIoeventfd(at: IoEventAddress, eventFd: number): void {
    this.#ioeventfd(at, eventFd, 0);
  }

  unregisterIoeventfd(at: IoEventAddress, eventFd: number): void {
    this.#ioeventfd(at, eventFd, IoeventfdFlag.Deassign);
  }

  pauseClock(): void {
    this.#state.lock.withLock(() => {
      if (this.#state.clockSaved) return;
      saveClock(this.#clockFds, this.#state.clock);
      this.#state.clockSaved = true;
    });
  }

  resumeClock(): void {
    this.#state.lock.withLock(() => {
      if (!this.#state.clockSaved) return;
      restoreClock(this.#clockFds, this.#state.clock);
      this.#state.clockSaved = false;
    });
  }

  setDirtyLog(regionIndex: number, enabled: boolean): void {
    const slot = this.#slot(regionIndex);
    setMemorySlot(this.#parts.fd, regionIndex, slot, enabled ? MEM_LOG_DIRTY_PAGES : 0);
  }

  takeDirtyLog(regionIndex: number): Uint8Array {
    const pages = this.#slot(regionIndex).sizeBytes / PAGE_SIZE;
    // The kernel writes whole longs.
    const bitmap = new Uint8Array(new ArrayBuffer(alignUp(Math.ceil(pages / 8), 8)));
    const request = new DataView(new ArrayBuffer(16));
    request.setUint32(0, regionIndex, true);
    request.setBigUint64(8, bufferAddress(bitmap.buffer), true);
    ioctl(this.#parts.fd, Request.GetDirtyLog, request, "KVM_GET_DIRTY_LOG");
    return bitmap;
  }

  kick(id: number): void {
    const address = this.#parts.runAddresses[id];
    if (address === undefined) throw this.#noSuchVcpu(id);
    // After the owner's end the mapping is gone; there is nobody to kick either.
    if (this.#state.closed) return;
    const slot = this.#state.slot(id);
    slot.requestKick();
    const run = this.#runHeads[id] ??= new Uint8Array(viewMemory(address, RunOffset.Union));
    run[RunOffset.ImmediateExit] = 1;
    // A thread that is not in KVM_RUN yet sees the byte at its entry; one that is inside needs a signal.
    const { tid } = slot;
    if (tid !== 0 && tid !== gettid()) tgkill(this.#pid, tid, KICK_SIGNAL);
  }

  /** Ends the VM where this object owns it; every vCPU is out of its loop by then. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.#owned === undefined) return;
    this.#state.close();
    this.#owned.dispose();
  }

  get #clockFds() {
    return { vm: this.#parts.fd, vcpus: this.#parts.vcpuFds };
  }

  #slot(regionIndex: number): MemorySlot {
    const slot = this.#parts.slots[regionIndex];
    if (slot === undefined) {
      const last = this.#parts.slots.length - 1;
      throw new HypervisorError(`no memory region ${regionIndex}, expected 0 to ${last}`);
    }
    return slot;
  }

  #noSuchVcpu(id: number): HypervisorError {
    return new HypervisorError(`no vCPU ${id}, expected 0 to ${this.vcpuCount - 1}`);
  }

  #irqfd(what: { eventFd: number; gsi: number; flags: number; resampleFd: number }): void {
    const request = new DataView(new ArrayBuffer(32));
    request.setUint32(0, what.eventFd, true);
    request.setUint32(4, what.gsi, true);
    request.setUint32(8, what.flags, true);
    request.setUint32(12, what.resampleFd, true);
    ioctl(this.#parts.fd, Request.Irqfd, request, "KVM_IRQFD");
  }

  #ioeventfd(at: IoEventAddress, eventFd: number, flags: number): void {
    if (at.length === 0 && at.datamatch !== undefined) {
      throw new HypervisorError("an ioeventfd of any length cannot match a value");
    }
    const request = new DataView(new ArrayBuffer(64));
    request.setBigUint64(0, at.datamatch ?? 0n, true);
    request.setBigUint64(8, BigInt(at.address), true);
    request.setUint32(16, at.length, true);
    request.setInt32(20, eventFd, true);
    const space = at.space === "pio" ? IoeventfdFlag.Pio : 0;
    const match = at.datamatch === undefined ? 0 : IoeventfdFlag.Datamatch;
    request.setUint32(24, flags | space | match, true);
    ioctl(this.#parts.fd, Request.Ioeventfd, request, "KVM_IOEVENTFD");
  }
}

const irqLevel = new DataView(new ArrayBuffer(8));

function setUpAddresses(vm: number): void {
  ioctl(vm, Request.SetTssAddr, TSS_ADDRESS, "KVM_SET_TSS_ADDR");
  const identityMap = new DataView(new ArrayBuffer(8));
  identityMap.setBigUint64(0, BigInt(IDENTITY_MAP_ADDRESS), true);
  ioctl(vm, Request.SetIdentityMapAddr, identityMap, "KVM_SET_IDENTITY_MAP_ADDR");
}

function setMemorySlot(vm: number, index: number, slot: MemorySlot, flags: number): void {
  const request = new DataView(new ArrayBuffer(32));
  request.setUint32(0, index, true);
  request.setUint32(4, flags, true);
  request.setBigUint64(8, BigInt(slot.guestAddress), true);
  request.setBigUint64(16, BigInt(slot.sizeBytes), true);
  request.setBigUint64(24, slot.hostAddress, true);
  ioctl(vm, Request.SetUserMemoryRegion, request, "KVM_SET_USER_MEMORY_REGION");
}
