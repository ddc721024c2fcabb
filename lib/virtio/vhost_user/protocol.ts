/**
 * Numbers of the vhost-user protocol (QEMU's docs/interop/vhost-user.rst).
 *
 * @module
 */

/** Messages of the front end. */
export const Request = {
  GetFeatures: 1,
  SetFeatures: 2,
  SetOwner: 3,
  ResetOwner: 4,
  SetMemTable: 5,
  SetLogBase: 6,
  SetLogFd: 7,
  SetVringNum: 8,
  SetVringAddr: 9,
  SetVringBase: 10,
  GetVringBase: 11,
  SetVringKick: 12,
  SetVringCall: 13,
  SetVringErr: 14,
  GetProtocolFeatures: 15,
  SetProtocolFeatures: 16,
  GetQueueNum: 17,
  SetVringEnable: 18,
  SetBackendReqFd: 21,
  GetConfig: 24,
  SetConfig: 25,
  GetInflightFd: 31,
  SetInflightFd: 32,
  ResetDevice: 34,
  GetMaxMemSlots: 36,
  AddMemReg: 37,
  RemMemReg: 38,
  SetStatus: 39,
  GetStatus: 40,
} as const;

/** Messages of the back end, on the socket of SetBackendReqFd. */
export const BackendRequest = { ConfigChange: 2 } as const;

/** The feature bit that stands for all of {@link ProtocolFeature}. */
export const PROTOCOL_FEATURES: bigint = 1n << 30n;

/** Features of the protocol. */
export const ProtocolFeature = {
  Mq: 1n << 0n,
  ReplyAck: 1n << 3n,
  BackendReq: 1n << 5n,
  Config: 1n << 9n,
  InflightShmfd: 1n << 12n,
  ResetDevice: 1n << 13n,
  ConfigureMemSlots: 1n << 15n,
  Status: 1n << 16n,
} as const;

/** Bytes of a message before its payload. */
export const HEADER_BYTES = 12;
/** Longest payload that is taken; the longest of the protocol is a memory table of 8 regions. */
export const MAX_PAYLOAD_BYTES = 1024;
/** Most descriptors that come with a message. */
export const MAX_MESSAGE_FDS = 8;
/** Most regions in a memory table. */
export const MAX_TABLE_REGIONS = 8;
/** Most regions that are added one by one. */
export const MAX_MEMORY_SLOTS = 64;
/** Most bytes of configuration space. */
export const MAX_CONFIG_BYTES = 256;
/** Bytes of the payload of configuration messages before the bytes: offset, size, flags. */
export const CONFIG_HEADER_BYTES = 12;
/** Bytes of a region: guest address, size, user address, offset. */
export const REGION_BYTES = 32;
/** Bytes of a ring address payload. */
export const VRING_ADDR_BYTES = 40;
/** Bytes of an inflight payload: size, offset, number of queues, queue size, and padding. */
export const INFLIGHT_BYTES = 24;
/** The same as those say it who leave the padding out. */
export const INFLIGHT_PACKED_BYTES = 20;

/** Bits of a message's flags. */
export const MessageFlag = { Version: 1, VersionMask: 3, Reply: 4, NeedReply: 8 } as const;

/** Bits of the payload of SetVringKick, -Call and -Err. */
export const VringFd = { IndexMask: 0xff, None: 0x100 } as const;

/** The name of a message of the front end. */
export function requestName(request: number): string {
  for (const [name, number] of Object.entries(Request)) if (number === request) return name;
  return `message ${request}`;
}
