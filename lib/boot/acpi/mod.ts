/**
 * ACPI: the firmware tables that tell a guest of its processors, interrupts, PCI bus and power
 * management.
 *
 * @module
 */

import { alignUp, GIB } from "../../base/mod.ts";
import type { GuestMemory } from "../../memory/mod.ts";
import { BootError } from "../errors.ts";
import {
  ACPI_TABLES_ADDRESS,
  ACPI_TABLES_END,
  PCI_MMIO64_SIZE_BYTES,
  PCI_MMIO64_START,
} from "../platform_layout.ts";
import { buildDsdt } from "./dsdt.ts";
import { facs, fadt, madt, mcfg, rsdp, table, xsdt } from "./tables.ts";

/** What the tables tell of. */
export interface AcpiOptions {
  /** Number of processors, with APIC ids from 0. */
  readonly cpuCount: number;
  /** Whether memory-mapped PCI configuration is there. */
  readonly ecam?: boolean | undefined;
}

/** Bytes between the starts of tables; the FACS needs it. */
const ALIGNMENT = 64;
/** Names of processor devices have three hexadecimal digits. */
const MAX_CPUS = 4096;

/**
 * Writes the tables to {@link ACPI_TABLES_ADDRESS}, the RSDP first.
 * @throws {BootError} when there are so many processors that the tables do not fit.
 */
export function buildAcpi(memory: GuestMemory, { cpuCount, ecam }: AcpiOptions): void {
  if (!Number.isInteger(cpuCount) || cpuCount < 1 || cpuCount > MAX_CPUS) {
    throw new BootError(`ACPI tables: expected 1 to ${MAX_CPUS} processors, got ${cpuCount}`);
  }
  let next = ACPI_TABLES_ADDRESS + ALIGNMENT; // behind the RSDP
  const place = (bytes: Uint8Array) => {
    const address = next;
    if (address + bytes.length > ACPI_TABLES_END) {
      throw new BootError(
        `ACPI tables: expected at most ${ACPI_TABLES_END - ACPI_TABLES_ADDRESS} bytes, ` +
          `${cpuCount} processors need more`,
      );
    }
    memory.writeFrom(address, bytes);
    next = alignUp(address + bytes.length, ALIGNMENT);
    return address;
  };
  const ends = memory.regions.map(({ guestAddress, sizeBytes }) => guestAddress + sizeBytes);
  const pciMmio64 = {
    start: alignUp(Math.max(PCI_MMIO64_START, ...ends), GIB),
    sizeBytes: PCI_MMIO64_SIZE_BYTES,
  };
  const facsAddress = place(facs());
  const dsdtAddress = place(
    table("DSDT", { revision: 2, body: buildDsdt({ cpuCount, pciMmio64 }) }),
  );
  const tables = [place(fadt({ facsAddress, dsdtAddress })), place(madt(cpuCount))];
  if (ecam) tables.push(place(mcfg()));
  memory.writeFrom(ACPI_TABLES_ADDRESS, rsdp(place(xsdt(tables))));
}
