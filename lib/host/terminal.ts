/**
 * Terminals: raw mode, size, and pseudo-terminals for tests and `--serial type=pty`.
 *
 * @module
 */

import { check, Errno, HostError } from "./errno.ts";
import { Fd, type FdLike, rawFd } from "./fd.ts";
import { openFile, OpenFlag } from "./file.ts";
import { tryIoctl } from "./ioctl.ts";
import { bindLibc, fromCString, lastErrno } from "./libc.ts";

// Safe: struct termios of glibc has 60 bytes; the buffers have 64. The name buffer is passed with its length.
const libc = bindLibc({
  isatty: { parameters: ["i32"], result: "i32" },
  tcgetattr: { parameters: ["i32", "buffer"], result: "i32" },
  tcsetattr: { parameters: ["i32", "i32", "buffer"], result: "i32" },
  cfmakeraw: { parameters: ["buffer"], result: "void" },
});
const libcPty = bindLibc({
  posix_openpt: { parameters: ["i32"], result: "i32" },
  grantpt: { parameters: ["i32"], result: "i32" },
  unlockpt: { parameters: ["i32"], result: "i32" },
  ptsname_r: { parameters: ["i32", "buffer", "u32"], result: "i32" },
});

const TERMIOS_BYTES = 64;
const TIOCGWINSZ = 0x5413;
const TIOCSWINSZ = 0x5414;
const TCSANOW = 0;
const TCSADRAIN = 1;

/** Whether it is a terminal. */
export function isatty(fd: FdLike): boolean {
  return libc().isatty(rawFd(fd)) === 1;
}

/** Rows and columns of a terminal. */
export interface WindowSize {
  readonly rows: number;
  readonly columns: number;
}

/** Size of a terminal; `undefined` where it is none. */
export function windowSize(fd: FdLike): WindowSize | undefined {
  const size = new DataView(new ArrayBuffer(8));
  if (tryIoctl(rawFd(fd), TIOCGWINSZ, size) < 0) return undefined;
  return { rows: size.getUint16(0, true), columns: size.getUint16(2, true) };
}

/** Sets the size of a terminal. */
export function setWindowSize(fd: FdLike, size: WindowSize): void {
  const bytes = new DataView(new ArrayBuffer(8));
  bytes.setUint16(0, size.rows, true);
  bytes.setUint16(2, size.columns, true);
  const result = tryIoctl(rawFd(fd), TIOCSWINSZ, bytes);
  if (result < 0) throw new HostError("ioctl(TIOCSWINSZ)", -result);
}

/** A terminal's settings, to which it returns when this is disposed. */
export class TerminalMode implements Disposable {
  readonly #fd: number;
  readonly #saved: Uint8Array<ArrayBuffer>;
  #changed = false;

  private constructor(fd: number, saved: Uint8Array<ArrayBuffer>) {
    this.#fd = fd;
    this.#saved = saved;
  }

  /** Remembers the settings. `fd` must stay open. @throws {HostError} ENOTTY where it is no terminal. */
  static save(fd: FdLike): TerminalMode {
    return new TerminalMode(rawFd(fd), getAttributes(rawFd(fd)));
  }

  /** {@link save} and {@link setRaw} in one. */
  static raw(fd: FdLike): TerminalMode {
    const mode = TerminalMode.save(fd);
    mode.setRaw();
    return mode;
  }

  /** Whether {@link setRaw} is in force. */
  get isRaw(): boolean {
    return this.#changed;
  }

  /** Passes every byte through: no echo, lines, signals or translation (cfmakeraw(3)). */
  setRaw(): void {
    const attributes = this.#saved.slice();
    libc().cfmakeraw(attributes);
    setAttributes(this.#fd, TCSANOW, attributes);
    this.#changed = true;
  }

  /** Returns to the remembered settings; a terminal that went away is left alone. */
  restore(): void {
    if (!this.#changed) return;
    this.#changed = false;
    // Never waits for output to drain: nobody may be reading it any more.
    try {
      setAttributes(this.#fd, TCSANOW, this.#saved);
    } catch (error) {
      if (!(error instanceof HostError)) throw error;
    }
  }

  [Symbol.dispose](): void {
    this.restore();
  }
}

/** The settings of a terminal as the bytes of struct termios, for comparing. */
export function terminalAttributes(fd: FdLike): Uint8Array {
  return getAttributes(rawFd(fd)).slice(0, 60);
}

function getAttributes(raw: number): Uint8Array<ArrayBuffer> {
  const attributes = new Uint8Array(new ArrayBuffer(TERMIOS_BYTES));
  check(libc().tcgetattr(raw, attributes), "tcgetattr");
  return attributes;
}

function setAttributes(raw: number, when: number, attributes: Uint8Array<ArrayBuffer>): void {
  for (;;) {
    // EINTR is a signal; EIO is a background process with SIGTTOU ignored.
    if (libc().tcsetattr(raw, when, attributes) === 0) return;
    const errno = lastErrno();
    if (errno !== Errno.EINTR) throw new HostError("tcsetattr", errno);
  }
}

/** A pseudo-terminal: what is written to one side comes out of the other. */
export interface Pty extends Disposable {
  /** The side of the terminal emulator. */
  readonly controller: Fd;
  /** The side of the program; a terminal. */
  readonly terminal: Fd;
  /** Path of the terminal side, such as `/dev/pts/3`. */
  readonly path: string;
}

/** Makes a pseudo-terminal in cooked mode (pty(7)); it does not become the controlling one. */
export function openPty(): Pty {
  const libc = libcPty();
  const flags = OpenFlag.ReadWrite | OpenFlag.NoTty | OpenFlag.CloseOnExec;
  using controller = Fd.adopt(check(libc.posix_openpt(flags), "posix_openpt"));
  check(libc.grantpt(controller.raw), "grantpt");
  check(libc.unlockpt(controller.raw), "unlockpt");
  const name = new Uint8Array(new ArrayBuffer(128));
  const error = libc.ptsname_r(controller.raw, name, name.byteLength);
  if (error !== 0) throw new HostError("ptsname_r", error);
  const path = fromCString(name);
  const terminal = openFile(path, OpenFlag.ReadWrite | OpenFlag.NoTty);
  const kept = Fd.adopt(controller.take());
  return {
    controller: kept,
    terminal,
    path,
    [Symbol.dispose]: () => {
      kept.close();
      terminal.close();
    },
  };
}

/** Waits until what was written to a terminal is out. */
export function drainTerminal(fd: FdLike): void {
  const raw = rawFd(fd);
  setAttributes(raw, TCSADRAIN, getAttributes(raw));
}
