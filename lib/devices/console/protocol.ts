/**
 * Numbers of the virtio console (virtio 1.2, 5.3).
 *
 * @module
 */

/** Feature bits. */
export const ConsoleFeature = {
  /** Columns and rows are in the configuration space. */
  Size: 1n << 0n,
  /** More ports than one, with a pair of control queues. */
  Multiport: 1n << 1n,
} as const;

/** Most ports of a device. */
export const MAX_PORTS = 32;
/** cols (16), rows (16), max_nr_ports (32), emerg_wr (32). */
export const CONFIG_BYTES = 12;
/** Where the fields of the configuration space are. */
export const ConfigOffset = { Columns: 0, Rows: 2, MaxPorts: 4 } as const;

/** Events of the control queues. */
export const ControlEvent = {
  DeviceReady: 0,
  PortAdd: 1,
  PortRemove: 2,
  PortReady: 3,
  ConsolePort: 4,
  Resize: 5,
  PortOpen: 6,
  PortName: 7,
} as const;

/** id (32), event (16), value (16). */
export const CONTROL_BYTES = 8;
/** Queue of control messages to the driver, where MULTIPORT was negotiated. */
export const CONTROL_RECEIVE_QUEUE = 2;
/** Queue of control messages from the driver, where MULTIPORT was negotiated. */
export const CONTROL_TRANSMIT_QUEUE = 3;

/** Queue in which port `port` receives. */
export function receiveQueueOf(port: number): number {
  return port === 0 ? 0 : 2 + 2 * port;
}

/** Queue in which port `port` transmits. */
export function transmitQueueOf(port: number): number {
  return receiveQueueOf(port) + 1;
}

/** Queues of a device with `portCount` ports. */
export function queueCountOf(portCount: number): number {
  return portCount === 1 ? 2 : 2 * (portCount + 1);
}

/** The port that queue `index` belongs to, -1 for a control queue. */
export function portOfQueue(index: number): number {
  if (index < CONTROL_RECEIVE_QUEUE) return 0;
  return index <= CONTROL_TRANSMIT_QUEUE ? -1 : (index >> 1) - 1;
}

/** A control message; `more` follows its header. */
export function controlMessage(
  port: number,
  { event, value = 0, more }: {
    readonly event: number;
    readonly value?: number;
    readonly more?: Uint8Array;
  },
): Uint8Array {
  const bytes = new Uint8Array(CONTROL_BYTES + (more?.byteLength ?? 0));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, port, true);
  view.setUint16(4, event, true);
  view.setUint16(6, value, true);
  if (more !== undefined) bytes.set(more, CONTROL_BYTES);
  return bytes;
}
