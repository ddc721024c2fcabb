/**
 * Boot: kernels, initial RAM disks, boot parameters and firmware tables, and where the platform's
 * parts lie.
 *
 * @module
 */

export { type AcpiOptions, buildAcpi } from "./acpi/mod.ts";
export { buildCmdline, DEFAULT_KERNEL_PARAMS } from "./cmdline.ts";
export { type BootEntry, configureBootVcpu } from "./entry.ts";
export { BootError } from "./errors.ts";
export { type BootImage } from "./image.ts";
export { type BootOptions, type LoadedKernel, loadKernel } from "./load.ts";
export { extractVmlinux } from "./vmlinux.ts";
export { buildMemoryMap, type MemoryMapEntry, MemoryType } from "./memory_map.ts";
export {
  ACPI_GPE0_LENGTH,
  ACPI_GPE0_PORT,
  ACPI_PM1A_CONTROL_LENGTH,
  ACPI_PM1A_CONTROL_PORT,
  ACPI_PM1A_EVENT_LENGTH,
  ACPI_PM1A_EVENT_PORT,
  ACPI_PM_TIMER_HZ,
  ACPI_PM_TIMER_LENGTH,
  ACPI_PM_TIMER_PORT,
  ACPI_RESET_PORT,
  ACPI_RESET_VALUE,
  ACPI_S5_SLEEP_TYPE,
  ACPI_SCI_GSI,
  ACPI_TABLES_ADDRESS,
  ACPI_TABLES_END,
  BOOT_CMDLINE_ADDRESS,
  BOOT_CMDLINE_MAX_SIZE_BYTES,
  BOOT_GDT_ADDRESS,
  BOOT_PAGE_TABLES_ADDRESS,
  BOOT_PAGE_TABLES_SIZE_BYTES,
  BOOT_PARAMS_ADDRESS,
  BOOT_STACK_ADDRESS,
  CMOS_DATA_PORT,
  CMOS_INDEX_PORT,
  COM1_IRQ,
  COM1_PORT,
  COM2_IRQ,
  COM2_PORT,
  COM_PORT_COUNT,
  DEBUG_PORT,
  EBDA_ADDRESS,
  HIGH_MEMORY_START,
  I8042_COMMAND_PORT,
  I8042_DATA_PORT,
  I8042_KEYBOARD_IRQ,
  IOAPIC_ADDRESS,
  IOAPIC_PIN_COUNT,
  KVM_IDENTITY_MAP_ADDRESS,
  KVM_TSS_ADDRESS,
  LOCAL_APIC_ADDRESS,
  PCI_CONFIG_ADDRESS_PORT,
  PCI_CONFIG_DATA_PORT,
  PCI_ECAM_SIZE_BYTES,
  PCI_ECAM_START,
  PCI_INTX_GSIS,
  PCI_IO_SIZE,
  PCI_IO_START,
  PCI_MMIO_SIZE_BYTES,
  PCI_MMIO_START,
  PVH_START_INFO_ADDRESS,
  PVPANIC_PORT,
  RTC_CENTURY_REGISTER,
  RTC_IRQ,
} from "./platform_layout.ts";
