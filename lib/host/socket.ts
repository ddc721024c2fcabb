/**
 * Unix sockets that carry descriptors (unix(7), SCM_RIGHTS).
 *
 * @module
 */

import { check, Errno, HostError, isToRepeat } from "./errno.ts";
import { Fd, type FdLike, rawFd } from "./fd.ts";
import { openFile, OpenFlag } from "./file.ts";
import { addressOf, bindLibc, lastErrno } from "./libc.ts";
import { PollEvent, pollFd } from "./poll.ts";
import { umask } from "./process.ts";

// Safe: every buffer is passed with its own length; the structures built here point into buffers that
// are referenced until after the call.
const libc = bindLibc({
  sendmsg: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  recvmsg: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
});
const libcSetup = bindLibc({
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  socketpair: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  fchmod: { parameters: ["i32", "u32"], result: "i32" },
  listen: { parameters: ["i32", "i32"], result: "i32" },
  accept4: { parameters: ["i32", "pointer", "pointer", "i32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
});

const AF_UNIX = 1;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const SO_TYPE = 3;
const SO_ERROR = 4;
const SO_PEERCRED = 17;
const SO_ACCEPTCONN = 30;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const MSG_CTRUNC = 0x8;
const MSG_TRUNC = 0x20;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x4000_0000;
/** Most descriptors in one message (SCM_MAX_FD). */
const MAX_FDS = 253;
/** Longest path of a socket: sun_path without its NUL. */
const MAX_PATH_BYTES = 107;

/** Whether message borders are kept, and whether there are connections. */
export type SocketType = "seqpacket" | "stream" | "datagram";

/** Who is at the other end. */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** What {@link UnixSocket.recvMessage} took. */
export interface ReceivedMessage {
  /** The payload; empty when the peer closed. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The descriptors that came along, owned by the receiver. */
  readonly fds: Fd[];
  /** Whether the payload was longer than asked for; the rest is lost. */
  readonly truncated: boolean;
  /** Whether more descriptors came than asked for; the rest is closed. */
  readonly fdsTruncated: boolean;
  /** Whether the peer closed. */
  readonly endOfFile: boolean;
}

/** Settings of a new socket. */
export interface SocketOptions {
  /** Whether calls return at once where they would wait. */
  readonly nonblock?: boolean;
}

/** A connected Unix socket. */
export class UnixSocket implements Disposable {
  /** Its descriptor. */
  readonly fd: Fd;

  /** Takes over a connected socket. */
  constructor(fd: Fd) {
    this.fd = fd;
  }

  /**
   * Sends one message with descriptors; they stay open here. A stream takes part of long payloads,
   * never of descriptors.
   *
   * @returns the bytes that were taken, or -1 where the socket is non-blocking and full
   * @throws {HostError} EPIPE or ECONNRESET when the peer is gone, EMSGSIZE.
   */
  sendMessage(bytes: Uint8Array, fds: readonly FdLike[] = []): number {
    if (fds.length > MAX_FDS) {
      throw new HostError("sendmsg", Errno.E2BIG, { subject: `of ${fds.length} descriptors` });
    }
    const control = fds.length === 0 ? undefined : new DataView(
      new ArrayBuffer(16 + Math.ceil(fds.length / 2) * 8),
    );
    if (control !== undefined) {
      control.setUint32(0, 16 + fds.length * 4, true);
      control.setInt32(8, SOL_SOCKET, true);
      control.setInt32(12, SCM_RIGHTS, true);
      fds.forEach((fd, index) => control.setInt32(16 + index * 4, rawFd(fd), true));
    }
    const header = messageHeader(bytes, control);
    for (;;) {
      const count = libc().sendmsg(this.fd.raw, header.view, MSG_NOSIGNAL);
      if (count >= 0) return count;
      const errno = lastErrno();
      if (errno === Errno.EAGAIN) return -1;
      if (!isToRepeat(errno)) throw new HostError("sendmsg", errno);
    }
  }

  /**
   * Takes one message (of a stream: what is there).
   *
   * @returns `undefined` where there is none now and the socket is non-blocking or `dontWait` is set
   * @throws {HostError} ECONNRESET and the like.
   */
  recvMessage(
    maxBytes: number,
    maxFds = 0,
    options: { readonly dontWait?: boolean } = {},
  ): ReceivedMessage | undefined {
    const bytes = new Uint8Array(new ArrayBuffer(Math.max(maxBytes, 1)));
    // Room for one descriptor more than wanted tells too many from enough; on 64 bits two of them share
    // a word, so an exact room could hold one more than asked for anyway.
    const control = new DataView(new ArrayBuffer(16 + Math.ceil((maxFds + 1) / 2) * 8));
    const header = messageHeader(bytes, control);
    const flags = MSG_CMSG_CLOEXEC | (options.dontWait ? MSG_DONTWAIT : 0);
    let count: number;
    while ((count = libc().recvmsg(this.fd.raw, header.view, flags)) < 0) {
      const errno = lastErrno();
      if (errno === Errno.EAGAIN) return undefined;
      if (!isToRepeat(errno)) throw new HostError("recvmsg", errno);
    }
    const fds = takeDescriptors(control, header.view.getUint32(40, true));
    const messageFlags = header.view.getUint32(48, true);
    const fdsTruncated = fds.length > maxFds || (messageFlags & MSG_CTRUNC) !== 0;
    for (const surplus of fds.splice(maxFds)) surplus.close();
    return {
      bytes: bytes.subarray(0, Math.min(count, maxBytes)),
      fds,
      truncated: (messageFlags & MSG_TRUNC) !== 0 || count > maxBytes,
      fdsTruncated,
      endOfFile: count === 0 && fds.length === 0 && this.#hungUp(),
    };
  }

  // An empty packet and the end look the same to recvmsg.
  #hungUp(): boolean {
    const ends = PollEvent.HangUp | PollEvent.ReadHangUp | PollEvent.Error;
    return (pollFd(this.fd, PollEvent.ReadHangUp, 0) & ends) !== 0;
  }

  /** Who is at the other end, as of when the connection was made. */
  peerCredentials(): PeerCredentials {
    const result = new DataView(new ArrayBuffer(12));
    getOption(this.fd, SO_PEERCRED, result);
    return {
      pid: result.getInt32(0, true),
      uid: result.getUint32(4, true),
      gid: result.getUint32(8, true),
    };
  }

  /** Ends one direction or both. */
  shutdown(how: "read" | "write" | "both"): void {
    const code = how === "read" ? 0 : how === "write" ? 1 : 2;
    check(libcSetup().shutdown(this.fd.raw, code), "shutdown");
  }

  [Symbol.dispose](): void {
    this.fd.close();
  }
}

/** A Unix socket that accepts connections. Disposing does not remove its path. */
export class UnixListener implements Disposable {
  /** Its descriptor. */
  readonly fd: Fd;
  /** Where it listens, where it was made by path. */
  readonly path: string | undefined;

  /** Takes over a listening socket. */
  constructor(fd: Fd, path?: string) {
    this.fd = fd;
    this.path = path;
  }

  /**
   * Takes the next connection.
   *
   * @returns `undefined` where none waits and the listener is non-blocking
   */
  accept(options: SocketOptions = {}): UnixSocket | undefined {
    const flags = SOCK_CLOEXEC | (options.nonblock ? SOCK_NONBLOCK : 0);
    for (;;) {
      const raw = libcSetup().accept4(this.fd.raw, null, null, flags);
      if (raw >= 0) return new UnixSocket(Fd.adopt(raw));
      const errno = lastErrno();
      if (errno === Errno.EAGAIN) return undefined;
      // A client that went away while it waited is not this side's problem.
      if (errno !== Errno.EINTR && errno !== Errno.ECONNABORTED) {
        throw new HostError("accept", errno);
      }
    }
  }

  [Symbol.dispose](): void {
    this.fd.close();
  }
}

/** Settings of {@link listenUnix}. */
export interface ListenOptions extends SocketOptions {
  /** Connections that may wait to be accepted. */
  readonly backlog?: number;
  /** Mode of the path, narrowed by the umask; the umask alone where undefined. */
  readonly mode?: number;
}

/**
 * Makes a socket at `path` that accepts connections. The path must not exist.
 *
 * @throws {HostError} EADDRINUSE where the path exists, ENAMETOOLONG.
 */
export function listenUnix(
  path: string,
  type: SocketType,
  options: ListenOptions = {},
): UnixListener {
  using fd = newSocket(type, options);
  withAddress(path, (address) => {
    // The mode holds from the first moment on: nobody can connect between bind and a chmod.
    const mask = umask(0o777 & ~(options.mode ?? 0o600));
    try {
      check(libcSetup().bind(fd.raw, address, address.byteLength), "bind", path);
    } finally {
      umask(mask);
    }
  });
  check(libcSetup().listen(fd.raw, options.backlog ?? 128), "listen", path);
  return new UnixListener(Fd.adopt(fd.take()), path);
}

/**
 * Connects to the socket at `path`.
 *
 * @throws {HostError} ENOENT where there is none, ECONNREFUSED where nobody listens any more, EAGAIN
 * where its queue is full and the socket is non-blocking.
 */
export function connectUnix(
  path: string,
  type: SocketType,
  options: SocketOptions = {},
): UnixSocket {
  using fd = newSocket(type, options);
  withAddress(path, (address) => {
    for (;;) {
      const result = libcSetup().connect(fd.raw, address, address.byteLength);
      if (result === 0) return;
      if (lastErrno() !== Errno.EINTR) check(result, "connect", path);
    }
  });
  return new UnixSocket(Fd.adopt(fd.take()));
}

/** Two sockets connected with each other. */
export function socketPair(
  type: SocketType = "seqpacket",
  options: SocketOptions = {},
): [UnixSocket, UnixSocket] {
  const numbers = new Int32Array(new ArrayBuffer(8));
  const kind = socketType(type) | SOCK_CLOEXEC | (options.nonblock ? SOCK_NONBLOCK : 0);
  check(libcSetup().socketpair(AF_UNIX, kind, 0, numbers), "socketpair");
  return [
    new UnixSocket(Fd.adopt(numbers[0] ?? -1)),
    new UnixSocket(Fd.adopt(numbers[1] ?? -1)),
  ];
}

/** Two connected sockets that keep message borders, as bare descriptors. */
export function socketpair(options: SocketOptions = {}): [Fd, Fd] {
  const [a, b] = socketPair("seqpacket", options);
  return [a.fd, b.fd];
}

/** The `SOCK_SEQPACKET` forms of this file's functions. */
export const UnixSeqpacket = {
  /** See {@link listenUnix}. */
  listen(path: string, options: ListenOptions = {}): UnixListener {
    return listenUnix(path, "seqpacket", options);
  },
  /** See {@link connectUnix}. */
  connect(path: string, options: SocketOptions = {}): UnixSocket {
    return connectUnix(path, "seqpacket", options);
  },
  /** See {@link socketPair}. */
  pair(options: SocketOptions = {}): [UnixSocket, UnixSocket] {
    return socketPair("seqpacket", options);
  },
} as const;

/** The error that a non-blocking connect ended with, 0 for none (SO_ERROR). */
export function socketError(fd: FdLike): number {
  const result = new DataView(new ArrayBuffer(4));
  getOption(fd, SO_ERROR, result);
  return result.getInt32(0, true);
}

/** The type of a Unix socket that listens; undefined where it does not. @throws {HostError} ENOTSOCK. */
export function listeningType(fd: FdLike): SocketType | undefined {
  const result = new DataView(new ArrayBuffer(4));
  getOption(fd, SO_ACCEPTCONN, result);
  if (result.getInt32(0, true) === 0) return undefined;
  getOption(fd, SO_TYPE, result);
  return result.getInt32(0, true) === socketType("stream") ? "stream" : "seqpacket";
}

function getOption(fd: FdLike, option: number, into: DataView<ArrayBuffer>): void {
  const length = new Uint32Array(new ArrayBuffer(4));
  length[0] = into.byteLength;
  check(libc().getsockopt(rawFd(fd), SOL_SOCKET, option, into, length), "getsockopt");
}

function newSocket(type: SocketType, options: SocketOptions): Fd {
  const kind = socketType(type) | SOCK_CLOEXEC | (options.nonblock ? SOCK_NONBLOCK : 0);
  return Fd.adopt(check(libcSetup().socket(AF_UNIX, kind, 0), "socket"));
}

function socketType(type: SocketType): number {
  return type === "stream" ? 1 : type === "datagram" ? 2 : 5;
}

/** Calls `use` with the address of `path`; a path that is too long goes through its folder. */
function withAddress(path: string, use: (address: Uint8Array<ArrayBuffer>) => void): void {
  const encoder = new TextEncoder();
  const name = encoder.encode(path);
  if (name.length === 0 || name.includes(0)) {
    throw new HostError("socket path", Errno.EINVAL, { subject: JSON.stringify(path) });
  }
  if (name.length <= MAX_PATH_BYTES) return use(socketAddress(name));
  const slash = path.lastIndexOf("/");
  using folder = openFile(slash <= 0 ? (slash < 0 ? "." : "/") : path.slice(0, slash), PATH_FLAGS);
  const short = encoder.encode(`/proc/self/fd/${folder.raw}/${path.slice(slash + 1)}`);
  if (short.length > MAX_PATH_BYTES) {
    throw new HostError("socket path", Errno.ENAMETOOLONG, { subject: path });
  }
  use(socketAddress(short));
}

const PATH_FLAGS = OpenFlag.Path | OpenFlag.Directory;

function socketAddress(name: Uint8Array): Uint8Array<ArrayBuffer> {
  const address = new Uint8Array(new ArrayBuffer(2 + name.length + 1));
  address[0] = AF_UNIX;
  address.set(name, 2);
  return address;
}

interface MessageHeader {
  /** struct msghdr. */
  readonly view: DataView<ArrayBuffer>;
  /** What it points to; kept referenced. */
  readonly parts: readonly unknown[];
}

/** struct msghdr with one struct iovec. */
function messageHeader(bytes: Uint8Array, control: DataView | undefined): MessageHeader {
  const vector = new DataView(new ArrayBuffer(16));
  vector.setBigUint64(0, bytes.byteLength === 0 ? 0n : addressOf(bytes), true);
  vector.setUint32(8, bytes.byteLength, true);
  const view = new DataView(new ArrayBuffer(56));
  view.setBigUint64(16, addressOf(vector), true);
  view.setUint32(24, 1, true);
  if (control !== undefined) {
    view.setBigUint64(32, addressOf(control), true);
    view.setUint32(40, control.byteLength, true);
  }
  return { view, parts: [bytes, vector, control] };
}

function takeDescriptors(control: DataView, controlBytes: number): Fd[] {
  const fds: Fd[] = [];
  const end = Math.min(controlBytes, control.byteLength);
  let at = 0;
  while (at + 16 <= end) {
    const length = control.getUint32(at, true);
    if (length < 16 || at + length > end) break;
    const rights = control.getInt32(at + 4 + 4, true) === SOL_SOCKET &&
      control.getInt32(at + 12, true) === SCM_RIGHTS;
    for (let item = at + 16; rights && item + 4 <= at + length; item += 4) {
      fds.push(Fd.adopt(control.getInt32(item, true)));
    }
    at += Math.ceil(length / 8) * 8;
  }
  return fds;
}
