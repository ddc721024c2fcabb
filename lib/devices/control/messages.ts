/**
 * What a VMM and the process of one of its devices tell each other beside the device's own protocol: one
 * JSON text a packet.
 *
 *     {"id":1,"request":{"resize":{"sizeBytes":1073741824}}}     to the device
 *     {"id":1,"answer":null}                                     from it
 *     {"id":1,"error":"why not"}                                 from it
 *     {"event":{"balloonSize":{"actualBytes":0}}}                from it
 *
 * Each side takes the other one for hostile: a guest may have taken the device over.
 *
 * @module
 */

import {
  boolean,
  exactObject,
  excerpt,
  isObject,
  ShapeError,
  string,
  unsigned,
  variant,
} from "../../base/mod.ts";

/** Largest packet in bytes. */
export const MAX_CONTROL_BYTES = 16 * 1024;
const MAX_ERROR_LENGTH = 2048;

/** Counters that a guest's balloon driver reports (virtio 1.2, 5.5.6.4), in bytes or events. */
export const BALLOON_STATISTICS = [
  "swapIn",
  "swapOut",
  "majorFaults",
  "minorFaults",
  "freeMemory",
  "totalMemory",
  "availableMemory",
  "diskCaches",
  "hugetlbAllocations",
  "hugetlbFailures",
] as const;

/** What a balloon device knows; undefined is what its driver does not report. */
export interface BalloonReport {
  /** How large the driver says that it is. */
  readonly actualBytes: number;
  /** How large it shall be. */
  readonly targetBytes: number;
  /** What was given back to the host since the device was made, by inflating and by page reporting. */
  readonly returnedBytes: number;
  readonly statistics: Readonly<Partial<Record<typeof BALLOON_STATISTICS[number], number>>>;
}

/** By name, what is asked of a device and what it answers. */
export interface DeviceRequests {
  /** block: the disk has another size from now on, a smaller one only with `shrink`. */
  readonly resize: {
    readonly request: { readonly sizeBytes: number; readonly shrink: boolean };
    readonly answer: null;
  };
  /** balloon: how large it shall be. `wait`: answered when the driver has made it so. */
  readonly balloonAdjust: {
    readonly request: { readonly targetBytes: number; readonly wait: boolean };
    readonly answer: null;
  };
  /**
   * balloon: what it knows; `fresh`: after the driver was asked for new statistics, which may take until
   * the guest runs.
   */
  readonly balloonStats: {
    readonly request: { readonly fresh: boolean };
    readonly answer: BalloonReport;
  };
  /** console: the size of a port's terminal. */
  readonly windowSize: {
    readonly request: { readonly port: number; readonly columns: number; readonly rows: number };
    readonly answer: null;
  };
}

/** Name of a request. */
export type DeviceRequestName = keyof DeviceRequests;

/** What comes with a request. */
export type RequestOf<Name extends DeviceRequestName> = DeviceRequests[Name]["request"];

/** What is answered to it. */
export type AnswerOf<Name extends DeviceRequestName> = DeviceRequests[Name]["answer"];

/** A request. */
export type DeviceRequest = {
  readonly [Name in DeviceRequestName]: { readonly name: Name; readonly data: RequestOf<Name> };
}[DeviceRequestName];

/** What a device tells by itself. */
export type DeviceEvent = {
  /** balloon: the driver has reached the size that was wanted, or left it. */
  readonly name: "balloonSize";
  readonly data: { readonly actualBytes: number };
};

/** A packet to a device. */
export interface RequestPacket {
  readonly id: number;
  readonly request: DeviceRequest;
}

/** A packet from a device. The answer is still to be read with {@link parseAnswer}. */
export type DevicePacket =
  | { readonly kind: "answer"; readonly id: number; readonly answer: unknown }
  | { readonly kind: "error"; readonly id: number; readonly message: string }
  | { readonly kind: "event"; readonly event: DeviceEvent };

type Reader<T> = (value: unknown, at: string) => T;

const READERS: {
  readonly [Name in DeviceRequestName]: {
    readonly request: Reader<RequestOf<Name>>;
    readonly answer: Reader<AnswerOf<Name>>;
  };
} = {
  resize: {
    request: (value, at) => {
      const from = exactObject(value, ["sizeBytes", "shrink"], at);
      return {
        sizeBytes: unsigned(from["sizeBytes"], `${at}.sizeBytes`),
        shrink: boolean(from["shrink"], `${at}.shrink`),
      };
    },
    answer: toNull,
  },
  balloonAdjust: {
    request: (value, at) => {
      const from = exactObject(value, ["targetBytes", "wait"], at);
      return {
        targetBytes: unsigned(from["targetBytes"], `${at}.targetBytes`),
        wait: boolean(from["wait"], `${at}.wait`),
      };
    },
    answer: toNull,
  },
  balloonStats: {
    request: (value, at) => ({
      fresh: boolean(exactObject(value, ["fresh"], at)["fresh"], `${at}.fresh`),
    }),
    answer: toBalloonReport,
  },
  windowSize: {
    request: (value, at) => {
      const from = exactObject(value, ["port", "columns", "rows"], at);
      return {
        port: unsigned(from["port"], `${at}.port`, 0xffff),
        columns: unsigned(from["columns"], `${at}.columns`, 0xffff),
        rows: unsigned(from["rows"], `${at}.rows`, 0xffff),
      };
    },
    answer: toNull,
  },
};

const decoder = new TextDecoder("utf-8", { fatal: true });
const encoder = new TextEncoder();

/** The packet of a request. */
export function encodeRequest<Name extends DeviceRequestName>(
  id: number,
  name: Name,
  data: RequestOf<Name>,
): Uint8Array {
  return encode({ id, request: { [name]: data } });
}

/** The packet of an answer. */
export function encodeAnswer(id: number, answer: AnswerOf<DeviceRequestName>): Uint8Array {
  return encode({ id, answer });
}

/** The packet of a refusal. */
export function encodeError(id: number, message: string): Uint8Array {
  return encode({ id, error: message.replaceAll("\0", "").slice(0, MAX_ERROR_LENGTH) });
}

/** The packet of an event. */
export function encodeEvent(event: DeviceEvent): Uint8Array {
  return encode({ event: { [event.name]: event.data } });
}

/** Reads a packet to a device. @throws {ShapeError} where it is none. */
export function parseRequestPacket(packet: Uint8Array): RequestPacket {
  const from = exactObject(parseJson(packet), ["id", "request"], "packet");
  const id = unsigned(from["id"], "id");
  const { name, data } = variant(from["request"], "request");
  if (!isRequestName(name)) throw new ShapeError(`request: unknown name ${excerpt(name)}`);
  const read: Reader<unknown> = READERS[name].request;
  // The table gives each name the reader of its data.
  return { id, request: { name, data: read(data ?? null, name) } as DeviceRequest };
}

/** Reads a packet from a device. @throws {ShapeError} where it is none. */
export function parseDevicePacket(packet: Uint8Array): DevicePacket {
  const value = parseJson(packet);
  if (isObject(value) && Object.hasOwn(value, "event")) {
    const from = exactObject(value, ["event"], "packet");
    return { kind: "event", event: toEvent(from["event"]) };
  }
  if (isObject(value) && Object.hasOwn(value, "error")) {
    const from = exactObject(value, ["id", "error"], "packet");
    const message = string(from["error"], "error", MAX_ERROR_LENGTH);
    return { kind: "error", id: unsigned(from["id"], "id"), message };
  }
  const from = exactObject(value, ["id", "answer"], "packet");
  return { kind: "answer", id: unsigned(from["id"], "id"), answer: from["answer"] };
}

/** Reads what was answered to a request. @throws {ShapeError} where it is not that. */
export function parseAnswer<Name extends DeviceRequestName>(
  name: Name,
  answer: unknown,
): AnswerOf<Name> {
  return READERS[name].answer(answer, `answer to ${name}`);
}

function encode(value: unknown): Uint8Array {
  return encoder.encode(JSON.stringify(value));
}

function parseJson(packet: Uint8Array): unknown {
  let text: string;
  try {
    text = decoder.decode(packet);
  } catch {
    throw new ShapeError("packet: not UTF-8");
  }
  try {
    return JSON.parse(text);
  } catch {
    throw new ShapeError(`packet: not JSON: ${excerpt(text)}`);
  }
}

function isRequestName(name: string): name is DeviceRequestName {
  return Object.hasOwn(READERS, name);
}

function toNull(value: unknown, at: string): null {
  if (value === null) return null;
  throw new ShapeError(`${at}: expected null, got ${excerpt(value)}`);
}

function toEvent(value: unknown): DeviceEvent {
  const from = variant(value, "event");
  if (from.name !== "balloonSize") {
    throw new ShapeError(`event: unknown name ${excerpt(from.name)}`);
  }
  const at = exactObject(from.data, ["actualBytes"], "event.balloonSize");
  const actualBytes = unsigned(at["actualBytes"], "event.balloonSize.actualBytes");
  return { name: "balloonSize", data: { actualBytes } };
}

function toBalloonReport(value: unknown, at: string): BalloonReport {
  const keys = ["actualBytes", "targetBytes", "returnedBytes", "statistics"];
  const from = exactObject(value, keys, at);
  const { statistics } = from;
  if (!isObject(statistics)) {
    throw new ShapeError(`${at}.statistics: expected an object, got ${excerpt(statistics)}`);
  }
  const known: Partial<Record<typeof BALLOON_STATISTICS[number], number>> = {};
  for (const [key, count] of Object.entries(statistics)) {
    const name = BALLOON_STATISTICS.find((statistic) => statistic === key);
    if (name === undefined) throw new ShapeError(`${at}.statistics: unknown ${excerpt(key)}`);
    known[name] = unsigned(count, `${at}.statistics.${name}`);
  }
  return {
    actualBytes: unsigned(from["actualBytes"], `${at}.actualBytes`),
    targetBytes: unsigned(from["targetBytes"], `${at}.targetBytes`),
    returnedBytes: unsigned(from["returnedBytes"], `${at}.returnedBytes`),
    statistics: known,
  };
}
