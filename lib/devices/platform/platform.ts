import {
  ACPI_GPE0_PORT,
  ACPI_PM1A_CONTROL_PORT,
  ACPI_PM1A_EVENT_PORT,
  ACPI_PM_TIMER_PORT,
  ACPI_SCI_GSI,
  COM1_IRQ,
  COM1_PORT,
  COM2_IRQ,
  COM2_PORT,
  I8042_KEYBOARD_IRQ,
  PCI_CONFIG_ADDRESS_PORT,
  PCI_CONFIG_DATA_PORT,
  PCI_ECAM_SIZE_BYTES,
  PCI_ECAM_START,
  RTC_IRQ,
} from "../../boot/mod.ts";
import { realtimeNs } from "../../host/mod.ts";
import { GuestClock, type VcpuIo } from "../../hypervisor/mod.ts";
import { SharedCarver } from "../../memory/mod.ts";
import { ACPI_PM_WORDS, AcpiPm } from "./acpi_pm.ts";
import { I8042, I8042_WORDS } from "./i8042.ts";
import { PCI_STATE_BYTES, PciBus } from "./pci.ts";
import { PORT_DEVICES, PortDevice } from "./ports.ts";
import { Rtc, RTC_WORDS } from "./rtc.ts";
import type { SharedEvent } from "./shared_event.ts";
import { Uart, UART_WORDS } from "./uart.ts";
import { PlatformRequest, type PlatformWiring, type SerialSink } from "./wiring.ts";

// Words of the machine's own state.
const REQUEST = 0;
const RESET_CONTROL = 1;
const CRASH_LOADED = 2;
const CONTROL_WORDS = 4;
/** Float64 words round the end, so that every piece can be aligned. */
const STATE_BYTES = 4 * (CONTROL_WORDS + 2 * UART_WORDS + I8042_WORDS + RTC_WORDS + ACPI_PM_WORDS) +
  4 * GuestClock.words + PCI_STATE_BYTES + 64;

const RESET_CPU = 0x04;
const PANICKED = 0x01;
const PANIC_CRASH_LOADED = 0x02;
const FAST_RESET = 0x01;
const A20 = 0x02;
/** What the debug port reads, so that software can find it. */
const DEBUG_PRESENT = 0xe9;

/** From where another worker of this process attaches to a {@link Platform}. */
export interface PlatformHandle {
  /** The shared state. */
  readonly buffer: SharedArrayBuffer;
}

/** Settings of a new {@link Platform}. */
export interface PlatformOptions extends PlatformWiring {
  /** RAM below 4 GiB in bytes, for firmware that asks the CMOS memory. */
  readonly lowMemoryBytes?: number;
  /** RAM above 4 GiB in bytes. */
  readonly highMemoryBytes?: number;
}

/**
 * The platform devices of the machine over one SharedArrayBuffer. Main makes it; every vCPU worker
 * attaches to it and gives its object to {@link VcpuIo}'s caller: an access is handled in the worker
 * that executes it, under the lock of the one device it concerns. Nothing is allocated per access.
 */
export class Platform implements VcpuIo {
  /** The PCI bus. */
  readonly pci: PciBus;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #uarts: readonly [Uart, Uart];
  readonly #i8042: I8042;
  readonly #rtc: Rtc;
  readonly #pm: AcpiPm;
  readonly #clock: GuestClock;
  readonly #debug: SerialSink | undefined;

  private constructor(buffer: SharedArrayBuffer, wiring: PlatformWiring, fresh: boolean) {
    const carver = new SharedCarver(buffer);
    this.#words = carver.int32(CONTROL_WORDS);
    const place = { buffer, wordIndex: carver.float64(GuestClock.words / 2).byteOffset / 4 };
    const ownClock = fresh ? GuestClock.create({ place }) : new GuestClock(place);
    this.#clock = wiring.clock ?? ownClock;
    const { irq } = wiring;
    const onReset = () => this.request(PlatformRequest.Reset);
    const rtcWords = carver.float64(RTC_WORDS / 2);
    this.#rtc = new Rtc(new Int32Array(buffer, rtcWords.byteOffset, RTC_WORDS), {
      gsi: RTC_IRQ,
      irq,
      nowNs: wiring.realtimeNs ?? realtimeNs,
    });
    this.#uarts = [
      new Uart(carver.int32(UART_WORDS), { gsi: COM1_IRQ, irq, sink: wiring.serial?.[0] }),
      new Uart(carver.int32(UART_WORDS), { gsi: COM2_IRQ, irq, sink: wiring.serial?.[1] }),
    ];
    this.#i8042 = new I8042(carver.int32(I8042_WORDS), { gsi: I8042_KEYBOARD_IRQ, irq, onReset });
    this.#pm = new AcpiPm(carver.int32(ACPI_PM_WORDS), {
      gsi: ACPI_SCI_GSI,
      irq,
      clock: this.#clock,
      onPowerOff: () => this.request(PlatformRequest.PowerOff),
    });
    this.pci = new PciBus(carver.view(PCI_STATE_BYTES), irq);
    this.#debug = wiring.debug;
  }

  /** Makes the devices in power-on state. */
  static create(options: PlatformOptions): Platform {
    const platform = new Platform(new SharedArrayBuffer(STATE_BYTES), options, true);
    for (const uart of platform.#uarts) uart.reset();
    platform.#i8042.reset();
    platform.#rtc.reset({
      lowBytes: options.lowMemoryBytes ?? 0,
      highBytes: options.highMemoryBytes ?? 0,
    });
    platform.#pm.reset();
    platform.pci.reset();
    return platform;
  }

  /** Attaches to the devices from another worker. */
  static attach(handle: PlatformHandle, wiring: PlatformWiring): Platform {
    return new Platform(handle.buffer, wiring, false);
  }

  /** For {@link attach}. */
  handle(): PlatformHandle {
    return { buffer: this.#words.buffer };
  }

  // What the machine does.

  /** Serial port `number`: 1 is COM1, 2 is COM2. */
  serial(number: 1 | 2): Uart {
    return this.#uarts[number === 1 ? 0 : 1];
  }

  /** Asks the guest to shut down. */
  pressPowerButton(): void {
    this.#pm.pressPowerButton();
  }

  /** Asks the guest to sleep. */
  pressSleepButton(): void {
    this.#pm.pressSleepButton();
  }

  /** Signals general-purpose event `bit` (0 to 15). */
  raiseGpe(bit: number): void {
    this.#pm.raiseGpe(bit);
  }

  /** What the guest asked for; the first request stays. */
  get requested(): PlatformRequest {
    return Atomics.load(this.#words, REQUEST);
  }

  /** The word of {@link requested}, notified when it changes from {@link PlatformRequest.None}. */
  get requestEvent(): SharedEvent {
    return { words: this.#words, index: REQUEST };
  }

  /** Whether the guest said that a crash kernel handles its panic. */
  get crashKernelLoaded(): boolean {
    return Atomics.load(this.#words, CRASH_LOADED) !== 0;
  }

  /** Leaves a request for the machine, unless there is one, and stops the vCPUs' running. */
  request(request: PlatformRequest): void {
    if (Atomics.compareExchange(this.#words, REQUEST, PlatformRequest.None, request) === 0) {
      Atomics.notify(this.#words, REQUEST);
    }
  }

  /** Stops guest time of the platform's own clock. */
  pauseClock(): void {
    this.#clock.pause();
  }

  /** Lets guest time go on. */
  resumeClock(): void {
    this.#clock.resume();
  }

  /** Raises the timer interrupts that are due. Main calls it, see {@link nextTimerMs}. */
  runTimers(): void {
    this.#rtc.runTimer();
  }

  /** Milliseconds until {@link runTimers} has something to do, or Infinity. */
  nextTimerMs(): number {
    return this.#rtc.nextDeadlineSeconds() * 1000;
  }

  /** Changes when {@link nextTimerMs} may have become less. */
  get timerEvent(): SharedEvent {
    return this.#rtc.timerEvent;
  }

  // What the vCPUs do.

  get stopRequested(): boolean {
    return Atomics.load(this.#words, REQUEST) !== 0;
  }

  portIn(port: number, size: number, data: DataView): void {
    const device = PORT_DEVICES[port & 0xffff] as PortDevice;
    if (size !== 1) {
      if (device === PortDevice.PciData && (port & 3) + size <= 4) {
        const value = this.pci.readData(port & 3, size);
        if (size === 2) data.setUint16(0, value, true);
        else data.setUint32(0, value, true);
        return;
      }
      if (size === 4) {
        if (device === PortDevice.PmTimer && port === ACPI_PM_TIMER_PORT) {
          data.setUint32(0, this.#pm.readTimer(), true);
          return;
        }
        if (device === PortDevice.PciAddress && port === PCI_CONFIG_ADDRESS_PORT) {
          data.setUint32(0, this.pci.readAddress(), true);
          return;
        }
      }
      // A wide access to byte registers is one access to each.
      for (let n = 0; n < size; n++) data.setUint8(n, this.#read(port + n & 0xffff));
      return;
    }
    data.setUint8(0, this.#read(port & 0xffff));
  }

  portOut(port: number, size: number, data: DataView): void {
    const device = PORT_DEVICES[port & 0xffff] as PortDevice;
    if (size !== 1) {
      if (device === PortDevice.PciData && (port & 3) + size <= 4) {
        const value = size === 2 ? data.getUint16(0, true) : data.getUint32(0, true);
        this.pci.writeData(port & 3, size, value);
        return;
      }
      if (device === PortDevice.PciAddress && port === PCI_CONFIG_ADDRESS_PORT) {
        if (size === 4) this.pci.writeAddress(data.getUint32(0, true));
        return;
      }
      for (let n = 0; n < size; n++) this.#write(port + n & 0xffff, data.getUint8(n));
      return;
    }
    this.#write(port & 0xffff, data.getUint8(0));
  }

  mmioRead(address: number, size: number, data: DataView): void {
    const ecam = address - PCI_ECAM_START;
    if (ecam >= 0 && ecam < PCI_ECAM_SIZE_BYTES) {
      this.pci.ecamRead(ecam, size, data);
      return;
    }
    if (this.pci.memoryRead(address, size, data)) return;
    for (let n = 0; n < size; n++) data.setUint8(n, 0xff);
  }

  mmioWrite(address: number, size: number, data: DataView): void {
    const ecam = address - PCI_ECAM_START;
    if (ecam >= 0 && ecam < PCI_ECAM_SIZE_BYTES) this.pci.ecamWrite(ecam, size, data);
    else this.pci.memoryWrite(address, size, data);
  }

  #read(port: number): number {
    switch (PORT_DEVICES[port] as PortDevice) {
      case PortDevice.Com1:
        return this.#uarts[0].read(port - COM1_PORT);
      case PortDevice.Com2:
        return this.#uarts[1].read(port - COM2_PORT);
      case PortDevice.I8042Data:
        return this.#i8042.readData();
      case PortDevice.I8042Command:
        return this.#i8042.readStatus();
      case PortDevice.SystemControl:
        return this.#i8042.a20 ? A20 : 0;
      case PortDevice.CmosData:
        return this.#rtc.readData();
      case PortDevice.PciAddress:
        return this.pci.readAddress() >>> (port - PCI_CONFIG_ADDRESS_PORT) * 8;
      case PortDevice.PciData:
        return this.pci.readData(port - PCI_CONFIG_DATA_PORT, 1);
      case PortDevice.Reset:
        return this.#words[RESET_CONTROL] as number;
      case PortDevice.PmEvent:
        return this.#pm.readEvent(port - ACPI_PM1A_EVENT_PORT);
      case PortDevice.PmControl:
        return this.#pm.readControl(port - ACPI_PM1A_CONTROL_PORT);
      case PortDevice.PmTimer:
        return this.#pm.readTimer() >>> (port - ACPI_PM_TIMER_PORT) * 8;
      case PortDevice.Gpe:
        return this.#pm.readGpe(port - ACPI_GPE0_PORT);
      case PortDevice.Debug:
        return DEBUG_PRESENT;
      case PortDevice.Panic:
        return PANICKED | PANIC_CRASH_LOADED;
      default:
        return 0xff;
    }
  }

  #write(port: number, value: number): void {
    switch (PORT_DEVICES[port] as PortDevice) {
      case PortDevice.Com1:
        this.#uarts[0].write(port - COM1_PORT, value);
        break;
      case PortDevice.Com2:
        this.#uarts[1].write(port - COM2_PORT, value);
        break;
      case PortDevice.I8042Data:
        this.#i8042.writeData(value);
        break;
      case PortDevice.I8042Command:
        this.#i8042.writeCommand(value);
        break;
      case PortDevice.SystemControl:
        this.#i8042.a20 = (value & A20) !== 0;
        if ((value & FAST_RESET) !== 0) this.request(PlatformRequest.Reset);
        break;
      case PortDevice.CmosIndex:
        this.#rtc.writeIndex(value);
        break;
      case PortDevice.CmosData:
        this.#rtc.writeData(value);
        break;
      case PortDevice.PciData:
        this.pci.writeData(port - PCI_CONFIG_DATA_PORT, 1, value);
        break;
      case PortDevice.Reset:
        Atomics.store(this.#words, RESET_CONTROL, value & 0x0a);
        if ((value & RESET_CPU) !== 0) this.request(PlatformRequest.Reset);
        break;
      case PortDevice.PmEvent:
        this.#pm.writeEvent(port - ACPI_PM1A_EVENT_PORT, value);
        break;
      case PortDevice.PmControl:
        this.#pm.writeControl(port - ACPI_PM1A_CONTROL_PORT, value);
        break;
      case PortDevice.Gpe:
        this.#pm.writeGpe(port - ACPI_GPE0_PORT, value);
        break;
      case PortDevice.Debug:
        this.#debug?.write(value);
        this.#debug?.flush?.();
        break;
      case PortDevice.Panic:
        if ((value & PANIC_CRASH_LOADED) !== 0) Atomics.store(this.#words, CRASH_LOADED, 1);
        if ((value & PANICKED) !== 0) this.request(PlatformRequest.GuestPanic);
        break;
      default:
    }
  }
}
