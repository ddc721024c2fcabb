/**
 * What everything else stands on: errors, exit statuses, sizes, bytes, the log.
 *
 * @module
 */

export { assertNever, describeError, describeFileError, VmctlError } from "./errors.ts";
export { userCacheFolder } from "./cache_folder.ts";
export { Alarm, Ticker } from "./alarm.ts";
export { embeddedPart } from "./embedded.ts";
export { ExitStatus } from "./exit_status.ts";
export {
  formatSize,
  GIB,
  KIB,
  MIB,
  parseSize,
  type ParseSizeOptions,
  SizeError,
  TIB,
} from "./units.ts";
export {
  alignDown,
  alignUp,
  bytesOf,
  concatBytes,
  equalBytes,
  hex,
  hexDump,
  isAligned,
  isPowerOfTwo,
} from "./bytes.ts";
export {
  arrayOf,
  boolean,
  exactObject,
  excerpt,
  isObject,
  type JsonObject,
  noData,
  ShapeError,
  string,
  unsigned,
  type Variant,
  variant,
} from "./shape.ts";
export {
  getLogLevel,
  getLogLevels,
  isLogLevel,
  log,
  LOG_LEVELS,
  Logger,
  type LogLevel,
  type LogLevels,
  type LogSink,
  setLogColor,
  setLogLevel,
  setLogLevels,
  setLogSink,
} from "./log.ts";
