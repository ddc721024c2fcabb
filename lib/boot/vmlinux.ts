import { isBzImage, parseBzImage } from "./bzimage.ts";
import { isElf } from "./elf.ts";
import { BootError } from "./errors.ts";
import { type BootImage, ImageReader } from "./image.ts";
import { canUnpack, detectPayload, unpackPayload } from "./payload.ts";

const MAX_KERNEL_BYTES = 1024 * 1024 * 1024;

/**
 * The ELF vmlinux inside of a bzImage, for programs that only boot such.
 * @throws {BootError} when `kernel` is no bzImage, or packed in a way that only a guest unpacks.
 */
export function extractVmlinux(kernel: BootImage): Uint8Array {
  using reader = new ImageReader(kernel);
  const { name } = reader;
  const bytes = reader.readAll(MAX_KERNEL_BYTES);
  if (isElf(bytes)) return bytes.slice();
  if (!isBzImage(bytes)) throw new BootError(`${name}: expected a bzImage, found something else`);
  const { payload } = parseBzImage(bytes, name);
  const format = detectPayload(payload);
  if (!canUnpack(format)) {
    throw new BootError(`${name}: expected a payload in gzip, lz4 or zstd, found ${format}`);
  }
  return unpackPayload(payload, { format, name });
}
