/**
 * ACPI tables (ACPI 6.5, chapter 5), each as its bytes.
 *
 * @module
 */

import {
  ACPI_GPE0_LENGTH,
  ACPI_GPE0_PORT,
  ACPI_PM1A_CONTROL_LENGTH,
  ACPI_PM1A_CONTROL_PORT,
  ACPI_PM1A_EVENT_LENGTH,
  ACPI_PM1A_EVENT_PORT,
  ACPI_PM_TIMER_LENGTH,
  ACPI_PM_TIMER_PORT,
  ACPI_RESET_PORT,
  ACPI_RESET_VALUE,
  ACPI_SCI_GSI,
  IOAPIC_ADDRESS,
  LOCAL_APIC_ADDRESS,
  PCI_ECAM_START,
  RTC_CENTURY_REGISTER,
} from "../platform_layout.ts";

/** Bytes of the header that every table but RSDP and FACS begins with. */
export const TABLE_HEADER_BYTES = 36;
/** APIC ids from here on do not fit the entries of the first local APICs. */
const FIRST_X2APIC_ID = 255;

const OEM_ID = "VMCTL ";
const OEM_TABLE_ID = "VMCTLPC ";
const CREATOR_ID = "VMCT";

/** A table with its header and checksum. */
export function table(
  signature: string,
  { revision, body }: { readonly revision: number; readonly body: Uint8Array },
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(TABLE_HEADER_BYTES + body.length);
  const view = new DataView(bytes.buffer);
  putText(bytes, 0, signature);
  view.setUint32(4, bytes.length, true);
  view.setUint8(8, revision);
  putText(bytes, 10, OEM_ID);
  putText(bytes, 16, OEM_TABLE_ID);
  view.setUint32(24, 1, true); // OEM revision
  putText(bytes, 28, CREATOR_ID);
  view.setUint32(32, 1, true); // creator revision
  bytes.set(body, TABLE_HEADER_BYTES);
  view.setUint8(9, checksum(bytes));
  return bytes;
}

/** Root pointer, revision 2, to the XSDT at `xsdtAddress`. */
export function rsdp(xsdtAddress: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(36);
  const view = new DataView(bytes.buffer);
  putText(bytes, 0, "RSD PTR ");
  putText(bytes, 9, OEM_ID);
  view.setUint8(15, 2);
  view.setUint32(20, bytes.length, true);
  view.setBigUint64(24, BigInt(xsdtAddress), true);
  view.setUint8(8, checksum(bytes.subarray(0, 20)));
  view.setUint8(32, checksum(bytes));
  return bytes;
}

/** The list of the other tables. */
export function xsdt(addresses: readonly number[]): Uint8Array<ArrayBuffer> {
  const body = new DataView(new ArrayBuffer(addresses.length * 8));
  for (const [index, address] of addresses.entries()) {
    body.setBigUint64(index * 8, BigInt(address), true);
  }
  return table("XSDT", { revision: 1, body: new Uint8Array(body.buffer) });
}

/** Firmware control structure: nothing of it is used, but an OS expects it. */
export function facs(): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(64);
  putText(bytes, 0, "FACS");
  new DataView(bytes.buffer).setUint32(4, bytes.length, true);
  bytes[32] = 2; // version
  return bytes;
}

/** Fixed flags of the FADT (ACPI 6.5, table 5.10). */
const FADT_WBINVD = 1 << 0;
const FADT_PROC_C1 = 1 << 2;
/** No sleep button; the power button is a fixed feature, which is the bit not set. */
const FADT_SLEEP_BUTTON_NOT_FIXED = 1 << 5;
const FADT_RTC_WAKE_NOT_FIXED = 1 << 6;
const FADT_PM_TIMER_32_BITS = 1 << 8;
const FADT_RESET_REGISTER = 1 << 10;
/** Boot architecture flags of the FADT (ACPI 6.5, table 5.11). */
const BOOT_ARCH_LEGACY_DEVICES = 1 << 0;
const BOOT_ARCH_8042 = 1 << 1;
const BOOT_ARCH_NO_VGA = 1 << 2;

/** Fixed description table, revision 6: the power management hardware. */
export function fadt(
  { facsAddress, dsdtAddress }: { readonly facsAddress: number; readonly dsdtAddress: number },
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(276 - TABLE_HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  // Offsets are those of the specification, which count the header.
  const put8 = (offset: number, value: number) => view.setUint8(offset - TABLE_HEADER_BYTES, value);
  const put16 = (offset: number, value: number) =>
    view.setUint16(offset - TABLE_HEADER_BYTES, value, true);
  const put32 = (offset: number, value: number) =>
    view.setUint32(offset - TABLE_HEADER_BYTES, value, true);
  /** Generic address structure of a port (ACPI 6.5, 5.2.3.2). */
  const putPort = (offset: number, port: number, byteCount: number) => {
    put8(offset, 1); // system I/O
    put8(offset + 1, byteCount * 8);
    put8(offset + 3, byteCount === 4 ? 3 : byteCount); // access size: byte, word, dword
    put32(offset + 4, port);
  };
  put32(36, facsAddress);
  put32(40, dsdtAddress);
  put16(46, ACPI_SCI_GSI);
  put32(56, ACPI_PM1A_EVENT_PORT);
  put32(64, ACPI_PM1A_CONTROL_PORT);
  put32(76, ACPI_PM_TIMER_PORT);
  put32(80, ACPI_GPE0_PORT);
  put8(88, ACPI_PM1A_EVENT_LENGTH);
  put8(89, ACPI_PM1A_CONTROL_LENGTH);
  put8(91, ACPI_PM_TIMER_LENGTH);
  put8(92, ACPI_GPE0_LENGTH);
  put16(96, 0xffff); // no C2
  put16(98, 0xffff); // no C3
  put8(108, RTC_CENTURY_REGISTER);
  put16(109, BOOT_ARCH_LEGACY_DEVICES | BOOT_ARCH_8042 | BOOT_ARCH_NO_VGA);
  put32(
    112,
    FADT_WBINVD | FADT_PROC_C1 | FADT_SLEEP_BUTTON_NOT_FIXED | FADT_RTC_WAKE_NOT_FIXED |
      FADT_PM_TIMER_32_BITS | FADT_RESET_REGISTER,
  );
  putPort(116, ACPI_RESET_PORT, 1);
  put8(128, ACPI_RESET_VALUE);
  put8(131, 5); // minor version
  put32(140, dsdtAddress);
  putPort(148, ACPI_PM1A_EVENT_PORT, ACPI_PM1A_EVENT_LENGTH);
  putPort(172, ACPI_PM1A_CONTROL_PORT, ACPI_PM1A_CONTROL_LENGTH);
  putPort(208, ACPI_PM_TIMER_PORT, ACPI_PM_TIMER_LENGTH);
  putPort(220, ACPI_GPE0_PORT, ACPI_GPE0_LENGTH);
  // Status and enable registers are byte-wide halves: let an OS choose its access size.
  put8(148 + 3, 2);
  put8(220 + 3, 1);
  return table("FACP", { revision: 6, body: bytes });
}

const MADT_PCAT_COMPATIBLE = 1;
const MADT_ENABLED = 1;
/** Interrupt flags of the MADT: active high and level-triggered. */
const ACTIVE_HIGH_LEVEL = 0xd;
const ALL_PROCESSORS = 0xff;

/** Interrupt controllers: a local APIC per processor, one I/O APIC, and how ISA interrupts differ. */
export function madt(cpuCount: number): Uint8Array<ArrayBuffer> {
  const bytes: number[] = [];
  const put16 = (value: number) => bytes.push(value & 0xff, value >>> 8 & 0xff);
  const put32 = (value: number) => {
    put16(value & 0xffff);
    put16(value >>> 16);
  };
  put32(LOCAL_APIC_ADDRESS);
  put32(MADT_PCAT_COMPATIBLE);
  for (let id = 0; id < cpuCount; id++) {
    if (id < FIRST_X2APIC_ID) {
      bytes.push(0, 8, id, id); // processor local APIC
      put32(MADT_ENABLED);
    } else {
      bytes.push(9, 16, 0, 0); // processor local x2APIC
      put32(id);
      put32(MADT_ENABLED);
      put32(id);
    }
  }
  bytes.push(1, 12, 0, 0); // I/O APIC 0
  put32(IOAPIC_ADDRESS);
  put32(0); // first global system interrupt
  const override = (irq: number, gsi: number, flags: number) => {
    bytes.push(2, 10, 0, irq);
    put32(gsi);
    put16(flags);
  };
  // None for the PIT: unlike on most PCs its output goes to pin 0, where KVM's is wired.
  override(ACPI_SCI_GSI, ACPI_SCI_GSI, ACTIVE_HIGH_LEVEL);
  bytes.push(4, 6, ALL_PROCESSORS, 0, 0, 1); // NMI at LINT1
  if (cpuCount > FIRST_X2APIC_ID) {
    bytes.push(10, 12, 0, 0); // the same for x2APICs
    put32(0xffff_ffff);
    bytes.push(1, 0, 0, 0);
  }
  return table("APIC", { revision: 5, body: Uint8Array.from(bytes) });
}

/** Memory-mapped configuration space of PCI segment 0 (PCI Firmware 3.3, 4.1.2). */
export function mcfg(): Uint8Array<ArrayBuffer> {
  const body = new DataView(new ArrayBuffer(24));
  body.setBigUint64(8, BigInt(PCI_ECAM_START), true);
  body.setUint8(18, 0); // first bus
  body.setUint8(19, 255); // last bus
  return table("MCFG", { revision: 1, body: new Uint8Array(body.buffer) });
}

function putText(bytes: Uint8Array, offset: number, text: string): void {
  new TextEncoder().encodeInto(text, bytes.subarray(offset));
}

/** What makes the sum of all bytes 0, for a field that is still 0. */
function checksum(bytes: Uint8Array): number {
  return -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
}
