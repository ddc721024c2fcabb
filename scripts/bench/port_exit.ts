/**
 * What a port access of the guest costs until the guest goes on: our loop around KVM_RUN against a C
 * program that does the same with the same guest on the same machine.
 *
 * @module
 */

import { monotonicNs } from "../../lib/host/mod.ts";
import { GuestMemory } from "../../lib/memory/mod.ts";
import { openHypervisor, probeKvm, type VcpuIo } from "../../lib/hypervisor/mod.ts";
import type { Bench, BenchContext, BenchResult } from "./bench.ts";

const EXITS = 10_000;
const ROUNDS = 5;
const DEFAULT_RUNS = 8;
const LIMIT = 1.25;
const CODE = 0x1000;
const PORT = 0x510;
const DONE_PORT = 0x511;
/** `mov dx, PORT; mov ecx, EXITS; loop: out dx, al; dec ecx; jnz loop; inc dx; out dx, al; hlt` */
const GUEST = [
  ...[0xba, PORT & 0xff, PORT >> 8],
  ...[0x66, 0xb9, EXITS & 0xff, EXITS >> 8 & 0xff, EXITS >> 16, 0],
  ...[0xee, 0x66, 0x49, 0x75, 0xfb, 0x42, 0xee, 0xf4],
];

/** The same loop in C: one access handler behind a pointer, as ours is behind an interface. */
const C_PROGRAM = `
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

static unsigned long accesses;
static int done;

static void port_out(unsigned port, unsigned size, const unsigned char *data) {
  (void)size;
  (void)data;
  if (port == ${DONE_PORT}) done = 1;
  else accesses++;
}

static void (*volatile handler)(unsigned, unsigned, const unsigned char *) = port_out;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

#define CHECK(what) do { if ((what) < 0) { perror(#what); return 1; } } while (0)

int main(void) {
  static const unsigned char code[] = {${GUEST.join(", ")}};
  int kvm, vm, vcpu, size;
  CHECK(kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC));
  CHECK(vm = ioctl(kvm, KVM_CREATE_VM, 0));
  CHECK(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000));
  CHECK(ioctl(vm, KVM_CREATE_IRQCHIP, 0));
  unsigned char *memory = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  memcpy(memory + ${CODE}, code, sizeof code);
  struct kvm_userspace_memory_region region = {
    .memory_size = 1 << 20, .userspace_addr = (unsigned long)memory };
  CHECK(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
  CHECK(vcpu = ioctl(vm, KVM_CREATE_VCPU, 0));
  CHECK(size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
  struct kvm_run *run = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
  struct kvm_sregs sregs;
  CHECK(ioctl(vcpu, KVM_GET_SREGS, &sregs));
  sregs.cs.base = sregs.cs.selector = 0;
  CHECK(ioctl(vcpu, KVM_SET_SREGS, &sregs));
  for (int round = 0; round <= ${ROUNDS}; round++) {
    struct kvm_regs regs = { .rip = ${CODE}, .rflags = 2 };
    CHECK(ioctl(vcpu, KVM_SET_REGS, &regs));
    done = 0;
    double start = now();
    while (!done) {
      if (ioctl(vcpu, KVM_RUN, 0) < 0) {
        if (errno == EINTR || errno == EAGAIN) continue;
        perror("KVM_RUN");
        return 1;
      }
      if (run->exit_reason != KVM_EXIT_IO) {
        fprintf(stderr, "exit reason %u\\n", run->exit_reason);
        return 1;
      }
      unsigned char *data = (unsigned char *)run + run->io.data_offset;
      for (unsigned i = 0; i < run->io.count; i++, data += run->io.size)
        handler(run->io.port, run->io.size, data);
    }
    if (round > 0) printf("%.1f\\n", (now() - start) / ${EXITS});
  }
  return accesses == 0;
}
`;

/** Counts accesses; ends the run at the last one. */
class CountingIo implements VcpuIo {
  accesses = 0;
  stopRequested = false;

  portIn(): void {}

  portOut(port: number): void {
    if (port === DONE_PORT) this.stopRequested = true;
    else this.accesses++;
  }

  mmioRead(): void {}

  mmioWrite(): void {}
}

function skipped(why: string): BenchResult {
  return { measures: [], notes: [`skipped: ${why}`] };
}

/** Measures both, each some times in turn, and compares the best of each. */
async function run(context: BenchContext): Promise<BenchResult> {
  const facts = probeKvm();
  if (!facts.usable) return skipped(facts.problem ?? "no usable /dev/kvm");
  const program = await compile(context.folder);
  if (program === undefined) return skipped("no C compiler (gcc) to compare with");
  context.progress("port: exits of both programs in turn");
  // In turns, so that a disturbance of the machine meets both.
  const theirs: number[] = [];
  const ours: number[] = [];
  for (let turn = 0; turn < (context.runs ?? DEFAULT_RUNS); turn++) {
    theirs.push(...await runProgram(program));
    ours.push(...measure());
  }
  return {
    measures: [{
      what: "port access of a guest under KVM",
      unit: "us",
      vmctl: Math.min(...ours) / 1000,
      reference: { name: "C program", value: Math.min(...theirs) / 1000 },
      limit: LIMIT,
    }],
    notes: facts.execution === "emulated" ? ["KVM here only emulates the guest's kernel mode"] : [],
  };
}

/** Cost of a port exit. */
export const portExitBench: Bench = {
  name: "port",
  summary: "a port access that leaves the guest, against a C program",
  run,
};

function measure(): number[] {
  using hypervisor = openHypervisor("kvm");
  using memory = GuestMemory.create({ sizeBytes: 1 << 20, backing: "mmap" });
  using vm = hypervisor.createVm(memory, { vcpuCount: 1 });
  using vcpu = vm.createVcpu(0);
  memory.writeFrom(CODE, Uint8Array.from(GUEST));
  const { cs } = vcpu.getSregs();
  vcpu.setSregs({ cs: { ...cs, selector: 0, base: 0n } });
  const io = new CountingIo();
  const samples: number[] = [];
  for (let round = 0; round <= ROUNDS; round++) {
    vcpu.setRegs({ rip: BigInt(CODE), rflags: 2n });
    io.stopRequested = false;
    const start = monotonicNs();
    while (!io.stopRequested) vcpu.run(io);
    // The first round is for the compiler.
    if (round > 0) samples.push((monotonicNs() - start) / EXITS);
  }
  if (io.accesses !== EXITS * (ROUNDS + 1)) throw new Error(`${io.accesses} accesses`);
  return samples;
}

async function compile(folder: string): Promise<string | undefined> {
  const source = `${folder}/port_exit.c`;
  const program = `${folder}/port_exit`;
  await Deno.writeTextFile(source, C_PROGRAM);
  try {
    const args = ["-O2", "-o", program, source];
    const { success, stderr } = await new Deno.Command("gcc", { args }).output();
    if (!success) throw new Error(`gcc: ${new TextDecoder().decode(stderr)}`);
    return program;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

async function runProgram(program: string): Promise<number[]> {
  const { success, stdout, stderr } = await new Deno.Command(program).output();
  if (!success) throw new Error(`port_exit: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout).trim().split("\n").map(Number);
}
