import assert from "node:assert/strict";
import { Decoder, DecoderOptions, Formatter, FormatterSyntax } from "iced-x86";
import { Assembler, at, type Bits, ref } from "./mod.ts";

/** What the bytes say, by an independent disassembler. */
function disassemble(code: Uint8Array, bits: Bits, origin: number): string[] {
  const decoder = new Decoder(bits, code, DecoderOptions.None);
  decoder.ip = BigInt(origin);
  const formatter = new Formatter(FormatterSyntax.Nasm);
  const lines: string[] = [];
  while (decoder.canDecode) {
    const instruction = decoder.decode();
    lines.push(formatter.format(instruction));
    instruction.free();
  }
  formatter.free();
  decoder.free();
  return lines;
}

function check(bits: Bits, build: (a: Assembler) => void, expected: readonly string[]): void {
  const assembler = new Assembler(0x1000, bits);
  build(assembler);
  assert.deepEqual(disassemble(assembler.assemble(), bits, 0x1000), expected);
}

Deno.test("assembler: moves in 64-bit code", () => {
  check(
    64,
    (a) => {
      a.mov("rax", 1).mov("rax", 0x1122334455667788n).mov("r15d", 0x80000000).mov("bpl", 3);
      a.mov("ah", 4).mov("rax", at("r13")).mov(at("rsp", { disp: 8 }), "r9");
      a.mov(at("rbx", { index: "r12", scale: 8, disp: -4, size: 4 }), 7);
      a.mov("ecx", at("rip", { disp: ref("end") })).mov("al", at(0x1234)).mov(at("rbp"), "dx");
      a.mov("ds", "ax").mov("rcx", "fs").mov("cr8", "rax").mov("rbx", "cr3").mov("dr7", "r9");
      a.mov("rdi", ref("end")).movzx("eax", "bl").movsx("rax", at("rsi", { size: 2 }));
      a.mov("r8", at(0, { segment: "gs" })).label("end");
    },
    [
      "mov rax,1",
      "mov rax,1122334455667788h",
      "mov r15d,80000000h",
      "mov bpl,3",
      "mov ah,4",
      "mov rax,[r13]",
      "mov [rsp+8],r9",
      "mov dword [rbx+r12*8-4],7",
      "mov ecx,[rel 1069h]",
      "mov al,[1234h]",
      "mov [rbp],dx",
      "mov ds,eax",
      "mov rcx,fs",
      "mov cr8,rax",
      "mov rbx,cr3",
      "mov dr7,r9",
      "mov rdi,1069h",
      "movzx eax,bl",
      "movsx rax,word [rsi]",
      "mov r8,[gs:0]",
    ].map((line) => line),
  );
});

Deno.test("assembler: arithmetic, stack and system instructions in 64-bit code", () => {
  check(64, (a) => {
    a.add("rax", 1).sub("ecx", 0x1000).cmp(at("rdi", { size: 1 }), 5).xor("r8d", "r9d");
    a.and("sil", 0x7f).or(at("r10"), "rax").test("al", 1).inc("ebx").dec("r11");
    a.unary("neg", "rdx").unary("div", "cl").shl("rax", 4).shr("edx", "cl");
    a.push("r12").push(0x55).pop("rbp").pushf().popf().xchg("rax", "rbx");
    a.lock().cmpxchg(at("rdi"), "rcx").lock().xadd(at("rdi"), "edx");
    a.op("cpuid").op("wrmsr").op("swapgs").op("syscall").sysret().sysret(4).iret().int(0x80);
    a.table("lidt", at("rax")).selector("ltr", "ax").invlpg(at("rbx")).lea(
      "rax",
      at("rbx", { disp: 512 }),
    );
    a.rep().string("movs", 8).rep().outs(1).in("al", 0x60).out("dx", "eax").retf(8).ret(8);
    a.jmpFarIndirect(at("rax"), 8).call("rax").jmp(at("rbx")).movups("xmm1", at("rax"));
  }, [
    "add rax,1",
    "sub ecx,1000h",
    "cmp byte [rdi],5",
    "xor r8d,r9d",
    "and sil,7Fh",
    "or [r10],rax",
    "test al,1",
    "inc ebx",
    "dec r11",
    "neg rdx",
    "div cl",
    "shl rax,4",
    "shr edx,cl",
    "push r12",
    "push 55h",
    "pop rbp",
    "pushf",
    "popf",
    "xchg rbx,rax",
    "lock cmpxchg [rdi],rcx",
    "lock xadd [rdi],edx",
    "cpuid",
    "wrmsr",
    "swapgs",
    "syscall",
    "o64 sysret",
    "sysret",
    "iretq",
    "int 80h",
    "lidt [rax]",
    "ltr ax",
    "invlpg [rbx]",
    "lea rax,[rbx+200h]",
    "rep movsq",
    "rep outsb",
    "in al,60h",
    "out dx,eax",
    "retfq",
    "ret 8",
    "jmp far [rax]",
    "call rax",
    "jmp qword [rbx]",
    "movups xmm1,[rax]",
  ]);
});

Deno.test("assembler: 16-bit and 32-bit code", () => {
  check(16, (a) => {
    a.mov("ax", 0x1234).mov("eax", 0x12345678).mov(at("bx", { index: "si", disp: 4 }), "al");
    a.mov("dx", at("bp")).mov("cx", at(0x500)).mov("edx", at("ebx", { disp: 16 }));
    a.jmpFar(0, ref("end")).jmpFar(8, ref("end"), 4).push("ds").pop("es").rep().ins(2);
    a.mov("cr0", "eax").out(0xe8, "eax").loop("end").jcc("ne", "end").label("end");
  }, [
    "mov ax,1234h",
    "mov eax,12345678h",
    "mov [bx+si+4],al",
    "mov dx,[bp]",
    "mov cx,[500h]",
    "mov edx,[ebx+10h]",
    "jmp 0:1037h",
    "jmp dword 8:00001037h",
    "push ds",
    "pop es",
    "rep insw",
    "mov cr0,eax",
    "out 0E8h,eax",
    "loop 1037h",
    "jne near 1037h",
  ]);
  check(32, (a) => {
    a.mov("ax", 1).mov("eax", at(0x12345678)).mov("ebx", at("esp", { disp: 300 }));
    a.jmpFar(16, 0x9000).iret().pushf().push("gs").int(3).retf().lmsw("ax").smsw("eax");
    a.jmpFarIndirect(at("eax"), 4).test(at("ecx", { size: 4 }), 1).setcc("b", "dl");
  }, [
    "mov ax,1",
    "mov eax,[12345678h]",
    "mov ebx,[esp+12Ch]",
    "jmp 0010h:00009000h",
    "iret",
    "pushf",
    "push gs",
    "int 3",
    "retf",
    "lmsw ax",
    "smsw eax",
    "jmp far [eax]",
    "test dword [ecx],1",
    "setb dl",
  ]);
});

Deno.test("assembler: labels, alignment and errors", () => {
  const a = new Assembler(0x2000, 64);
  a.label("start").op("nop").align(16, 0x90).label("data").dq(ref("start"), -1n).dd(ref("data", 4));
  const code = a.assemble();
  assert.equal(a.addressOf("data"), 0x2010);
  const view = new DataView(code.buffer);
  assert.equal(view.getBigUint64(16, true), 0x2000n);
  assert.equal(view.getBigUint64(24, true), 0xffff_ffff_ffff_ffffn);
  assert.equal(view.getUint32(32, true), 0x2014);
  assert.throws(() => a.label("data"), /there already/);
  assert.throws(() => new Assembler(0, 64).jmp("nowhere").assemble(), /no label nowhere/);
  assert.throws(() => new Assembler(0, 32).mov("r8", 1), /needs 64-bit code/);
  const far = new Assembler(0, 64).jmpShort("end").org(0x200).label("end");
  assert.throws(() => far.assemble(), /out of reach/);
});
