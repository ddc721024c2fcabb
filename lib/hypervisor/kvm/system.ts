/**
 * /dev/kvm itself: opening, version, capabilities.
 *
 * @module
 */

import { Fd, HostError, ioctl, openFile, OpenFlag, tryIoctl } from "../../host/mod.ts";
import { HypervisorError } from "../errors.ts";
import { API_VERSION, Capability, Request, REQUIRED_CAPABILITIES } from "./abi.ts";
import { type CpuidEntry, decodeCpuid, emptyCpuid } from "./cpuid.ts";

/** The device node. */
export const KVM_PATH = "/dev/kvm";

/** APIC ids of 8 bits, of which the last addresses all. */
const MAX_APIC_IDS = 255;
const E2BIG = -7;
/** No processor has more leaves by far. */
const MAX_CPUID_ENTRIES = 4096;

/** /dev/kvm, opened and checked. */
export class KvmSystem implements Disposable {
  /** Descriptor of the device. */
  readonly fd: Fd;
  /** vCPUs that one VM may have. */
  readonly maxVcpus: number;
  /** Whether the local APIC has TSC-deadline mode. */
  readonly tscDeadline: boolean;
  /** Size of a vCPU's shared mapping in bytes. */
  readonly runSizeBytes: number;

  private constructor(fd: Fd) {
    this.fd = fd;
    const supported = Math.max(
      1,
      this.extension(Capability.MaxVcpus),
      this.extension(Capability.NrVcpus),
    );
    this.maxVcpus = Math.min(supported, MAX_APIC_IDS);
    this.tscDeadline = this.extension(Capability.TscDeadlineTimer) > 0;
    this.runSizeBytes = ioctl(fd, Request.GetVcpuMmapSize, 0, "KVM_GET_VCPU_MMAP_SIZE");
  }

  /**
   * Opens /dev/kvm.
   *
   * @throws {HypervisorError} when it is absent, not accessible, of another version or lacks a required
   * capability.
   */
  static open(): KvmSystem {
    const fd = openDevice();
    try {
      const version = apiVersion(fd);
      if (version !== API_VERSION) {
        throw new HypervisorError(
          `${KVM_PATH} speaks API version ${version}, expected ${API_VERSION}`,
        );
      }
      const missing = missingCapabilities(fd);
      if (missing.length > 0) {
        throw new HypervisorError(
          `${KVM_PATH} lacks ${missing.map((name) => `KVM_CAP_${name}`).join(", ")}`,
        );
      }
      return new KvmSystem(fd);
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  /** Value of capability `number`, 0 where it is not there. */
  extension(number: number): number {
    return extension(this.fd, number);
  }

  /** What CPUID can tell a guest on this host. */
  supportedCpuid(): CpuidEntry[] {
    for (let room = 128; room <= MAX_CPUID_ENTRIES; room *= 2) {
      const table = emptyCpuid(room);
      const result = tryIoctl(this.fd.raw, Request.GetSupportedCpuid, table);
      if (result === 0) return decodeCpuid(table);
      if (result !== E2BIG) throw new HostError("KVM_GET_SUPPORTED_CPUID", -result);
    }
    throw new HypervisorError(`KVM supports more than ${MAX_CPUID_ENTRIES} CPUID leaves`);
  }

  [Symbol.dispose](): void {
    this.fd.close();
  }
}

/**
 * Opens the device node without looking at it.
 *
 * @throws {HypervisorError} with what to do about it.
 */
export function openDevice(): Fd {
  try {
    return openFile(KVM_PATH, OpenFlag.ReadWrite | OpenFlag.CloseOnExec);
  } catch (error) {
    throw new HypervisorError(`${KVM_PATH} cannot be opened; ${remedyOf(error)}`, { cause: error });
  }
}

/** API version of an opened device. */
export function apiVersion(fd: Fd): number {
  return ioctl(fd, Request.GetApiVersion, 0, "KVM_GET_API_VERSION");
}

/** Names of the required capabilities that an opened device lacks. */
export function missingCapabilities(fd: Fd): string[] {
  return Object.entries(REQUIRED_CAPABILITIES)
    .filter(([, number]) => extension(fd, number) === 0)
    .map(([name]) => name);
}

/** What to do about an error of opening the device. */
export function remedyOf(error: unknown): string {
  const code = error instanceof HostError ? error.code : "";
  switch (code) {
    case "ENOENT":
      return "this host has no KVM: enable virtualization in its firmware and load kvm_intel or " +
        "kvm_amd, or in a virtual machine enable nested virtualization";
    case "EACCES":
    case "EPERM":
      return "permission is lacking: add your user to group kvm (sudo usermod -aG kvm $USER) and log in again";
    case "ENODEV":
    case "ENXIO":
      return "the device node is there but no KVM behind it: load kvm_intel or kvm_amd";
    case "EBUSY":
      return "another hypervisor holds the processor's virtualization";
    default:
      return "see the cause";
  }
}

function extension(fd: Fd, number: number): number {
  const result = tryIoctl(fd.raw, Request.CheckExtension, number);
  return Math.max(0, result);
}
