/**
 * Options of a VM: their table, their grammar, files and merging, validation.
 *
 * @module
 */

export type {
  BalloonConfig,
  BalloonPolicyChoice,
  BootSource,
  ConsoleConfig,
  DiskConfig,
  FileSource,
  HypervisorChoice,
  LogLevelName,
  SandboxConfig,
  SerialConfig,
  SerialInput,
  SerialOutput,
  SocketConfig,
  SoftConfig,
  VhostUserConfig,
  VhostUserType,
  VmConfig,
} from "./vm_config.ts";
export { type ArgumentOptions, decodeArgument } from "./argument.ts";
export { type ConfigLayer, ConfigLoader } from "./config_file.ts";
export { describeType, inheritedFd } from "./decode.ts";
export { GrammarError, parseKeyValues } from "./grammar.ts";
export { type JsonSchema, jsonSchema } from "./json_schema.ts";
export { mergeOptions } from "./merge.ts";
export type {
  BooleanType,
  ChoiceType,
  Decoded,
  DecodedOptions,
  DecodedRecord,
  Field,
  FieldTable,
  IntegerType,
  ItemType,
  ListType,
  MibType,
  Option,
  OptionTable,
  PathType,
  RecordType,
  ScalarType,
  StringType,
  ValueType,
} from "./option_types.ts";
export { BLOCK, CONSOLE_PORT } from "./device_options.ts";
export { type BlockOptions, diskConfig } from "./disk_config.ts";
export { DEFAULT_PIVOT_ROOT, RUN_OPTIONS, type RunOptions } from "./options.ts";
export { ConfigError, type ConfigProblem, formatProblem, printable, type Span } from "./problem.ts";
export {
  logLevels,
  type Resolved,
  resolveLayers,
  type ResolveOptions,
  withDefaults,
} from "./resolve.ts";
export { printArguments } from "./print.ts";
export { editDistance, suggest } from "./suggest.ts";
