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
  CMOS_DATA_PORT,
  CMOS_INDEX_PORT,
  COM1_PORT,
  COM2_PORT,
  COM_PORT_COUNT,
  DEBUG_PORT,
  I8042_COMMAND_PORT,
  I8042_DATA_PORT,
  PCI_CONFIG_ADDRESS_PORT,
  PCI_CONFIG_DATA_PORT,
  PVPANIC_PORT,
} from "../../boot/mod.ts";

/** System control port A: A20 gate and fast reset (IBM PS/2). */
export const SYSTEM_CONTROL_PORT = 0x92;

/** Which device answers at a port. Numbers, as they lie in a table of bytes. */
export enum PortDevice {
  /** All ones. */
  None,
  Com1,
  Com2,
  I8042Data,
  I8042Command,
  SystemControl,
  CmosIndex,
  CmosData,
  PciAddress,
  PciData,
  Reset,
  PmEvent,
  PmControl,
  PmTimer,
  Gpe,
  Debug,
  Panic,
}

/** The {@link PortDevice} of each port. */
export const PORT_DEVICES: Uint8Array = portTable();

function portTable(): Uint8Array {
  const table = new Uint8Array(0x1_0000);
  const place = (device: PortDevice, port: number, count = 1) => {
    table.fill(device, port, port + count);
  };
  place(PortDevice.Com1, COM1_PORT, COM_PORT_COUNT);
  place(PortDevice.Com2, COM2_PORT, COM_PORT_COUNT);
  place(PortDevice.I8042Data, I8042_DATA_PORT);
  place(PortDevice.I8042Command, I8042_COMMAND_PORT);
  place(PortDevice.SystemControl, SYSTEM_CONTROL_PORT);
  place(PortDevice.CmosIndex, CMOS_INDEX_PORT);
  place(PortDevice.CmosData, CMOS_DATA_PORT);
  place(PortDevice.PciAddress, PCI_CONFIG_ADDRESS_PORT, 4);
  place(PortDevice.PciData, PCI_CONFIG_DATA_PORT, 4);
  place(PortDevice.Reset, ACPI_RESET_PORT);
  place(PortDevice.PmEvent, ACPI_PM1A_EVENT_PORT, ACPI_PM1A_EVENT_LENGTH);
  place(PortDevice.PmControl, ACPI_PM1A_CONTROL_PORT, ACPI_PM1A_CONTROL_LENGTH);
  place(PortDevice.PmTimer, ACPI_PM_TIMER_PORT, ACPI_PM_TIMER_LENGTH);
  place(PortDevice.Gpe, ACPI_GPE0_PORT, ACPI_GPE0_LENGTH);
  place(PortDevice.Debug, DEBUG_PORT);
  place(PortDevice.Panic, PVPANIC_PORT);
  return table;
}
