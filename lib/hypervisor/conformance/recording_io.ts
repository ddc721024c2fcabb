import type { VcpuIo } from "../types.ts";
import { Port } from "./layout.ts";

/** An access that left the guest. */
export interface Access {
  readonly kind: "in" | "out" | "read" | "write";
  readonly address: number;
  readonly size: number;
  /** What was written, or what was answered. */
  readonly value: bigint;
}

/** Answers a test guest and notes what it does. */
export class RecordingIo implements VcpuIo {
  /** All accesses but those to {@link Port}. */
  readonly accesses: Access[] = [];
  /** Values that the guest reported. */
  readonly reports: number[] = [];
  /** Whether the guest said that it is done. */
  done = false;
  /** Called for a write to {@link Port.Note}, with its value. */
  onNote: ((value: number) => void) | undefined;
  /** Answers an IN; all ones where absent. */
  onPortIn: ((port: number, size: number) => bigint) | undefined;
  /** Answers a load; all ones where absent. */
  onMmioRead: ((address: number, size: number) => bigint) | undefined;

  get stopRequested(): boolean {
    return this.done;
  }

  portIn(port: number, size: number, data: DataView): void {
    const value = this.onPortIn?.(port, size) ?? ones(size);
    store(data, size, value);
    this.accesses.push({ kind: "in", address: port, size, value });
  }

  portOut(port: number, size: number, data: DataView): void {
    const value = load(data, size);
    if (port === Port.Report) this.reports.push(Number(value));
    else if (port === Port.Note) this.onNote?.(Number(value));
    else if (port === Port.Done) this.done = true;
    else if (port !== Port.Moment) this.accesses.push({ kind: "out", address: port, size, value });
  }

  mmioRead(address: number, size: number, data: DataView): void {
    const value = this.onMmioRead?.(address, size) ?? ones(size);
    store(data, size, value);
    this.accesses.push({ kind: "read", address, size, value });
  }

  mmioWrite(address: number, size: number, data: DataView): void {
    this.accesses.push({ kind: "write", address, size, value: load(data, size) });
  }
}

function ones(size: number): bigint {
  return (1n << BigInt(size * 8)) - 1n;
}

function load(data: DataView, size: number): bigint {
  let value = 0n;
  for (let index = size - 1; index >= 0; index--) {
    value = value << 8n | BigInt(data.getUint8(index));
  }
  return value;
}

function store(data: DataView, size: number, value: bigint): void {
  for (let index = 0; index < size; index++) {
    data.setUint8(index, Number(value >> BigInt(index * 8) & 0xffn));
  }
}
