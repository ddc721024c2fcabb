/**
 * What `lib/boot` leaves in guest memory is put into QEMU's as it is, behind a BIOS of a few
 * instructions that sets the registers as `configureBootVcpu` does: a stock kernel must come up from
 * there. This tells faults of boot from faults of an engine.
 */

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ACPI_TABLES_ADDRESS, type BootOptions, loadKernel } from "../../lib/boot/mod.ts";
import { Assembler, at } from "../../lib/hypervisor/conformance/asm/mod.ts";
import { GuestMemory } from "../../lib/memory/mod.ts";
import { buildInitramfs, tryFetchGuest, writeVmlinux } from "./mod.ts";

const MIB = 1024 * 1024;
const MEMORY_MIB = 256;
const TIMEOUT_MS = 600_000;
const BIOS_ADDRESS = 0xe_0000;
const BIOS_BYTES = 0x2_0000;
/** The BIOS holds the ACPI tables, where the kernel looks for them, and behind them the code. */
const CODE_ADDRESS = 0xf_f000;
const REAL_MODE_SEGMENT = 0xf000;
const RESET_OFFSET = 0x1_fff0;

const guest = await tryFetchGuest();
const lack = typeof guest === "string" ? guest : hasQemu() ? undefined : "no qemu-system-x86_64";
const skipped = lack === undefined ? "" : ` (skipped: ${lack})`;

/** A BIOS that enters what `loadKernel` has loaded, from the reset vector on. */
function makeBios(memory: GuestMemory, entry: { kind: string; rip: number }): Uint8Array {
  const bios = new Uint8Array(BIOS_BYTES);
  bios.set(memory.read(BIOS_ADDRESS, CODE_ADDRESS - BIOS_ADDRESS));
  const code = new Assembler(CODE_ADDRESS, 16);
  // Descriptors of its own, to get from real to protected mode; then the loader's.
  for (const descriptor of [0n, 0x00cf_9b00_0000_ffffn, 0n, 0x00cf_9300_0000_ffffn]) {
    code.dq(descriptor);
  }
  code.dw(31).dd(CODE_ADDRESS);
  code.label("loader-gdt").dw(0x2f).dd(0x500).dd(0);
  const start = code.here;
  code.op("cli").mov("ax", REAL_MODE_SEGMENT).mov("ds", "ax");
  code.table("lgdt", at(CODE_ADDRESS - BIOS_ADDRESS - 0x1_0000 + 32));
  code.mov("eax", "cr0").or("al", 1).mov("cr0", "eax");
  code.jmpFar(0x08, { label: "protected", addend: 0 }, 4);
  code.bits(32).label("protected").mov("ax", 0x18);
  for (const segment of ["ds", "es", "ss", "fs", "gs"] as const) code.mov(segment, "ax");
  code.table("lgdt", at({ label: "loader-gdt", addend: 0 }));
  if (entry.kind === "pvh32") {
    code.jmpFar(0x10, { label: "loader-segment", addend: 0 }).label("loader-segment");
    code.mov("ebx", 0x6000).mov("eax", entry.rip).jmp("eax");
  } else {
    code.mov("eax", "cr4").or("eax", 0x20).mov("cr4", "eax");
    code.mov("eax", 0x9000).mov("cr3", "eax");
    code.mov("ecx", 0xc000_0080).op("rdmsr").or("eax", 0x100).op("wrmsr");
    code.mov("eax", "cr0").or("eax", 0x8000_0000).mov("cr0", "eax");
    code.jmpFar(0x10, { label: "long", addend: 0 }).bits(64).label("long");
    code.mov("esp", 0x8ff0).mov("esi", 0x7000).mov("eax", entry.rip).jmp("rax");
  }
  bios.set(code.assemble(), CODE_ADDRESS - BIOS_ADDRESS);
  const reset = new Assembler(RESET_OFFSET, 16);
  reset.jmpFar(REAL_MODE_SEGMENT, start - REAL_MODE_SEGMENT * 16);
  bios.set(reset.assemble(), RESET_OFFSET);
  return bios;
}

/** Boots what `options` say in QEMU and gives what the guest wrote to COM1. */
async function bootInQemu(dir: string, options: Omit<BootOptions, "cmdline" | "cpuCount">) {
  using memory = GuestMemory.create({ sizeBytes: MEMORY_MIB * MIB, backing: "mmap" });
  const loaded = await loadKernel(memory, {
    ...options,
    cmdline: "console=ttyS0 earlycon=uart8250,io,0x3f8 panic=-1",
    cpuCount: 2,
  });
  assert.equal(ACPI_TABLES_ADDRESS, BIOS_ADDRESS);
  const { initrd } = loaded;
  assert.ok(initrd);
  const devices: string[] = [];
  const dump = (address: number, end: number) => {
    const file = join(dir, address.toString(16));
    writeFileSync(file, memory.slice(address, end - address));
    devices.push("-device", `loader,file=${file},addr=${address},force-raw=on`);
  };
  dump(0x500, 0xa_0000);
  dump(MIB, loaded.kernel.end);
  dump(initrd.start, initrd.end);
  const bios = join(dir, "bios");
  writeFileSync(bios, makeBios(memory, loaded.entry));
  const output = await new Deno.Command("qemu-system-x86_64", {
    args: [
      ...["-M", "pc,acpi=off", "-accel", "tcg", "-cpu", "max", "-smp", "2"],
      ...["-m", String(MEMORY_MIB), "-bios", bios, "-nographic", "-nodefaults", "-serial", "stdio"],
      ...["-no-reboot", ...devices],
    ],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(TIMEOUT_MS),
  }).output();
  const console = new TextDecoder().decode(output.stdout);
  assert.match(console, /Linux version/, new TextDecoder().decode(output.stderr));
  return console;
}

/** The ways into a kernel: unpacked here, unpacked by itself, as vmlinux, by PVH. */
const WAYS: readonly (readonly [string, { keepPacked?: boolean; pvh?: boolean }])[] = [
  ["a bzImage that was unpacked here", {}],
  ["a bzImage that unpacks itself", { keepPacked: true }],
  ["a vmlinux entered by PVH", { pvh: true }],
];

for (const [what, { keepPacked, pvh }] of WAYS) {
  Deno.test({
    name: `${what} boots to userland in QEMU, with ACPI from our tables${skipped}`,
    ignore: skipped !== "",
    async fn() {
      if (typeof guest === "string") return;
      const dir = mkdtempSync(join(tmpdir(), "vmctl-qemu-"));
      try {
        const initrd = await buildInitramfs({
          busybox: guest.busybox,
          // QEMU's power management is elsewhere, so the guest leaves by a reset.
          script: "echo cpus: $(nproc)\nls /sys/bus/acpi/devices\nreboot -f",
        });
        const kernel = pvh ? join(dir, "vmlinux") : guest.kernel;
        if (pvh) await writeVmlinux(guest.kernel, kernel);
        const console = await bootInQemu(dir, {
          kernel,
          initrd: { name: "initramfs", data: initrd },
          keepPacked,
          protocol: pvh ? "pvh" : "auto",
        });
        assert.match(console, /cpus: 2/, console);
        for (const id of ["PNP0A03:00", "PNP0501:01", "PNP0303:00", "PNP0B00:00", "ACPI0007:01"]) {
          assert.ok(console.includes(id), `expected ${id} in:\n${console}`);
        }
        // QEMU has no power management where the tables say, and that is all that it may complain of.
        const complaints = console.match(/ACPI (?:BIOS )?(?:Error|Warning|Exception).*/g) ?? [];
        const others = complaints.filter((line) => !line.includes("RealTimeClock"));
        assert.deepEqual(others, []);
      } finally {
        rmSync(dir, { recursive: true });
      }
    },
  });
}

function hasQemu(): boolean {
  try {
    return new Deno.Command("qemu-system-x86_64", {
      args: ["--version"],
      stdout: "null",
      stderr: "null",
    }).outputSync().success;
  } catch {
    return false;
  }
}
