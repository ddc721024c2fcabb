/**
 * The piece of machine code at which the built executable begins. It runs in front of the JavaScript
 * runtime's own entry point, with the registers and the stack that the kernel and the dynamic linker
 * left (System V x86-64 ABI, 3.4.1), and turns
 *
 *     vmctl ARGUMENT…
 *
 * into what the runtime would have got from
 *
 *     vmctl run --its-options… MAIN /proc/self/fd/N HOME=… ARGUMENT…
 *
 * where N is a sealed, close-on-exec memfd that holds the bundle. Nothing is unpacked to a file
 * system, so there is nothing to go stale, to be tampered with or to clean up. `HOME=…` is the user's
 * (empty where there is none), for MAIN to put back: the runtime itself gets one in which it finds no
 * settings.
 *
 * @module
 */

import type { AddedSegment, SegmentPlacement } from "./elf.ts";

/** What the executable is to run. */
export interface Launch {
  /** What goes into the memfd. */
  readonly bundle: Uint8Array;
  /** The runtime's arguments before the memfd's path, the program's name first. */
  readonly argv: readonly string[];
  /** `NAME=value` strings that the environment begins with. */
  readonly environment: readonly string[];
  /** Variables that begin so are not passed on; each is five characters long. */
  readonly droppedPrefixes: readonly string[];
}

/**
 * The memfd's descriptor is the first free one from here. Low numbers are left to what the caller
 * hands down, and a kernel's first descriptor table has 64 entries.
 */
const FIRST_DESCRIPTOR = 63;

const SYS_WRITE = 1;
const SYS_CLOSE = 3;
const SYS_FCNTL = 72;
const SYS_EXIT_GROUP = 231;
const SYS_MEMFD_CREATE = 319;
/** MFD_CLOEXEC | MFD_ALLOW_SEALING. */
const MEMFD_FLAGS = 3;
/** Since Linux 6.3, where it may be demanded (sysctl vm.memfd_noexec). */
const MFD_NOEXEC_SEAL = 8;
const F_DUPFD_CLOEXEC = 1030;
const F_ADD_SEALS = 1033;
/** F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE. */
const ALL_SEALS = 15;

const FAILURE = "vmctl: cannot start: no memory file for the program (memfd_create, Linux 3.17)\n";

/** Collects bytes, and fills in distances to labels at the end. */
class Code {
  readonly #bytes: number[] = [];
  readonly #labels = new Map<string, number>();
  readonly #fixups: { readonly at: number; readonly label: string }[] = [];

  /** Position of the next byte. */
  get length(): number {
    return this.#bytes.length;
  }

  /** Bytes of an instruction or of data. */
  put(...bytes: number[]): this {
    this.#bytes.push(...bytes);
    return this;
  }

  /** A 32-bit little-endian number. */
  put32(value: number): this {
    return this.put(value & 255, (value >> 8) & 255, (value >> 16) & 255, (value >>> 24) & 255);
  }

  /** ASCII characters. */
  text(text: string): this {
    return this.put(...new TextEncoder().encode(text));
  }

  /** Names this position. */
  label(name: string): this {
    this.#labels.set(name, this.length);
    return this;
  }

  /** An instruction that ends in the 32-bit distance to `label`: a jump or RIP-relative address. */
  near(opcode: readonly number[], label: string): this {
    this.put(...opcode);
    this.#fixups.push({ at: this.length, label });
    return this.put32(0);
  }

  /** Sets a label that lies elsewhere, as an offset from the first byte. */
  defineOutside(name: string, offset: number): this {
    this.#labels.set(name, offset);
    return this;
  }

  /** Offset of `label`. */
  offsetOf(label: string): number {
    const offset = this.#labels.get(label);
    if (offset === undefined) throw new Error(`no label ${label}`);
    return offset;
  }

  /** Everything, with all distances filled in. */
  finish(): Uint8Array {
    const bytes = Uint8Array.from(this.#bytes);
    const data = new DataView(bytes.buffer);
    for (const { at, label } of this.#fixups) {
      data.setInt32(at, this.offsetOf(label) - (at + 4), true);
    }
    return bytes;
  }
}

const JE = [0x0f, 0x84];
const JNE = [0x0f, 0x85];
const JS = [0x0f, 0x88];
const JNS = [0x0f, 0x89];
const JLE = [0x0f, 0x8e];
const JMP = [0xe9];
const MOV_RAX = [0x48, 0x8b, 0x05];
const LEA_RBX = [0x48, 0x8d, 0x1d];
const LEA_RDI = [0x48, 0x8d, 0x3d];
const LEA_RSI = [0x48, 0x8d, 0x35];
const LEA_RDX = [0x48, 0x8d, 0x15];
const TEST_RAX = [0x48, 0x85, 0xc0];

function syscall(code: Code, number: number): void {
  code.put(0xb8).put32(number).put(0x0f, 0x05); // mov eax, number; syscall
}

/** rbx = descriptor of a sealed memfd with the bundle in it. */
function emitMemoryFile(code: Code, bundleBytes: number): void {
  code.near(LEA_RDI, "memfd name");
  code.put(0xbe).put32(MEMFD_FLAGS | MFD_NOEXEC_SEAL); // mov esi, flags
  syscall(code, SYS_MEMFD_CREATE);
  code.put(0x85, 0xc0).near(JNS, "created"); // test eax, eax
  code.put(0xbe).put32(MEMFD_FLAGS); // mov esi, flags
  syscall(code, SYS_MEMFD_CREATE);
  code.put(0x85, 0xc0).near(JS, "fail"); // test eax, eax
  code.label("created");
  code.put(0x89, 0xc3); // mov ebx, eax

  // Moves it out of the way of low numbers; where the limit forbids that, it stays.
  code.put(0x89, 0xdf); // mov edi, ebx
  code.put(0xbe).put32(F_DUPFD_CLOEXEC); // mov esi, F_DUPFD_CLOEXEC
  code.put(0xba).put32(FIRST_DESCRIPTOR); // mov edx, FIRST_DESCRIPTOR
  syscall(code, SYS_FCNTL);
  code.put(0x85, 0xc0).near(JS, "moved"); // test eax, eax
  code.put(0x93); // xchg eax, ebx
  code.put(0x89, 0xc7); // mov edi, eax
  syscall(code, SYS_CLOSE);
  code.label("moved");

  code.near(LEA_RSI, "bundle");
  code.put(0x41, 0xbd).put32(bundleBytes); // mov r13d, length
  code.label("write");
  code.put(0x89, 0xdf); // mov edi, ebx
  code.put(0x4c, 0x89, 0xea); // mov rdx, r13
  syscall(code, SYS_WRITE);
  code.put(0x48, 0x83, 0xf8, 0xfc).near(JE, "write"); // cmp rax, -EINTR
  code.put(...TEST_RAX).near(JLE, "fail");
  code.put(0x48, 0x01, 0xc6); // add rsi, rax
  code.put(0x49, 0x29, 0xc5).near(JNE, "write"); // sub r13, rax

  code.put(0x89, 0xdf); // mov edi, ebx
  code.put(0xbe).put32(F_ADD_SEALS); // mov esi, F_ADD_SEALS
  code.put(0xba).put32(ALL_SEALS); // mov edx, ALL_SEALS
  syscall(code, SYS_FCNTL);
}

/** r13 = "/proc/self/fd/" and rbx in decimal, on the stack. */
function emitPath(code: Code): void {
  code.put(0x48, 0x83, 0xec, 0x30); // sub rsp, 48
  code.put(0x48, 0x8d, 0x7c, 0x24, 0x2f); // lea rdi, [rsp+47]
  code.put(0xc6, 0x07, 0x00); // mov byte [rdi], 0
  code.put(0x89, 0xd8); // mov eax, ebx
  code.put(0xb9).put32(10); // mov ecx, 10
  code.label("digit");
  code.put(0x31, 0xd2); // xor edx, edx
  code.put(0xf7, 0xf1); // div ecx
  code.put(0x80, 0xc2, 0x30); // add dl, '0'
  code.put(0x48, 0xff, 0xcf); // dec rdi
  code.put(0x88, 0x17); // mov [rdi], dl
  code.put(0x85, 0xc0).near(JNE, "digit"); // test eax, eax
  code.put(0x48, 0x83, 0xef, 0x0e); // sub rdi, 14
  code.put(0x49, 0x89, 0xfd); // mov r13, rdi
  code.put(0x48, 0xb8).text("/proc/se").put(0x48, 0x89, 0x07); // mov [rdi], "/proc/se"
  code.put(0x48, 0xb8).text("self/fd/").put(0x48, 0x89, 0x47, 0x06); // mov [rdi+6], "self/fd/"
}

/** Jumps to `otherwise` where the string at rax does not begin with the five characters `prefix`. */
function emitUnlessPrefix(code: Code, prefix: string, otherwise: string): void {
  if (!/^[\x20-\x7e]{5}$/.test(prefix)) throw new Error(`${prefix} is not of five characters`);
  code.put(0x81, 0x38).text(prefix.slice(0, 4)).near(JNE, otherwise); // cmp [rax], prefix
  code.put(0x80, 0x78, 0x04).text(prefix.slice(4)).near(JNE, otherwise); // cmp byte [rax+4], …
}

/** rsp, rdi = room for the new block, r12 = old argv, rbp = old environment, rbx = HOME=… in it. */
function emitRoom(code: Code, addedPointers: number): void {
  code.put(0x49, 0x8b, 0x0e); // mov rcx, [r14]
  code.put(0x4d, 0x8d, 0x66, 0x08); // lea r12, [r14+8]
  code.put(0x49, 0x8d, 0x6c, 0xcc, 0x08); // lea rbp, [r12+rcx*8+8]
  code.near(LEA_RBX, "no home"); // lea rbx, [no home]
  code.put(0x48, 0x89, 0xee); // mov rsi, rbp
  code.label("skip environment");
  code.put(0x48, 0xad); // lodsq
  code.put(...TEST_RAX).near(JE, "skip auxv");
  emitUnlessPrefix(code, "HOME=", "skip environment");
  code.put(0x48, 0x89, 0xc3).near(JMP, "skip environment"); // mov rbx, rax
  code.label("skip auxv");
  code.put(0x48, 0x8b, 0x06); // mov rax, [rsi]
  code.put(0x48, 0x83, 0xc6, 0x10); // add rsi, 16
  code.put(...TEST_RAX).near(JNE, "skip auxv");
  code.put(0x4c, 0x29, 0xf6); // sub rsi, r14
  code.put(0x48, 0x29, 0xf4); // sub rsp, rsi
  code.put(0x48, 0x81, 0xec).put32(addedPointers * 8 + 16); // sub rsp, added
  code.put(0x48, 0x83, 0xe4, 0xf0); // and rsp, -16
  code.put(0x48, 0x89, 0xe7); // mov rdi, rsp
}

/** Appends pointers to `count` strings, whose offsets from the first byte lie at `table`. */
function emitStrings(code: Code, table: string, count: number): void {
  code.near(LEA_RSI, table);
  code.near(LEA_RDX, "begin");
  code.put(0xb9).put32(count); // mov ecx, count
  code.label(`${table} next`);
  code.put(0xad); // lodsd
  code.put(0x48, 0x01, 0xd0); // add rax, rdx
  code.put(0x48, 0xab); // stosq
  code.put(0xff, 0xc9).near(JNE, `${table} next`); // dec ecx
}

function emitArguments(code: Code, count: number): void {
  code.put(0x48, 0x83, 0xc7, 0x08); // add rdi, 8 (argc comes last)
  emitStrings(code, "argv", count);
  code.put(0x4c, 0x89, 0xe8, 0x48, 0xab); // mov rax, r13; stosq
  code.put(0x48, 0x89, 0xd8, 0x48, 0xab); // mov rax, rbx; stosq
  code.put(0x4c, 0x89, 0xe6); // mov rsi, r12
  code.put(0x48, 0x8b, 0x06); // mov rax, [rsi]
  code.put(...TEST_RAX).near(JE, "argument"); // without even a name
  code.put(0x48, 0x83, 0xc6, 0x08); // add rsi, 8
  code.label("argument");
  code.put(0x48, 0xad, 0x48, 0xab); // lodsq; stosq
  code.put(...TEST_RAX).near(JNE, "argument");
  code.put(0x48, 0x89, 0xf8); // mov rax, rdi
  code.put(0x48, 0x29, 0xe0); // sub rax, rsp
  code.put(0x48, 0xc1, 0xe8, 0x03); // shr rax, 3
  code.put(0x48, 0x83, 0xe8, 0x02); // sub rax, 2
  code.put(0x48, 0x89, 0x04, 0x24); // mov [rsp], rax
}

/**
 * The C library takes its environment from the dynamic linker, not from the block that its start-up
 * code is given, so the variable is set as well.
 */
function emitEnvironment(code: Code, count: number, droppedPrefixes: readonly string[]): void {
  code.put(0x49, 0x89, 0xfc); // mov r12, rdi
  emitStrings(code, "environment", count);
  code.put(0x48, 0x89, 0xee); // mov rsi, rbp
  code.label("variable");
  code.put(0x48, 0xad); // lodsq
  code.put(...TEST_RAX).near(JE, "last variable");
  for (const prefix of droppedPrefixes) {
    emitUnlessPrefix(code, prefix, `not ${prefix}`);
    code.near(JMP, "variable").label(`not ${prefix}`);
  }
  code.put(0x48, 0xab).near(JMP, "variable"); // stosq
  code.label("last variable");
  code.put(0x48, 0xab); // stosq
  code.near(MOV_RAX, "environ slot"); // mov rax, [environ slot]
  code.put(0x4c, 0x89, 0x20); // mov [rax], r12
  code.label("auxv");
  code.put(0x48, 0x8b, 0x06); // mov rax, [rsi]
  code.put(0x48, 0xa5, 0x48, 0xa5); // movsq; movsq
  code.put(...TEST_RAX).near(JNE, "auxv");
}

function emitTables(code: Code, launch: Launch): void {
  const strings = { argv: launch.argv, environment: launch.environment };
  const offsets = new Map<string, number[]>();
  for (const [table, texts] of Object.entries(strings)) {
    offsets.set(
      table,
      texts.map((text) => {
        const at = code.length;
        code.text(text).put(0);
        return at;
      }),
    );
  }
  while (code.length % 4 !== 0) code.put(0);
  for (const [table, list] of offsets) {
    code.label(table);
    for (const offset of list) code.put32(offset);
  }
  code.label("no home").put(0);
  code.label("memfd name").text("vmctl.js").put(0);
  code.label("failure").text(FAILURE);
}

/**
 * Makes the segment that starts `launch`: code, strings, then the bundle.
 *
 * @param launch What to run.
 * @param placement Where the segment goes.
 */
export function makeLauncher(launch: Launch, placement: SegmentPlacement): AddedSegment {
  const code = new Code().label("begin");
  code.put(0xf3, 0x0f, 0x1e, 0xfa); // endbr64
  code.put(0x49, 0x89, 0xd7); // mov r15, rdx (what the runtime is to call at its exit)
  code.put(0x49, 0x89, 0xe6); // mov r14, rsp
  code.put(0xfc); // cld
  emitMemoryFile(code, launch.bundle.length);
  emitPath(code);
  emitRoom(code, launch.argv.length + 2 + launch.environment.length);
  emitArguments(code, launch.argv.length);
  emitEnvironment(code, launch.environment.length, launch.droppedPrefixes);
  code.put(0x4c, 0x89, 0xfa); // mov rdx, r15
  code.near(JMP, "runtime");

  code.label("fail");
  code.put(0xbf).put32(2); // mov edi, 2
  code.near(LEA_RSI, "failure");
  code.put(0xba).put32(FAILURE.length); // mov edx, length
  syscall(code, SYS_WRITE);
  code.put(0xbf).put32(1); // mov edi, 1
  syscall(code, SYS_EXIT_GROUP);

  emitTables(code, launch);
  code.label("bundle");
  code.defineOutside("runtime", placement.originalEntry - placement.address);
  code.defineOutside("environ slot", placement.environSlot - placement.address);
  const head = code.finish();
  const bytes = new Uint8Array(head.length + launch.bundle.length);
  bytes.set(head);
  bytes.set(launch.bundle, head.length);
  return { bytes, entryOffset: 0 };
}
