/**
 * The virtio console (virtio 1.2, 5.3): ports that a guest knows as hvc0, hvc1 and so on.
 *
 * With one port, the size of the window is in the configuration space. With several it goes by control
 * messages, columns first as the specification says; Linux before 6.15 takes them for rows.
 *
 * @module
 */

import { type DeviceContext, DeviceType, type VirtioDeviceBackend } from "../../virtio/mod.ts";
import type { ControllableDevice, DeviceReply, DeviceRequest } from "../control/mod.ts";
import { DeviceError } from "../frame/errors.ts";
import { ConsolePort, type PortFiles } from "./port.ts";
import {
  CONFIG_BYTES,
  ConfigOffset,
  ConsoleFeature,
  CONTROL_BYTES,
  CONTROL_RECEIVE_QUEUE,
  CONTROL_TRANSMIT_QUEUE,
  ControlEvent,
  controlMessage,
  MAX_PORTS,
  portOfQueue,
  queueCountOf,
  receiveQueueOf,
} from "./protocol.ts";

/** Control messages that wait for a driver to have room for them; more are lost. */
const MAX_WAITING = 8 * MAX_PORTS;

/** The size of a terminal in characters. */
export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** A console. */
export class ConsoleDevice implements VirtioDeviceBackend, ControllableDevice, Disposable {
  readonly type: number = DeviceType.Console;
  readonly name = "console";
  readonly features: bigint;
  readonly queueCount: number;
  readonly maxQueueSize = 256;
  readonly config: Uint8Array = new Uint8Array(CONFIG_BYTES);
  configChanged?: () => void;
  readonly #ports: readonly ConsolePort[];
  readonly #sizes: (TerminalSize | undefined)[];
  readonly #waiting: Uint8Array[] = [];
  /** Ports of which the driver said that they are ready. */
  readonly #ready = new Set<number>();
  #context: DeviceContext | undefined;

  /**
   * @param ports what the ports are connected with, taken over
   * @throws {DeviceError} where there are none or too many.
   */
  constructor(ports: readonly PortFiles[]) {
    if (ports.length < 1 || ports.length > MAX_PORTS) {
      throw new DeviceError(`console: expected 1 to ${MAX_PORTS} ports, got ${ports.length}`);
    }
    this.features = ConsoleFeature.Size | (ports.length > 1 ? ConsoleFeature.Multiport : 0n);
    this.queueCount = queueCountOf(ports.length);
    this.#ports = ports.map((files, index) => new ConsolePort(index, files));
    this.#sizes = ports.map(() => undefined);
    new DataView(this.config.buffer).setUint32(ConfigOffset.MaxPorts, ports.length, true);
  }

  activate(context: DeviceContext): void {
    this.#context = context;
    for (const port of this.#ports) port.activate(context);
  }

  process(index: number): void {
    const number = portOfQueue(index);
    if (number < 0) {
      if (index === CONTROL_TRANSMIT_QUEUE) this.#takeMessages();
      this.#sendMessages();
      return;
    }
    const port = this.#ports[number];
    if (index === receiveQueueOf(number)) port?.receive();
    else port?.transmit();
  }

  queueStarted(index: number): void {
    // After a change of memory, what was put back is to be taken again.
    this.#context?.schedule(index);
  }

  queueStopping(index: number): void {
    const number = portOfQueue(index);
    if (number >= 0 && index !== receiveQueueOf(number)) this.#ports[number]?.transmitStopping();
  }

  quiesce(): void {
    for (const port of this.#ports) port.quiesce();
  }

  reset(): void {
    this.#context = undefined;
    this.#ready.clear();
    this.#waiting.length = 0;
    for (const port of this.#ports) port.reset();
  }

  control(request: DeviceRequest, reply: DeviceReply): void {
    if (request.name !== "windowSize") {
      throw new DeviceError(`console: ${request.name} is nothing for it`);
    }
    const { port, columns, rows } = request.data;
    this.resize(port, { columns, rows });
    reply.answer(null);
  }

  /** The terminal of a port has another size. @throws {DeviceError} where there is no such port. */
  resize(port: number, size: TerminalSize): void {
    if (this.#ports[port] === undefined) {
      throw new DeviceError(`console: expected a port below ${this.#ports.length}, got ${port}`);
    }
    this.#sizes[port] = size;
    if (port === 0) {
      const view = new DataView(this.config.buffer);
      view.setUint16(ConfigOffset.Columns, size.columns, true);
      view.setUint16(ConfigOffset.Rows, size.rows, true);
      this.configChanged?.();
    }
    if (!this.#ready.has(port)) return;
    this.#tellSize(port);
    this.#sendMessages();
    this.#context?.notify(CONTROL_RECEIVE_QUEUE);
  }

  [Symbol.dispose](): void {
    for (const port of this.#ports) port[Symbol.dispose]();
  }

  /** Handles what the driver says. */
  #takeMessages(): void {
    const queue = this.#context?.queue(CONTROL_TRANSMIT_QUEUE);
    if (queue === undefined) return;
    for (let chain; (chain = queue.pop()) !== undefined;) {
      const { readable } = chain;
      if (readable.lengthBytes >= CONTROL_BYTES) {
        this.#take(readable.readU32(0), readable.readU16(4), readable.readU16(6));
      }
      queue.push(chain.head, 0);
    }
    // The answers are in another queue than the one that is served.
    this.#sendMessages();
    this.#context?.notify(CONTROL_RECEIVE_QUEUE);
  }

  #take(port: number, event: number, value: number): void {
    if (event === ControlEvent.DeviceReady && value === 1) {
      this.#ready.clear();
      this.#ports.forEach((_, index) => this.#queue(index, { event: ControlEvent.PortAdd }));
    } else if (event === ControlEvent.PortReady && this.#ports[port] !== undefined) {
      if (value !== 1) {
        this.#ready.delete(port);
        return;
      }
      this.#ready.add(port);
      this.#queue(port, { event: ControlEvent.ConsolePort, value: 1 });
      this.#queue(port, { event: ControlEvent.PortOpen, value: 1 });
      this.#tellSize(port);
    }
  }

  #tellSize(port: number): void {
    const size = this.#sizes[port];
    if (size === undefined) return;
    const more = new Uint8Array(4);
    new DataView(more.buffer).setUint16(0, size.columns, true);
    new DataView(more.buffer).setUint16(2, size.rows, true);
    this.#queue(port, { event: ControlEvent.Resize, more });
  }

  #queue(
    port: number,
    message: { readonly event: number; readonly value?: number; readonly more?: Uint8Array },
  ): void {
    if (this.#waiting.length < MAX_WAITING) this.#waiting.push(controlMessage(port, message));
  }

  #sendMessages(): void {
    const queue = this.#context?.queue(CONTROL_RECEIVE_QUEUE);
    if (queue === undefined) return;
    while (this.#waiting.length > 0) {
      const chain = queue.pop();
      if (chain === undefined) return;
      const message = this.#waiting[0]!;
      // A buffer that is too small for it gets nothing of it.
      const fits = chain.writable.lengthBytes >= message.byteLength;
      if (fits) this.#waiting.shift();
      queue.push(chain.head, fits ? chain.writable.copyFrom(message) : 0);
    }
  }
}
