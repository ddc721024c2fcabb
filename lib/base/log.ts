/**
 * The log: lines on stderr. Colors only on a terminal, and not with `NO_COLOR`. A worker starts at the
 * default level; whoever starts it passes {@link getLogLevels} along and calls {@link setLogLevels} there.
 *
 * @module
 */

/** From the gravest to the most talkative. */
export const LOG_LEVELS = ["error", "warn", "info", "debug", "trace"] as const;

/** How grave a line is. */
export type LogLevel = typeof LOG_LEVELS[number];

/** Where lines go; takes a whole line with its newline. */
export type LogSink = (line: string) => void;

const COLOR: Readonly<Record<LogLevel, string>> = {
  error: "\x1b[1;31m",
  warn: "\x1b[33m",
  info: "\x1b[32m",
  debug: "\x1b[36m",
  trace: "\x1b[2m",
};
const RANK: Readonly<Record<LogLevel, number>> = { error: 0, warn: 1, info: 2, debug: 3, trace: 4 };
const encoder = new TextEncoder();

let threshold: LogLevel = "info";
let modules: readonly (readonly [name: string, level: LogLevel])[] = [];
let colored: boolean | undefined;
let terminal: boolean | undefined;
/** Counts changes of the modules' levels. */
let generation = 0;
let sink: LogSink = writeToStderr;

/** Lets lines of `level` and graver ones through. */
export function setLogLevel(level: LogLevel): void {
  threshold = level;
}

/** The level in force where no module has its own. */
export function getLogLevel(): LogLevel {
  return threshold;
}

/** Levels of the log. */
export interface LogLevels {
  /** For all modules that are not named. */
  readonly level: LogLevel;
  /** By module: the scopes that have the name as one of their parts, a number behind it aside. */
  readonly modules: Readonly<Record<string, LogLevel>>;
}

/** Lets through what `levels` say; where a scope belongs to several modules, its last part counts. */
export function setLogLevels(levels: LogLevels): void {
  threshold = levels.level;
  modules = Object.entries(levels.modules);
  generation++;
}

/** The levels in force, for {@link setLogLevels} in another worker. */
export function getLogLevels(): LogLevels {
  return { level: threshold, modules: Object.fromEntries(modules) };
}

/** The level of a module that `scope` belongs to, such as `vcpu` or `vcpu0` for `vm:vcpu0`. */
function levelOfModule(scope: string): LogLevel | undefined {
  if (modules.length === 0) return undefined;
  for (const part of scope.split(":").reverse()) {
    const kind = part.replace(/\d+$/, "");
    const found = modules.findLast(([name]) => name === part) ??
      modules.findLast(([name]) => name === kind);
    if (found !== undefined) return found[1];
  }
  return modules.findLast(([name]) => name === scope)?.[1];
}

/** Whether `text` names a level. */
export function isLogLevel(text: string): text is LogLevel {
  return (LOG_LEVELS as readonly string[]).includes(text);
}

/** Sends lines elsewhere (a test, a raw terminal); `undefined` means stderr. */
export function setLogSink(to: LogSink | undefined): void {
  sink = to ?? writeToStderr;
}

/** Turns colors on or off; `undefined` decides by terminal and `NO_COLOR`. */
export function setLogColor(on: boolean | undefined): void {
  colored = on;
}

/** Writes lines that begin with a scope, such as `vcpu0`. */
export class Logger {
  readonly #scope: string;
  #own: LogLevel | undefined;
  #generation = 0;

  constructor(scope = "vmctl") {
    this.#scope = scope;
  }

  /** A logger for a part of this one's subject. */
  child(scope: string): Logger {
    return new Logger(`${this.#scope}:${scope}`);
  }

  /** Whether lines of `level` come through; for messages that cost something to make. */
  enabled(level: LogLevel): boolean {
    if (this.#generation !== generation) {
      this.#own = levelOfModule(this.#scope);
      this.#generation = generation;
    }
    return RANK[level] <= RANK[this.#own ?? threshold];
  }

  /** Something failed. */
  error(message: string): void {
    this.#write("error", message);
  }

  /** Something is odd and goes on. */
  warn(message: string): void {
    this.#write("warn", message);
  }

  /** What a user wants to know. */
  info(message: string): void {
    this.#write("info", message);
  }

  /** What a developer wants to know. */
  debug(message: string): void {
    this.#write("debug", message);
  }

  /** Every step. */
  trace(message: string): void {
    this.#write("trace", message);
  }

  #write(level: LogLevel, message: string): void {
    if (!this.enabled(level)) return;
    colored ??= wantsColor();
    const label = level.padEnd(5);
    const head = colored
      ? `${COLOR[level]}${label}\x1b[0m \x1b[2m${this.#scope}:\x1b[0m`
      : `${label} ${this.#scope}:`;
    sink(`${head} ${printable(message)}\n`);
  }
}

/** The program's own logger. */
export const log: Logger = new Logger();

/** Messages may quote a guest or an image: no escape sequence of theirs reaches the terminal. */
function printable(message: string): string {
  return message.replace(
    /(?![\n\t])\p{Cc}/gu,
    (control) => `\\x${control.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}

function wantsColor(): boolean {
  return !Deno.noColor && onTerminal();
}

function onTerminal(): boolean {
  try {
    return terminal ??= Deno.stderr.isTerminal();
  } catch {
    return false;
  }
}

function writeToStderr(line: string): void {
  // In raw mode a terminal does not return its carriage by itself; in cooked mode one more is harmless.
  let rest = encoder.encode(onTerminal() ? line.replaceAll("\n", "\r\n") : line);
  // stderr may be a pipe that somebody made non-blocking. A log line is worth a short wait, not a hang.
  for (let attempt = 0; rest.length > 0 && attempt < 100; attempt++) {
    try {
      rest = rest.subarray(Deno.stderr.writeSync(rest));
    } catch (error) {
      if (!(error instanceof Deno.errors.WouldBlock)) return;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);
    }
  }
}
