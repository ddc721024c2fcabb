/**
 * Guests of a few bytes: ELF files with a 64-bit entry (long mode, identity-mapped, as the Linux boot
 * protocol hands a vmlinux over), which do one thing each. They start in milliseconds on any engine.
 *
 * @module
 */

const LOAD_ADDRESS = 0x10_0000;
const ELF_HEADER_SIZE = 64;
const PROGRAM_HEADER_SIZE = 56;
const CODE_OFFSET = 0x1000;

const COM1 = 0x3f8;
const FCR = COM1 + 2;
const LSR = COM1 + 5;
const MCR = COM1 + 4;
const PANIC_PORT = 0x505;
const PM1A_STATUS = 0x600;
const PM1A_CONTROL = 0x604;
/** SLP_EN with the SLP_TYP of S5. */
const SOFT_OFF = 1 << 13 | 5 << 10;

/** Where {@link tinyKernels.rewrite} has the pages that it rewrites. */
const REWRITTEN = 16 << 20;
/** `lea eax, [rax + 2 rax + 1]` and `xor ecx, eax`, some times. */
const REWRITTEN_WORK = Array.from({ length: 16 }, () => [0x8d, 0x44, 0x40, 1, 0x31, 0xc1]).flat();

/** Byte that ends the input of {@link tinyKernels.echo} and {@link tinyKernels.checksum}. */
export const END_OF_INPUT = 0x04;

/** A place in the code that jumps refer to. */
type Label = string;

/** Puts machine code together: the few instructions that the guests need, jumps with 32-bit distance. */
export class Code {
  readonly #bytes: number[] = [];
  readonly #labels = new Map<Label, number>();
  readonly #fixups: { readonly at: number; readonly label: Label; readonly absolute: boolean }[] =
    [];
  #unique = 0;

  /** Raw bytes. */
  raw(...bytes: number[]): this {
    this.#bytes.push(...bytes);
    return this;
  }

  /** Names the current place. */
  label(name: Label): this {
    this.#labels.set(name, this.#bytes.length);
    return this;
  }

  /** A name that no other label has. */
  fresh(): Label {
    return `.${this.#unique++}`;
  }

  /** JMP. */
  jump(label: Label): this {
    return this.raw(0xe9).#relative(label);
  }

  /** JZ. */
  jumpIfZero(label: Label): this {
    return this.raw(0x0f, 0x84).#relative(label);
  }

  /** JNZ. */
  jumpIfNotZero(label: Label): this {
    return this.raw(0x0f, 0x85).#relative(label);
  }

  /** CALL; there is a stack as the boot protocol gives one. */
  call(label: Label): this {
    return this.raw(0xe8).#relative(label);
  }

  /** RET. */
  ret(): this {
    return this.raw(0xc3);
  }

  /** MOV DX, port; OUT DX, AL. */
  outAl(port: number): this {
    return this.dx(port).raw(0xee);
  }

  /** MOV DX, port; IN AL, DX. */
  inAl(port: number): this {
    return this.dx(port).raw(0xec);
  }

  /** MOV DX, port. */
  dx(port: number): this {
    return this.raw(0x66, 0xba, port & 0xff, port >> 8);
  }

  /** MOV AL, value. */
  al(value: number): this {
    return this.raw(0xb0, value);
  }

  /** MOV byte to a port. */
  outByte(port: number, value: number): this {
    return this.al(value).outAl(port);
  }

  /** MOV 16 bits to a port. */
  outWord(port: number, value: number): this {
    return this.raw(0x66, 0xb8, value & 0xff, value >> 8).dx(port).raw(0x66, 0xef);
  }

  /** MOV 32 bits to a port. */
  outDword(port: number, value: number): this {
    return this.raw(0xb8).#u32(value).dx(port).raw(0xef);
  }

  /** MOV EAX from a port. */
  inDword(port: number): this {
    return this.dx(port).raw(0xed);
  }

  /** Names a register of PCI device 1 to the configuration ports. */
  pciRegister(offset: number): this {
    return this.outDword(0xcf8, (0x8000_0800 | offset) >>> 0);
  }

  /** MOV ECX, value. */
  ecx(value: number): this {
    return this.raw(0xb9).#u32(value);
  }

  /** MOV EBX, value. */
  ebx(value: number): this {
    return this.raw(0xbb).#u32(value);
  }

  /** MOV EBP, value. */
  ebp(value: number): this {
    return this.raw(0xbd).#u32(value);
  }

  /** MOV R13D, value. */
  r13d(value: number): this {
    return this.raw(0x41, 0xbd).#u32(value);
  }

  /** Copies the code between two labels to where RBX points. */
  copy(begin: Label, end: Label): this {
    return this.raw(0x48, 0xbe).#absolute(begin).raw(0x48, 0xb9).#absolute(end)
      .raw(0x48, 0x29, 0xf1, 0x48, 0x89, 0xdf, 0xf3, 0xa4); // sub rcx, rsi; mov rdi, rbx; rep movsb
  }

  /** Writes `text` to COM1, byte by byte. */
  print(text: string): this {
    const [data, loop, done] = [this.fresh(), this.fresh(), this.fresh()];
    this.raw(0x48, 0xbe).#absolute(data); // mov rsi, data
    this.dx(COM1).label(loop);
    this.raw(0xac, 0x84, 0xc0).jumpIfZero(done); // lodsb; test al, al
    this.raw(0xee).jump(loop);
    this.label(data).raw(...new TextEncoder().encode(text), 0);
    return this.label(done);
  }

  /** Waits for a byte from COM1 and takes it into AL. */
  readByte(): this {
    const wait = this.fresh();
    return this.label(wait).inAl(LSR).raw(0xa8, 1).jumpIfZero(wait).inAl(COM1);
  }

  /** Turns the FIFOs on and raises DTR and RTS: ready to receive. */
  readyToReceive(): this {
    return this.outByte(FCR, 7).outByte(MCR, 3);
  }

  /** Soft off through ACPI. */
  powerOff(): this {
    return this.outWord(PM1A_CONTROL, SOFT_OFF).forever();
  }

  /** Sleeps for good. */
  forever(): this {
    const loop = this.fresh();
    return this.label(loop).raw(0xf4).jump(loop);
  }

  /** The code, placed at `LOAD_ADDRESS`. */
  finish(): Uint8Array {
    const bytes = Uint8Array.from(this.#bytes);
    const view = new DataView(bytes.buffer);
    for (const { at, label, absolute } of this.#fixups) {
      const target = this.#labels.get(label);
      if (target === undefined) throw new Error(`no label ${label}`);
      if (absolute) view.setBigUint64(at, BigInt(LOAD_ADDRESS + target), true);
      else view.setInt32(at, target - (at + 4), true);
    }
    return bytes;
  }

  #relative(label: Label): this {
    this.#fixups.push({ at: this.#bytes.length, label, absolute: false });
    return this.#u32(0);
  }

  #absolute(label: Label): this {
    this.#fixups.push({ at: this.#bytes.length, label, absolute: true });
    return this.#u32(0).#u32(0);
  }

  #u32(value: number): this {
    return this.raw(value & 0xff, value >> 8 & 0xff, value >> 16 & 0xff, value >>> 24);
  }
}

/** An ELF file that holds `code` and begins with it. */
export function elf(code: Uint8Array): Uint8Array {
  const file = new Uint8Array(CODE_OFFSET + code.length);
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true); // ET_EXEC
  view.setUint16(18, 62, true); // EM_X86_64
  view.setUint32(20, 1, true);
  view.setBigUint64(24, BigInt(LOAD_ADDRESS), true);
  view.setBigUint64(32, BigInt(ELF_HEADER_SIZE), true);
  view.setUint16(52, ELF_HEADER_SIZE, true);
  view.setUint16(54, PROGRAM_HEADER_SIZE, true);
  view.setUint16(56, 1, true);
  const header = ELF_HEADER_SIZE;
  view.setUint32(header, 1, true); // PT_LOAD
  view.setUint32(header + 4, 7, true); // RWX
  view.setBigUint64(header + 8, BigInt(CODE_OFFSET), true);
  view.setBigUint64(header + 16, BigInt(LOAD_ADDRESS), true);
  view.setBigUint64(header + 24, BigInt(LOAD_ADDRESS), true);
  view.setBigUint64(header + 32, BigInt(code.length), true);
  view.setBigUint64(header + 40, BigInt(code.length), true);
  view.setBigUint64(header + 48, 0x1000n, true);
  file.set(code, CODE_OFFSET);
  return file;
}

/** The guests, each a function that returns an ELF file. */
export const tinyKernels = {
  /** Prints `text` and powers off. */
  hello: (text = "hello\n") => elf(new Code().print(text).powerOff().finish()),

  /** Powers off at once. */
  off: () => elf(new Code().powerOff().finish()),

  /** Prints and resets through the ACPI reset register. */
  reset: () => elf(new Code().print("reset\n").outByte(0xcf9, 6).forever().finish()),

  /** Prints and resets through the keyboard controller. */
  keyboardReset: () => elf(new Code().print("reset\n").outByte(0x64, 0xfe).forever().finish()),

  /** Prints and takes a triple fault: an empty interrupt table, then an invalid instruction. */
  tripleFault: () =>
    elf(
      new Code().print("fault\n")
        // push 0; push 0; lidt [rsp]; ud2
        .raw(0x6a, 0, 0x6a, 0, 0x0f, 0x01, 0x1c, 0x24, 0x0f, 0x0b).finish(),
    ),

  /** Prints and reports a panic to the panic device. */
  panic: () => elf(new Code().print("panic\n").outByte(PANIC_PORT, 1).forever().finish()),

  /** Executes INT3, which some emulating KVMs cannot. */
  breakpoint: () => elf(new Code().print("int3\n").raw(0xcc).forever().finish()),

  /** Prints `ready`, then runs without ever leaving the processor. */
  spin: () => elf(new Code().print("ready\n").label("spin").jump("spin").finish()),

  /** Prints `ready`, then sleeps with nothing to wake it. */
  sleep: () => elf(new Code().print("ready\n").forever().finish()),

  /** Prints `ready`, then ticks: a dot after each `turns` turns of a loop. */
  ticks: (turns = 10_000) =>
    elf(
      new Code().print("ready\n").label("again").ecx(turns).label("wait")
        .raw(0xff, 0xc9).jumpIfNotZero("wait") // dec ecx
        .outByte(COM1, 0x2e).jump("again").finish(),
    ),

  /**
   * Prints `ready`, then rewrites and runs the code in `pages` pages again and again; a dot after each
   * `turns` times that a page was.
   */
  rewrite: ({ pages, turns }: { pages: number; turns: number }) =>
    elf(
      new Code().print("ready\n")
        .raw(0x45, 0x31, 0xe4) // xor r12d, r12d
        .label("dot").ebp(turns)
        .label("round").ebx(REWRITTEN).r13d(pages)
        .label("page").copy("begin", "end")
        // add [rbx + 6], r12d; inc r12d; call rbx
        .raw(0x44, 0x01, 0x63, 0x06, 0x41, 0xff, 0xc4, 0xff, 0xd3)
        .raw(0x81, 0xc3, 0, 0x10, 0, 0) // add ebx, 4096
        .raw(0xff, 0xcd).jumpIfZero("print") // dec ebp
        .label("on").raw(0x41, 0xff, 0xcd).jumpIfNotZero("page").jump("round") // dec r13d
        .label("print").outByte(COM1, 0x2e).ebp(turns).jump("on")
        // What is copied: twenty times mov eax, a number; some work.
        .label("begin").raw(0xba, 20, 0, 0, 0, 0xb8, 0, 0, 0, 0)
        .raw(...REWRITTEN_WORK, 0xff, 0xca, 0x75, 0x100 - REWRITTEN_WORK.length - 9, 0xc3)
        .label("end").finish(),
    ),

  /** Prints without end. */
  flood: () =>
    elf(
      new Code().label("again").print("0123456789abcdef0123456789abcdef0123456789abcdef\n")
        .jump("again").finish(),
    ),

  /** Prints `lines` numbered-by-nothing lines, then powers off. */
  lines: (lines: number) =>
    elf(
      new Code().raw(0x41, 0xbc, lines & 0xff, lines >> 8 & 0xff, lines >> 16 & 0xff, lines >>> 24)
        .label("again").print("0123456789abcde\n")
        .raw(0x41, 0xff, 0xcc).jumpIfNotZero("again") // dec r12d
        .powerOff().finish(),
    ),

  /** Prints `ready`, then sends each byte back until {@link END_OF_INPUT}, then powers off. */
  echo: () =>
    elf(
      new Code().readyToReceive().print("ready\n").label("again").readByte()
        .raw(0x3c, END_OF_INPUT).jumpIfZero("end") // cmp al, imm8
        .outAl(COM1).jump("again").label("end").print("\nbye\n").powerOff().finish(),
    ),

  /**
   * Prints `ready`, takes bytes until {@link END_OF_INPUT}, then prints their count and their checksum
   * (`c = rotl(c, 1) + byte`, 32 bits), both as 8 hexadecimal digits, and powers off.
   */
  checksum: () =>
    elf(
      new Code().readyToReceive().print("ready\n")
        .raw(0x45, 0x31, 0xe4, 0x45, 0x31, 0xed) // xor r12d, r12d; xor r13d, r13d
        .label("again").readByte()
        .raw(0x3c, END_OF_INPUT).jumpIfZero("end")
        .raw(0x0f, 0xb6, 0xc0) // movzx eax, al
        .raw(0x41, 0xd1, 0xc5) // rol r13d, 1
        .raw(0x41, 0x01, 0xc5) // add r13d, eax
        .raw(0x41, 0xff, 0xc4).jump("again") // inc r12d
        .label("end")
        .raw(0x45, 0x89, 0xe6).call("hex").print(" ") // mov r14d, r12d
        .raw(0x45, 0x89, 0xee).call("hex").print("\n") // mov r14d, r13d
        .powerOff()
        // Prints r14d: eight times rotate left by 4, low nibble as a digit.
        .label("hex").ecx(8).label("digit")
        .raw(0x41, 0xc1, 0xc6, 4, 0x44, 0x89, 0xf0) // rol r14d, 4; mov eax, r14d
        .raw(0x24, 0x0f, 0x04, 0x30, 0x3c, 0x3a) // and al, 15; add al, '0'; cmp al, '9' + 1
        .raw(0x72, 0x02, 0x04, 0x27) // jb +2; add al, 39
        .outAl(COM1).raw(0xff, 0xc9).jumpIfNotZero("digit").ret().finish(),
    ),

  /**
   * Prints `begun`, asks PCI device 1, a virtio device, for the upper half of its features, prints
   * whether it is one of virtio 1, and powers off. It goes by the configuration (virtio 1.2, 4.1.4.9).
   */
  virtioFeatures: () =>
    elf(
      new Code().print("begun\n")
        .pciRegister(0x04).outDword(0xcfc, 6)
        // device_feature_select, of 4 bytes at 0 of BAR 0, shall be 1.
        .pciRegister(0x98).outDword(0xcfc, 0)
        .pciRegister(0x9c).outDword(0xcfc, 0)
        .pciRegister(0xa0).outDword(0xcfc, 4)
        .pciRegister(0xa4).outDword(0xcfc, 1)
        // device_feature, at 4: VERSION_1 is bit 32.
        .pciRegister(0x9c).outDword(0xcfc, 4)
        .pciRegister(0xa4).inDword(0xcfc)
        .raw(0xa8, 1).jumpIfZero("none") // test al, 1
        .print("virtio 1\n").powerOff()
        .label("none").print("nothing\n").powerOff().finish(),
    ),

  /** Prints `ready`, waits for the power button, prints `button` and powers off. */
  powerButton: () =>
    elf(
      new Code().print("ready\n").label("wait").dx(PM1A_STATUS).raw(0x66, 0xed) // in ax, dx
        .raw(0xf6, 0xc4, 1).jumpIfZero("wait") // test ah, 1 (PWRBTN_STS)
        .print("button\n").powerOff().finish(),
    ),
} as const;

/** What {@link tinyKernels.checksum} prints for `bytes`. */
export function checksumLine(bytes: Uint8Array): string {
  let sum = 0;
  for (const byte of bytes) sum = ((sum << 1 | sum >>> 31) + byte) >>> 0;
  const digits = (value: number) => value.toString(16).padStart(8, "0");
  return `${digits(bytes.length)} ${digits(sum)}`;
}
