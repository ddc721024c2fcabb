/**
 * What a back end does with each message of the front end.
 *
 * @module
 */

import { type FdLike, isHostError, UnixSocket } from "../../host/mod.ts";
import { VhostUserError } from "../errors.ts";
import { Channel } from "./channel.ts";
import { InflightArea } from "./inflight_area.ts";
import { type Message, Payload } from "./message.ts";
import {
  CONFIG_HEADER_BYTES,
  MAX_CONFIG_BYTES,
  MAX_MEMORY_SLOTS,
  Request,
  VringFd,
} from "./protocol.ts";
import type { ServedDevice, VringFdKind } from "./served_device.ts";

/** An answer that a message asks for by itself. */
export interface Answer {
  readonly payload: Uint8Array;
  readonly fds?: readonly FdLike[];
  /** What is to be done once it was sent. */
  readonly sent?: () => void;
}

/**
 * Does what `message` asks for. The caller disposes it.
 *
 * @returns the answer, where the message has one
 * @throws {VhostUserError} "violation" where the message is not one of the protocol, "refused" where it
 * is, but cannot be followed.
 */
export function serveRequest(served: ServedDevice, message: Message): Answer | undefined {
  if (message.fdCount > 0 && !WITH_FDS.has(message.request)) message.expectFds(0);
  switch (message.request) {
    case Request.GetFeatures:
      message.expectBytes(0);
      return u64(served.offeredFeatures);
    case Request.SetFeatures:
      served.setFeatures(message.u64());
      return;
    case Request.GetProtocolFeatures:
      message.expectBytes(0);
      return u64(served.offeredProtocolFeatures);
    case Request.SetProtocolFeatures:
      setProtocolFeatures(served, message.u64());
      return;
    case Request.GetQueueNum:
      message.expectBytes(0);
      return u64(served.device.queueCount);
    case Request.GetMaxMemSlots:
      message.expectBytes(0);
      return u64(MAX_MEMORY_SLOTS);
    case Request.SetOwner:
      message.expectBytes(0);
      return;
    case Request.ResetOwner:
      message.expectBytes(0);
      served.disableAll();
      return;
    case Request.ResetDevice:
      message.expectBytes(0);
      served.reset();
      return;
    case Request.SetStatus:
      served.setStatus(Number(message.u64() & 0xffn));
      return;
    case Request.GetStatus:
      message.expectBytes(0);
      return u64(served.status);
    case Request.SetMemTable:
    case Request.AddMemReg:
    case Request.RemMemReg:
      serveMemory(served, message);
      return;
    case Request.GetConfig:
      return getConfig(served, message);
    case Request.SetConfig:
      setConfig(served, message);
      return;
    case Request.SetBackendReqFd:
      message.expectBytes(0);
      served.setRequestChannel(
        new Channel(new UnixSocket(message.takeFd()), `front end of ${served.device.name}`),
      );
      return;
    case Request.GetInflightFd:
    case Request.SetInflightFd:
      return serveInflight(served, message);
    default:
      return serveVring(served, message);
  }
}

const WITH_FDS = new Set<number>([
  Request.SetMemTable,
  Request.AddMemReg,
  Request.RemMemReg,
  Request.SetVringKick,
  Request.SetVringCall,
  Request.SetVringErr,
  Request.SetBackendReqFd,
  Request.SetInflightFd,
]);

function serveVring(served: ServedDevice, message: Message): Answer | undefined {
  switch (message.request) {
    case Request.SetVringNum: {
      const { index, num } = message.vringState();
      served.setSize(index, num);
      return;
    }
    case Request.SetVringBase: {
      const { index, num } = message.vringState();
      served.setBase(index, num);
      return;
    }
    case Request.GetVringBase: {
      const { index } = message.vringState();
      const { base, told } = served.stop(index);
      return { payload: Payload.vringState({ index, num: base }), sent: told };
    }
    case Request.SetVringAddr:
      served.setAddresses(message.vringAddresses());
      return;
    case Request.SetVringEnable: {
      const { index, num } = message.vringState();
      if (num > 1) {
        throw new VhostUserError("violation", `${message.name}: expected 0 or 1, got ${num}`);
      }
      served.setEnabled(index, num === 1);
      return;
    }
    case Request.SetVringKick:
      return setVringFd(served, message, "kick");
    case Request.SetVringCall:
      return setVringFd(served, message, "call");
    case Request.SetVringErr:
      return setVringFd(served, message, "error");
    default:
      throw new VhostUserError("violation", `${message.name} is not supported`);
  }
}

function setVringFd(served: ServedDevice, message: Message, kind: VringFdKind): undefined {
  const value = Number(message.u64() & 0xffff_ffffn);
  const none = (value & VringFd.None) !== 0;
  message.expectFds(none ? 0 : 1);
  try {
    served.setFd(value & VringFd.IndexMask, kind, none ? undefined : message.takeFd());
  } catch (cause) {
    // Such as a regular file, which cannot be waited for.
    if (!isHostError(cause)) throw cause;
    throw new VhostUserError("refused", `${message.name}: ${cause.message}`, { cause });
  }
}

function setProtocolFeatures(served: ServedDevice, features: bigint): void {
  const surplus = features & ~served.offeredProtocolFeatures;
  if (surplus !== 0n) {
    throw new VhostUserError(
      "violation",
      `protocol features 0x${surplus.toString(16)} were not offered`,
    );
  }
  served.protocolFeatures = features;
}

function serveMemory(served: ServedDevice, message: Message): void {
  switch (message.request) {
    case Request.SetMemTable: {
      const regions = message.memoryTable();
      message.expectFds(regions.length);
      const fds = message.takeFds();
      try {
        served.memory.replace(regions, fds);
      } finally {
        for (const fd of fds) fd.close();
      }
      return;
    }
    case Request.AddMemReg: {
      const region = message.region();
      using fd = message.takeFd();
      served.memory.add(region, fd);
      return;
    }
    default:
      // Some front ends send a descriptor along, which is closed with the message.
      message.expectFds(0, 1);
      served.memory.remove(message.region());
  }
}

interface ConfigRange {
  readonly offset: number;
  readonly length: number;
}

/** What a configuration message is about; how long its payload is, is checked. */
function configRange(message: Message): ConfigRange {
  const { payload } = message;
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const short = payload.byteLength < CONFIG_HEADER_BYTES;
  const offset = short ? 0 : view.getUint32(0, true);
  const length = short ? 0 : view.getUint32(4, true);
  if (short || offset + length > MAX_CONFIG_BYTES) {
    throw new VhostUserError(
      "violation",
      `${message.name}: expected a range of ${MAX_CONFIG_BYTES} bytes, got ${length} at ${offset}`,
    );
  }
  message.expectBytes(CONFIG_HEADER_BYTES + length);
  return { offset, length };
}

function getConfig({ device }: ServedDevice, message: Message): Answer {
  const { offset, length } = configRange(message);
  const bytes = new Uint8Array(length);
  // Behind what the device has are zeros: front ends ask for what the newest devices have.
  bytes.set(device.config.subarray(offset, offset + length));
  return { payload: Payload.config(offset, bytes) };
}

function setConfig({ device }: ServedDevice, message: Message): void {
  const { offset, length } = configRange(message);
  if (device.writeConfig === undefined || offset + length > device.config.byteLength) {
    throw new VhostUserError("refused", `${device.name}: the configuration cannot be written`);
  }
  device.writeConfig(offset, message.payload.subarray(CONFIG_HEADER_BYTES));
}

function serveInflight(served: ServedDevice, message: Message): Answer | undefined {
  const wanted = message.inflight();
  const { device, isPacked: packed } = served;
  if (message.request === Request.SetInflightFd) {
    served.setInflight(InflightArea.adopt(message.takeFd(), wanted, { packed }));
    return;
  }
  if (wanted.queueCount > device.queueCount || wanted.queueSize > device.maxQueueSize) {
    throw new VhostUserError(
      "refused",
      `${message.name}: expected up to ${device.queueCount} queues of ${device.maxQueueSize}, ` +
        `got ${wanted.queueCount} of ${wanted.queueSize}`,
    );
  }
  const area = InflightArea.create({ ...wanted, packed });
  served.setInflight(area);
  return {
    payload: Payload.inflight(area.message, message.payload.byteLength),
    fds: [area.fd],
  };
}

function u64(value: number | bigint): Answer {
  return { payload: Payload.u64(value) };
}
