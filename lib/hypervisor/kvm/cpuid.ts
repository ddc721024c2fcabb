/**
 * What CPUID tells the guest: what KVM supports on this host, with the identity and the topology of
 * each vCPU put in (Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E).
 *
 * The topology is one package with one core per vCPU and one thread per core; APIC ids count from 0.
 *
 * @module
 */

/** One leaf. */
export interface CpuidEntry {
  readonly leaf: number;
  readonly subleaf: number;
  /** KVM_CPUID_FLAG_…; 1 means that the subleaf counts. */
  readonly flags: number;
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}

/** What the host's table does not tell. */
export interface CpuidOptions {
  /** Number and APIC id of the vCPU. */
  readonly apicId: number;
  /** vCPUs of the VM. */
  readonly vcpuCount: number;
  /** Whether the in-kernel local APIC has TSC-deadline mode. */
  readonly tscDeadline: boolean;
}

const HEADER_SIZE_BYTES = 8;
const ENTRY_SIZE_BYTES = 40;
const FLAG_SIGNIFICANT_INDEX = 1;

const LEAF_TOPOLOGY = 0xb;
const LEAF_TOPOLOGY_V2 = 0x1f;
const LEAF_AMD_TOPOLOGY_V2 = 0x8000_0026;
const LEVEL_THREAD = 1;
const LEVEL_CORE = 2;

const ECX_X2APIC = 1 << 21;
const ECX_TSC_DEADLINE = 1 << 24;
const ECX_HYPERVISOR = 1 << 31;
const EDX_MULTIPLE_LOGICAL = 1 << 28;
const AMD_ECX_CMP_LEGACY = 1 << 1;

/** Decodes `struct kvm_cpuid2`. */
export function decodeCpuid(bytes: Uint8Array<ArrayBuffer>): CpuidEntry[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const room = Math.floor((bytes.length - HEADER_SIZE_BYTES) / ENTRY_SIZE_BYTES);
  const count = Math.min(view.getUint32(0, true), room);
  return Array.from({ length: count }, (_, index) => {
    const word = (number: number) =>
      view.getUint32(HEADER_SIZE_BYTES + index * ENTRY_SIZE_BYTES + number * 4, true);
    const [leaf, subleaf, flags] = [word(0), word(1), word(2)];
    return { leaf, subleaf, flags, eax: word(3), ebx: word(4), ecx: word(5), edx: word(6) };
  });
}

/** Encodes `struct kvm_cpuid2`. */
export function encodeCpuid(entries: readonly CpuidEntry[]): Uint8Array<ArrayBuffer> {
  const bytes = emptyCpuid(entries.length);
  const view = new DataView(bytes.buffer);
  entries.forEach((entry, index) => {
    const { leaf, subleaf, flags, eax, ebx, ecx, edx } = entry;
    [leaf, subleaf, flags, eax, ebx, ecx, edx].forEach((word, number) =>
      view.setUint32(HEADER_SIZE_BYTES + index * ENTRY_SIZE_BYTES + number * 4, word, true)
    );
  });
  return bytes;
}

/** `struct kvm_cpuid2` with room for `count` entries. */
export function emptyCpuid(count: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEADER_SIZE_BYTES + count * ENTRY_SIZE_BYTES);
  new DataView(bytes.buffer).setUint32(0, count, true);
  return bytes;
}

/** The table of one vCPU, made from that of KVM_GET_SUPPORTED_CPUID. */
export function vcpuCpuid(supported: readonly CpuidEntry[], options: CpuidOptions): CpuidEntry[] {
  const maxLeaf = supported.find((entry) => entry.leaf === 0)?.eax ?? 0;
  const amd = isAmd(supported);
  const entries = supported
    .filter(({ leaf }) =>
      leaf !== LEAF_TOPOLOGY && leaf !== LEAF_TOPOLOGY_V2 && leaf !== LEAF_AMD_TOPOLOGY_V2
    )
    .map((entry) => adjust(entry, options, amd));
  for (const leaf of [LEAF_TOPOLOGY, LEAF_TOPOLOGY_V2]) {
    if (maxLeaf >= leaf) entries.push(...topologyLeaf(leaf, options));
  }
  return entries;
}

function adjust(entry: CpuidEntry, options: CpuidOptions, amd: boolean): CpuidEntry {
  const { apicId, vcpuCount, tscDeadline } = options;
  const several = vcpuCount > 1;
  switch (entry.leaf) {
    case 1: {
      const logical = several ? Math.min(vcpuCount, 0xff) : 0;
      const ecx = entry.ecx & ~ECX_TSC_DEADLINE | ECX_X2APIC | ECX_HYPERVISOR |
        (tscDeadline ? ECX_TSC_DEADLINE : 0);
      return {
        ...entry,
        ebx: ((apicId & 0xff) << 24 | logical << 16 | entry.ebx & 0xffff) >>> 0,
        ecx: ecx >>> 0,
        edx: (several ? entry.edx | EDX_MULTIPLE_LOGICAL : entry.edx & ~EDX_MULTIPLE_LOGICAL) >>> 0,
      };
    }
    case 4: {
      if ((entry.eax & 0x1f) === 0) return entry;
      const level = entry.eax >>> 5 & 7;
      const cores = Math.min(idSpace(vcpuCount) - 1, 0x3f);
      const sharing = level >= 3 ? idSpace(vcpuCount) - 1 : 0;
      return { ...entry, eax: (cores << 26 | sharing << 14 | entry.eax & 0x3fff) >>> 0 };
    }
    case 0x8000_0001:
      if (!amd) return entry;
      return {
        ...entry,
        ecx: (several ? entry.ecx | AMD_ECX_CMP_LEGACY : entry.ecx & ~AMD_ECX_CMP_LEGACY) >>> 0,
      };
    case 0x8000_0008: {
      if (!amd) return entry;
      const bits = Math.log2(idSpace(vcpuCount));
      return { ...entry, ecx: (bits << 12 | Math.min(vcpuCount - 1, 0xff)) >>> 0 };
    }
    case 0x8000_001d: {
      if ((entry.eax & 0x1f) === 0) return entry;
      const sharing = (entry.eax >>> 5 & 7) >= 3 ? vcpuCount - 1 : 0;
      return { ...entry, eax: (sharing << 14 | entry.eax & 0x3fff) >>> 0 };
    }
    case 0x8000_001e:
      return { ...entry, eax: apicId, ebx: apicId & 0xff, ecx: 0 };
    default:
      return entry;
  }
}

function topologyLeaf(leaf: number, { apicId, vcpuCount }: CpuidOptions): CpuidEntry[] {
  const level = (subleaf: number, type: number, shift: number, logical: number): CpuidEntry => ({
    leaf,
    subleaf,
    flags: FLAG_SIGNIFICANT_INDEX,
    eax: shift,
    ebx: logical,
    ecx: type << 8 | subleaf,
    edx: apicId,
  });
  const bits = Math.log2(idSpace(vcpuCount));
  return [level(0, LEVEL_THREAD, 0, 1), level(1, LEVEL_CORE, bits, vcpuCount), level(2, 0, 0, 0)];
}

/** APIC ids that are set aside for `count` cores: the next power of two. */
function idSpace(count: number): number {
  return 2 ** Math.ceil(Math.log2(count));
}

function isAmd(entries: readonly CpuidEntry[]): boolean {
  const vendor = entries.find((entry) => entry.leaf === 0);
  // "Auth" of AuthenticAMD and "Hygo" of HygonGenuine.
  return vendor?.ebx === 0x6874_7541 || vendor?.ebx === 0x6f67_7948;
}
