/**
 * The platform's devices as a guest sees them: the contents of the DSDT.
 *
 * @module
 */

import { concatBytes } from "../../base/mod.ts";
import {
  ACPI_S5_SLEEP_TYPE,
  CMOS_INDEX_PORT,
  COM1_IRQ,
  COM1_PORT,
  COM2_IRQ,
  COM2_PORT,
  COM_PORT_COUNT,
  I8042_COMMAND_PORT,
  I8042_DATA_PORT,
  I8042_KEYBOARD_IRQ,
  PCI_CONFIG_ADDRESS_PORT,
  PCI_INTX_GSIS,
  PCI_IO_SIZE,
  PCI_IO_START,
  PCI_MMIO_SIZE_BYTES,
  PCI_MMIO_START,
  PVPANIC_PORT,
  RTC_IRQ,
} from "../platform_layout.ts";
import {
  type Aml,
  busWindow,
  device,
  eisaId,
  integer,
  ioPorts,
  ioWindow,
  isaIrq,
  memoryWindow,
  memoryWindow64,
  method,
  name,
  packageOf,
  resourceTemplate,
  returnValue,
  scope,
  string,
} from "./aml.ts";

/** What differs from machine to machine. */
export interface DsdtOptions {
  /** Number of processors. */
  readonly cpuCount: number;
  /** 64-bit memory window of the PCI bus, where there is one. */
  readonly pciMmio64?: { readonly start: number; readonly sizeBytes: number } | undefined;
}

const PCI_SLOTS = 32;

/** The AML of the DSDT, without its header. */
export function buildDsdt(options: DsdtOptions): Uint8Array<ArrayBuffer> {
  const sleepType = integer(ACPI_S5_SLEEP_TYPE);
  const processors = Array.from({ length: options.cpuCount }, (_, id) => processor(id));
  return concatBytes([
    name("\\_S5", packageOf([sleepType, sleepType, integer(0), integer(0)])),
    scope("\\_SB", [...processors, pciRoot(options), ...isaDevices()]),
  ]);
}

/** A processor, tied to its entry in the MADT by `_UID`. */
function processor(id: number): Aml {
  return device(`C${id.toString(16).toUpperCase().padStart(3, "0")}`, [
    name("_HID", string("ACPI0007")),
    name("_UID", integer(id)),
  ]);
}

function pciRoot({ pciMmio64 }: DsdtOptions): Aml {
  const windows = [
    busWindow(0, 256),
    ioPorts(PCI_CONFIG_ADDRESS_PORT, 8),
    ioWindow(PCI_IO_START, PCI_IO_SIZE),
    memoryWindow(PCI_MMIO_START, PCI_MMIO_SIZE_BYTES),
  ];
  if (pciMmio64) windows.push(memoryWindow64(pciMmio64.start, pciMmio64.sizeBytes));
  return device("PCI0", [
    name("_HID", eisaId("PNP0A03")),
    name("_UID", integer(0)),
    name("_BBN", integer(0)),
    name("_SEG", integer(0)),
    name("_CRS", resourceTemplate(windows)),
    // A method, as guests make objects of all that a name has when they load the table, whether they ask or not.
    method("_PRT", 0, [returnValue(packageOf(interruptRoutes()))]),
  ]);
}

/**
 * Every slot's pin, hard-wired to I/O APIC pins in rotation (ACPI 6.5, 6.2.13). Functions here have INTA# alone.
 */
function interruptRoutes(): Aml[] {
  const routes: Aml[] = [];
  const zero = integer(0);
  const gsis = PCI_INTX_GSIS.map(integer);
  for (let slot = 0; slot < PCI_SLOTS; slot++) {
    const address = integer(slot * 0x1_0000 + 0xffff); // any function
    routes.push(packageOf([address, zero, zero, gsis[slot % gsis.length]!]));
  }
  return routes;
}

function isaDevices(): Aml[] {
  return [
    serialPort(1, { port: COM1_PORT, irq: COM1_IRQ }),
    serialPort(2, { port: COM2_PORT, irq: COM2_IRQ }),
    device("KBD", [
      name("_HID", eisaId("PNP0303")),
      name(
        "_CRS",
        resourceTemplate([
          ioPorts(I8042_DATA_PORT, 1),
          ioPorts(I8042_COMMAND_PORT, 1),
          isaIrq(I8042_KEYBOARD_IRQ),
        ]),
      ),
    ]),
    device("RTC", [
      name("_HID", eisaId("PNP0B00")),
      name("_CRS", resourceTemplate([ioPorts(CMOS_INDEX_PORT, 2), isaIrq(RTC_IRQ)])),
    ]),
    device("PEVT", [
      name("_HID", string("QEMU0001")), // what drivers of pvpanic know it by
      name("_CRS", resourceTemplate([ioPorts(PVPANIC_PORT, 1)])),
    ]),
  ];
}

function serialPort(number: number, at: { readonly port: number; readonly irq: number }): Aml {
  return device(`COM${number}`, [
    name("_HID", eisaId("PNP0501")),
    name("_UID", integer(number)),
    name("_CRS", resourceTemplate([ioPorts(at.port, COM_PORT_COUNT), isaIrq(at.irq)])),
  ]);
}
