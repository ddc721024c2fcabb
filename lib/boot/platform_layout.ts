/**
 * Where things are on this machine: ports, interrupt lines and guest physical addresses that the
 * firmware tables announce and the platform devices answer at. One page, so that neither can drift
 * from the other.
 *
 * @module
 */

// Serial ports (16550).

/** First port of COM1. */
export const COM1_PORT = 0x3f8;
/** ISA interrupt of COM1. */
export const COM1_IRQ = 4;
/** First port of COM2. */
export const COM2_PORT = 0x2f8;
/** ISA interrupt of COM2. */
export const COM2_IRQ = 3;
/** Ports of a UART. */
export const COM_PORT_COUNT = 8;

// Keyboard controller (i8042).

/** i8042 data port. */
export const I8042_DATA_PORT = 0x60;
/** i8042 command and status port. */
export const I8042_COMMAND_PORT = 0x64;
/** ISA interrupt of the i8042 keyboard. */
export const I8042_KEYBOARD_IRQ = 1;

// CMOS and real-time clock (MC146818).

/** CMOS index port. */
export const CMOS_INDEX_PORT = 0x70;
/** CMOS data port. */
export const CMOS_DATA_PORT = 0x71;
/** ISA interrupt of the real-time clock. */
export const RTC_IRQ = 8;
/** CMOS register of the century, announced by the FADT. */
export const RTC_CENTURY_REGISTER = 0x32;

// PCI.

/** PCI configuration address port (mechanism 1). */
export const PCI_CONFIG_ADDRESS_PORT = 0xcf8;
/** PCI configuration data port (mechanism 1). */
export const PCI_CONFIG_DATA_PORT = 0xcfc;
/** First address of the 32-bit PCI memory window, which is where low RAM ends at most. */
export const PCI_MMIO_START = 0xc000_0000;
/** Size of the 32-bit PCI memory window in bytes. It ends where ECAM begins. */
export const PCI_MMIO_SIZE_BYTES = 0x2000_0000;
/** First address of the 64-bit PCI memory window where RAM ends below it, else the next GiB behind RAM. */
export const PCI_MMIO64_START = 0x8_0000_0000;
/** Size of the 64-bit PCI memory window in bytes: with little RAM it ends where 36 bits of address do. */
export const PCI_MMIO64_SIZE_BYTES = 0x8_0000_0000;
/** First address of the window kept for ECAM (memory-mapped PCI configuration). */
export const PCI_ECAM_START = 0xe000_0000;
/** Size of the ECAM window in bytes: 256 buses. */
export const PCI_ECAM_SIZE_BYTES = 0x1000_0000;
/** First port of the PCI I/O window. */
export const PCI_IO_START = 0x1000;
/** Size of the PCI I/O window in ports. */
export const PCI_IO_SIZE = 0xf000;
/** Global system interrupts of INTA# to INTD#; device d, pin p uses entry `(d + p) % 4`. */
export const PCI_INTX_GSIS = [16, 17, 18, 19] as const;

// ACPI fixed hardware (ACPI 6.5, 4.8).

/** PM1a event block: status (2 bytes), then enable (2 bytes). */
export const ACPI_PM1A_EVENT_PORT = 0x600;
/** Bytes of the PM1a event block. */
export const ACPI_PM1A_EVENT_LENGTH = 4;
/** PM1a control block. */
export const ACPI_PM1A_CONTROL_PORT = 0x604;
/** Bytes of the PM1a control block. */
export const ACPI_PM1A_CONTROL_LENGTH = 2;
/** Power management timer. */
export const ACPI_PM_TIMER_PORT = 0x608;
/** Bytes of the power management timer. */
export const ACPI_PM_TIMER_LENGTH = 4;
/** Frequency of the power management timer in Hz. */
export const ACPI_PM_TIMER_HZ = 3_579_545;
/** General-purpose event block 0: status (2 bytes), then enable (2 bytes). */
export const ACPI_GPE0_PORT = 0x620;
/** Bytes of general-purpose event block 0. */
export const ACPI_GPE0_LENGTH = 4;
/** Global system interrupt of ACPI events, level-triggered. */
export const ACPI_SCI_GSI = 9;
/** SLP_TYP value of S5 (soft off). */
export const ACPI_S5_SLEEP_TYPE = 5;
/** Reset register. */
export const ACPI_RESET_PORT = 0xcf9;
/** Value that resets the machine when written to {@link ACPI_RESET_PORT}. */
export const ACPI_RESET_VALUE = 6;

// Debugging.

/** Bytes that firmware and test guests write here go to the log. */
export const DEBUG_PORT = 0x402;
/** Guest panic notification (QEMU's pvpanic). */
export const PVPANIC_PORT = 0x505;

// Interrupt controllers (Intel SDM vol. 3, 11.4; 82093AA).

/** Address of the I/O APIC. */
export const IOAPIC_ADDRESS = 0xfec0_0000;
/** Pins of the I/O APIC. */
export const IOAPIC_PIN_COUNT = 24;
/** Address of the local APICs. */
export const LOCAL_APIC_ADDRESS = 0xfee0_0000;
/** Where KVM keeps the pages it needs for real mode on older Intel parts (TSS, 3 pages). */
export const KVM_TSS_ADDRESS = 0xfffb_d000;
/** Where KVM keeps its identity-map page for real mode on older Intel parts. */
export const KVM_IDENTITY_MAP_ADDRESS = 0xfffb_c000;

// Low guest memory at boot. All of it is free for the kernel once it has read it, but for the tables
// of the BIOS area, which e820 reserves.

/** Global descriptor table of the boot processor. */
export const BOOT_GDT_ADDRESS = 0x500;
/** Where a PVH kernel's start info lies. */
export const PVH_START_INFO_ADDRESS = 0x6000;
/** The boot parameters ("zero page") of the Linux boot protocol. */
export const BOOT_PARAMS_ADDRESS = 0x7000;
/** Initial stack pointer, growing down. */
export const BOOT_STACK_ADDRESS = 0x8ff0;
/** Page tables of the boot processor: PML4, PDPT, four page directories (identity, 4 GiB). */
export const BOOT_PAGE_TABLES_ADDRESS = 0x9000;
/** Bytes of the boot page tables. */
export const BOOT_PAGE_TABLES_SIZE_BYTES = 6 * 0x1000;
/** Command line of the kernel, NUL-terminated. */
export const BOOT_CMDLINE_ADDRESS = 0x2_0000;
/** Room for the command line, in bytes with the NUL. */
export const BOOT_CMDLINE_MAX_SIZE_BYTES = 0x1_0000;
/** Extended BIOS data area: where conventional memory ends. */
export const EBDA_ADDRESS = 0x9_fc00;
/** Start of the BIOS area that holds the ACPI tables; the RSDP is its first table. */
export const ACPI_TABLES_ADDRESS = 0xe_0000;
/** End of the BIOS area. */
export const ACPI_TABLES_END = 0x10_0000;
/** First address where a kernel may be loaded. */
export const HIGH_MEMORY_START = 0x10_0000;
