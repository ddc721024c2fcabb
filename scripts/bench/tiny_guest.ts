/**
 * A guest that prints one character and halts: what stands between a start and the first instruction
 * is all the machine's own.
 *
 * @module
 */

const LOAD_ADDRESS = 0x10_0000;
const CODE_OFFSET = 0x1000;
const NOTE_OFFSET = 0xb0;
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

/** The character. */
export const TINY_MARKER = "!";

/** The same in 32-bit mode, where the PVH entry begins, and in 64-bit mode. */
const CODE = [
  [0x66, 0xba, 0xf8, 0x03], // mov dx, 0x3f8
  [0xb0, TINY_MARKER.charCodeAt(0)], // mov al, '!'
  [0xee], // out dx, al
  [0xf4], // hlt
  [0xeb, 0xfd], // jmp to the hlt
].flat();

/** An ELF file with a PVH note (as QEMU's microvm wants) and an ordinary entry at the same place. */
export function tinyGuest(): Uint8Array {
  const file = new Uint8Array(CODE_OFFSET + CODE.length);
  const data = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  data.setUint16(16, 2, true); // ET_EXEC
  data.setUint16(18, 62, true); // EM_X86_64
  data.setUint32(20, 1, true);
  data.setBigUint64(24, BigInt(LOAD_ADDRESS), true);
  data.setBigUint64(32, 64n, true);
  data.setUint16(52, 64, true);
  data.setUint16(54, 56, true);
  data.setUint16(56, 2, true);

  data.setUint32(64, 1, true); // PT_LOAD
  data.setUint32(68, 7, true); // readable, writable, executable
  data.setBigUint64(72, BigInt(CODE_OFFSET), true);
  data.setBigUint64(80, BigInt(LOAD_ADDRESS), true);
  data.setBigUint64(88, BigInt(LOAD_ADDRESS), true);
  data.setBigUint64(96, BigInt(CODE.length), true);
  data.setBigUint64(104, BigInt(CODE.length), true);
  data.setBigUint64(112, 0x1000n, true);

  const noteBytes = 20;
  data.setUint32(120, 4, true); // PT_NOTE
  data.setUint32(124, 4, true);
  data.setBigUint64(128, BigInt(NOTE_OFFSET), true);
  data.setBigUint64(152, BigInt(noteBytes), true);
  data.setBigUint64(160, BigInt(noteBytes), true);
  data.setBigUint64(168, 4n, true);
  data.setUint32(NOTE_OFFSET, 4, true);
  data.setUint32(NOTE_OFFSET + 4, 4, true);
  data.setUint32(NOTE_OFFSET + 8, XEN_ELFNOTE_PHYS32_ENTRY, true);
  file.set(new TextEncoder().encode("Xen\0"), NOTE_OFFSET + 12);
  data.setUint32(NOTE_OFFSET + 16, LOAD_ADDRESS, true);

  file.set(CODE, CODE_OFFSET);
  return file;
}
