/**
 * One vCPU of KVM: its loop of entries and exits, and its registers.
 *
 * @module
 */

import { describeError, hex } from "../../base/mod.ts";
import { Errno, errnoName, gettid, ioctl, ioctlFast, viewMemory } from "../../host/mod.ts";
import { HypervisorError } from "../errors.ts";
import { formatRegisters } from "../registers_text.ts";
import {
  ExitReason,
  type MpState,
  type Regs,
  type Sregs,
  type Vcpu,
  type VcpuExit,
  type VcpuIo,
} from "../types.ts";
import { Exit, MpStateCode, Request, RunOffset, SystemEvent } from "./abi.ts";
import { describeExit } from "./exits.ts";
import {
  readRegs,
  readSregs,
  REGS_SIZE_BYTES,
  SREGS_SIZE_BYTES,
  writeRegs,
  writeSregs,
} from "./registers.ts";
import type { VcpuSlot } from "./shared_state.ts";

/** Where a vCPU's descriptor and `struct kvm_run` are; they belong to the VM. */
export interface VcpuResources {
  readonly id: number;
  readonly fd: number;
  readonly runAddress: bigint;
  readonly runSizeBytes: number;
  readonly slot: VcpuSlot;
}

const PIO_PAGE_OFFSET = 4096;
/** Elements of a string I/O exit fit in one page. */
const PIO_PAGE_SIZE_BYTES = 4096;
const TWO_TO_32 = 2 ** 32;

/** A vCPU; made by {@link KvmVm.createVcpu} in the worker that runs it. */
export class KvmVcpu implements Vcpu {
  readonly id: number;
  readonly #fd: number;
  readonly #slot: VcpuSlot;
  readonly #run: DataView;
  readonly #bytes: Uint8Array;
  readonly #halves: Uint16Array;
  readonly #words: Uint32Array;
  readonly #mmioData: DataView;
  readonly #pioData: DataView;
  readonly #element = new DataView(new ArrayBuffer(8));
  readonly #elementBytes = new Uint8Array(this.#element.buffer);
  readonly #exit: VcpuExit = { reason: ExitReason.Interrupted, detail: "" };
  readonly #regs = new DataView(new ArrayBuffer(REGS_SIZE_BYTES));
  readonly #sregs = new DataView(new ArrayBuffer(SREGS_SIZE_BYTES));
  readonly #msr = new DataView(new ArrayBuffer(24));

  /** Takes vCPU `resources.id` for the calling worker. */
  constructor(resources: VcpuResources) {
    const { id, fd, runAddress, runSizeBytes, slot } = resources;
    if (runSizeBytes < PIO_PAGE_OFFSET + PIO_PAGE_SIZE_BYTES) {
      throw new HypervisorError(`KVM maps ${runSizeBytes} bytes per vCPU, expected at least 8192`);
    }
    this.id = id;
    this.#fd = fd;
    this.#slot = slot;
    const buffer = viewMemory(runAddress, runSizeBytes);
    this.#run = new DataView(buffer);
    this.#bytes = new Uint8Array(buffer);
    this.#halves = new Uint16Array(buffer);
    this.#words = new Uint32Array(buffer);
    this.#mmioData = new DataView(buffer, RunOffset.MmioData, 8);
    this.#pioData = new DataView(buffer, PIO_PAGE_OFFSET, 8);
    slot.enter(gettid());
  }

  prepare(): void {
    // The hardware is.
  }

  run(io: VcpuIo): VcpuExit {
    const words = this.#words;
    let stopping = false;
    for (;;) {
      const result = ioctlFast(this.#fd, Request.Run, 0);
      if (result < 0) {
        if (result === -Errno.EINTR) {
          this.#bytes[RunOffset.ImmediateExit] = 0;
          // The atomic exchange comes after that store: a kick from now on makes the next entry return.
          if (this.#slot.takeKick() || stopping) return this.#leave(ExitReason.Interrupted, "");
          continue;
        }
        if (result === -Errno.EAGAIN) continue;
        return this.#fail(ExitReason.InternalError, `KVM_RUN failed with ${errnoName(-result)}`);
      }
      switch (words[RunOffset.ExitReason >> 2]) {
        case Exit.Io:
          this.#handlePio(io);
          break;
        case Exit.Mmio:
          this.#handleMmio(io);
          break;
        default:
          if (!this.#handleOther()) continue;
          return this.#exit;
      }
      if (io.stopRequested) {
        // KVM finishes the instruction that the access belongs to and then returns EINTR.
        stopping = true;
        this.#bytes[RunOffset.ImmediateExit] = 1;
      }
    }
  }

  getRegs(): Regs {
    ioctl(this.#fd, Request.GetRegs, this.#regs, "KVM_GET_REGS");
    return readRegs(this.#regs);
  }

  setRegs(regs: Partial<Regs>): void {
    ioctl(this.#fd, Request.GetRegs, this.#regs, "KVM_GET_REGS");
    writeRegs(this.#regs, regs);
    ioctl(this.#fd, Request.SetRegs, this.#regs, "KVM_SET_REGS");
  }

  getSregs(): Sregs {
    ioctl(this.#fd, Request.GetSregs, this.#sregs, "KVM_GET_SREGS");
    return readSregs(this.#sregs);
  }

  setSregs(sregs: Partial<Sregs>): void {
    ioctl(this.#fd, Request.GetSregs, this.#sregs, "KVM_GET_SREGS");
    writeSregs(this.#sregs, sregs);
    ioctl(this.#fd, Request.SetSregs, this.#sregs, "KVM_SET_SREGS");
  }

  getMsr(index: number): bigint {
    this.#putMsr(index, 0n);
    if (ioctl(this.#fd, Request.GetMsrs, this.#msr, "KVM_GET_MSRS") !== 1) {
      throw new HypervisorError(`vCPU ${this.id} has no readable MSR ${hex(index)}`);
    }
    return this.#msr.getBigUint64(16, true);
  }

  setMsr(index: number, value: bigint): void {
    this.#putMsr(index, value);
    if (ioctl(this.#fd, Request.SetMsrs, this.#msr, "KVM_SET_MSRS") !== 1) {
      throw new HypervisorError(`vCPU ${this.id} refuses ${hex(value)} in MSR ${hex(index)}`);
    }
  }

  getMpState(): MpState {
    const state = new DataView(new ArrayBuffer(4));
    ioctl(this.#fd, Request.GetMpState, state, "KVM_GET_MP_STATE");
    switch (state.getUint32(0, true)) {
      case MpStateCode.Uninitialized:
        return "uninitialized";
      case MpStateCode.InitReceived:
        return "uninitialized";
      case MpStateCode.Halted:
        return "halted";
      case MpStateCode.SipiReceived:
        return "sipi-received";
      default:
        return "runnable";
    }
  }

  /** Gives the vCPU up; its descriptor belongs to the VM. */
  [Symbol.dispose](): void {
    this.#slot.leave();
  }

  #putMsr(index: number, value: bigint): void {
    this.#msr.setUint32(0, 1, true);
    this.#msr.setUint32(8, index, true);
    this.#msr.setBigUint64(16, value, true);
  }

  #handlePio(io: VcpuIo): void {
    const size = this.#bytes[RunOffset.IoSize] ?? 1;
    const port = this.#halves[RunOffset.IoPort >> 1] ?? 0;
    const count = this.#words[RunOffset.IoCount >> 2] ?? 0;
    const offset = this.#words[RunOffset.IoDataOffset >> 2] ?? 0;
    const isOut = this.#bytes[RunOffset.IoDirection] === 1;
    if (count === 1 && offset === PIO_PAGE_OFFSET) {
      if (isOut) io.portOut(port, size, this.#pioData);
      else io.portIn(port, size, this.#pioData);
      return;
    }
    // String I/O: one access per element, through a view of its own that starts at the element.
    const data = this.#bytes;
    const element = this.#elementBytes;
    for (let index = 0; index < count; index++) {
      const start = offset + index * size;
      if (isOut) {
        for (let byte = 0; byte < size; byte++) element[byte] = data[start + byte] ?? 0;
        io.portOut(port, size, this.#element);
      } else {
        io.portIn(port, size, this.#element);
        for (let byte = 0; byte < size; byte++) data[start + byte] = element[byte] ?? 0;
      }
    }
  }

  #handleMmio(io: VcpuIo): void {
    const words = this.#words;
    const address = (words[RunOffset.MmioAddress >> 2] ?? 0) +
      (words[(RunOffset.MmioAddress >> 2) + 1] ?? 0) * TWO_TO_32;
    const length = words[RunOffset.MmioLength >> 2] ?? 0;
    const isWrite = this.#bytes[RunOffset.MmioIsWrite] !== 0;
    if (isPowerOfTwoUpTo8(length)) {
      if (isWrite) io.mmioWrite(address, length, this.#mmioData);
      else io.mmioRead(address, length, this.#mmioData);
      return;
    }
    // What is left of an access that crosses a page may have an odd length; it goes byte by byte.
    const data = this.#bytes;
    for (let index = 0; index < length && index < 8; index++) {
      if (isWrite) {
        this.#elementBytes[0] = data[RunOffset.MmioData + index] ?? 0;
        io.mmioWrite(address + index, 1, this.#element);
      } else {
        io.mmioRead(address + index, 1, this.#element);
        data[RunOffset.MmioData + index] = this.#elementBytes[0] ?? 0;
      }
    }
  }

  /** Handles an exit that is no access; true when {@link run} has to return. */
  #handleOther(): boolean {
    switch (this.#words[RunOffset.ExitReason >> 2]) {
      case Exit.IrqWindowOpen:
      case Exit.Intr:
      case Exit.SetTpr:
      case Exit.Nmi:
      case Exit.IoapicEoi:
      case Exit.BusLock:
        return false;
      case Exit.Hlt:
        this.#leave(ExitReason.Halt, "");
        return true;
      case Exit.Shutdown:
        this.#fail(ExitReason.Shutdown, "triple fault");
        return true;
      case Exit.FailEntry:
        this.#fail(ExitReason.FailEntry, describeExit(this.#run));
        return true;
      case Exit.InternalError:
        this.#fail(ExitReason.InternalError, describeExit(this.#run));
        return true;
      case Exit.SystemEvent:
        this.#handleSystemEvent();
        return true;
      default:
        this.#fail(ExitReason.Unhandled, describeExit(this.#run));
        return true;
    }
  }

  #handleSystemEvent(): void {
    const detail = describeExit(this.#run);
    switch (this.#words[RunOffset.SystemEventType >> 2]) {
      case SystemEvent.Shutdown:
        this.#leave(ExitReason.SystemShutdown, detail);
        break;
      case SystemEvent.Reset:
        this.#leave(ExitReason.SystemReset, detail);
        break;
      case SystemEvent.Crash:
        this.#leave(ExitReason.SystemCrash, detail);
        break;
      default:
        this.#fail(ExitReason.Unhandled, detail);
    }
  }

  #leave(reason: ExitReason, detail: string): VcpuExit {
    this.#exit.reason = reason;
    this.#exit.detail = detail;
    return this.#exit;
  }

  #fail(reason: ExitReason, what: string): VcpuExit {
    let registers: string;
    try {
      registers = formatRegisters(this.getRegs(), this.getSregs());
    } catch (error) {
      registers = `registers are not readable: ${describeError(error)}`;
    }
    return this.#leave(reason, `vCPU ${this.id}: ${what}\n${registers}`);
  }
}

function isPowerOfTwoUpTo8(length: number): boolean {
  return length === 1 || length === 2 || length === 4 || length === 8;
}
