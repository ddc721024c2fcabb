/**
 * The host: every system call of the project goes through here, as functions that throw
 * {@link HostError} and objects that release themselves.
 *
 * @module
 */

export { clearSocketPath, SocketFile, type SocketPlace } from "./socket_path.ts";
export {
  Errno,
  type ErrnoName,
  errnoName,
  HostError,
  type HostErrorOptions,
  isHostError,
} from "./errno.ts";
export {
  addSeals,
  closeFd,
  dupFd,
  Fd,
  type FdLike,
  getCloseOnExec,
  getSeals,
  getStatusFlags,
  inheritedFdOfPath,
  listOpenFds,
  rawFd,
  Seal,
  setCloseOnExec,
  setNonblocking,
  setStatusFlags,
  validateInheritedFd,
} from "./fd.ts";
export {
  fallocate,
  FallocateMode,
  fdatasync,
  type FileKind,
  type FileStatus,
  flock,
  fstat,
  fsync,
  ftruncate,
  kindName,
  memfdCreate,
  MemfdFlag,
  openFile,
  OpenFlag,
  pipe,
  pread,
  preadAside,
  punchHole,
  pwrite,
  pwriteAside,
  read,
  seek,
  SeekFrom,
  tryRead,
  tryWrite,
  write,
  writeAll,
  type WriteAllOptions,
} from "./file.ts";
export { ioctl, type IoctlArgument, ioctlFast, tryIoctl } from "./ioctl.ts";
export { poll, PollEvent, pollFd, type PollRequest } from "./poll.ts";
export { BusyPoll } from "./busy_poll.ts";
export { Epoll, EpollFlag, Reactor, type Watch, type WatchCallback } from "./epoll.ts";
export {
  eventfd,
  type EventfdOptions,
  setTimer,
  signalEvent,
  takeEvent,
  timerfd,
  type TimerSetting,
} from "./event.ts";
export {
  Advice,
  bufferAddress,
  madvise,
  Mapping,
  mmap,
  mmapFixedOver,
  type MmapOptions,
  mmapReadWriteOver,
  munmap,
  reserveAddresses,
  reserveAt,
  unmapFixedOver,
  viewMemory,
} from "./mapping.ts";
export {
  connectUnix,
  listeningType,
  type ListenOptions,
  listenUnix,
  type PeerCredentials,
  type ReceivedMessage,
  socketError,
  type SocketOptions,
  socketPair,
  socketpair,
  type SocketType,
  UnixListener,
  UnixSeqpacket,
  UnixSocket,
} from "./socket.ts";
export {
  drainTerminal,
  isatty,
  openPty,
  type Pty,
  setWindowSize,
  terminalAttributes,
  TerminalMode,
  type WindowSize,
  windowSize,
} from "./terminal.ts";
export {
  blockSignal,
  FIRST_REALTIME_SIGNAL,
  getpid,
  gettid,
  installNoopSignalHandler,
  kill,
  setSignalDisposition,
  Signal,
  signalName,
  tgkill,
} from "./signal.ts";
export { catchSignals } from "./signal_event.ts";
export {
  microsBetween,
  monotonicMicros32,
  monotonicNs,
  realtimeNs,
  sleepExactly,
  threadCpuNs,
  threadPreemptions,
  yieldThread,
} from "./clock.ts";
export { lowerPriority, lowerPriorityOfLast } from "./priority.ts";
export {
  collectGarbage,
  collectYoungGarbage,
  getegid,
  geteuid,
  getgid,
  getrandom,
  getResourceLimit,
  getuid,
  type ProcessStat,
  readProcessStat,
  releaseFreeMemory,
  Resource,
  type ResourceLimit,
  setResourceLimit,
  umask,
} from "./process.ts";
export {
  IoVector,
  MAX_VECTOR_PIECES,
  MemorySpan,
  preadv,
  preadvNoWait,
  pwritev,
} from "./vector.ts";
export { IoUring } from "./io_uring.ts";
export { blockDeviceSize, blockDiscard, blockSectorSize, blockZeroOut } from "./block_device.ts";
export { compareExchange16 } from "./exchange16.ts";
export type { LoadableLibrary } from "./shared_library.ts";
export { RawInflater, type RawInflaterOptions, ZLIB } from "./zlib.ts";
export { ZSTD, ZstdDecoder, type ZstdDecoderOptions } from "./zstd.ts";
export { NativeCode, protect, Protection } from "./native_code.ts";
export {
  findSeccompListener,
  hasNoNewPrivileges,
  installSeccompFilter,
  installSeccompListener,
  parseViolation,
  rawSyscall,
  receiveViolation,
  reportViolations,
  type SeccompViolation,
  setNoNewPrivileges,
  VIOLATION_EXIT_STATUS,
  VIOLATION_REPORT_BYTES,
} from "./seccomp.ts";
export { type ProcessEnd, signalProcess, takeProcessEnd } from "./child.ts";
export {
  describeScriptFailure,
  SCRIPT_FAILURE_STATUS,
  type ScriptArgument,
  type ScriptFailure,
  type ScriptProcess,
  type ScriptStep,
  type ScriptStruct,
  startScript,
} from "./syscall_script.ts";
