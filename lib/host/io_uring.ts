/**
 * File transfers that go on beside the thread that asked for them: io_uring(7).
 *
 * The ring does nothing but read, write and make durable; the kernel refuses everything else before
 * anything can be asked. So a seccomp filter that lets a process use it gives it no other calls.
 *
 * @module
 */

import { Errno, HostError } from "./errno.ts";
import { Fd, type FdLike, rawFd } from "./fd.ts";
import { bindLibc, lastErrno } from "./libc.ts";
import { type Mapping, mmap } from "./mapping.ts";
import { IoVector } from "./vector.ts";

// Safe: the kernel reads and writes the parameters' 120 bytes.
const libcSetup = bindLibc({
  syscall: { parameters: ["i64", "u64", "buffer"], result: "i32" },
});
// Safe: the kernel reads 16 bytes for each of the restrictions.
const libc = bindLibc({
  syscall: { parameters: ["i64", "u64", "u64", "buffer", "u64"], result: "i32" },
});
// Safe: numbers only; what the ring's entries point at are the lists of vectors, which are kept here
// until the kernel is done with them.
const libcEnter = bindLibc({
  syscall: { parameters: ["i32", "i32", "u32", "u32", "u32", "usize", "usize"], result: "i32" },
});

const SYS_IO_URING_SETUP = 425n;
const SYS_IO_URING_ENTER = 426;
const SYS_IO_URING_REGISTER = 427n;
const SYS_REGISTER = 427;

const PARAMS_BYTES = 120;
const SETUP_R_DISABLED = 1 << 6;
const FEAT_SINGLE_MMAP = 1;
const FEAT_NODROP = 2;
const OFF_SQES = 0x1000_0000;
const ENTER_GETEVENTS = 1;

const REGISTER_RESTRICTIONS = 11n;
const REGISTER_ENABLE_RINGS = 12;
const RESTRICTION_BYTES = 16;
const RESTRICTION_SQE_OP = 1;

const Operation = { Readv: 1, Writev: 2, Fsync: 3 } as const;
const FSYNC_DATASYNC = 1;
const SQE_BYTES = 64;
const CQE_BYTES = 16;
const TWO_32 = 2 ** 32;

/** A ring of transfers. */
export class IoUring implements Disposable {
  /** Transfers that can be under way at once. */
  readonly capacity: number;
  readonly #fd: Fd;
  readonly #ring: Mapping;
  readonly #entries: Mapping;
  readonly #words: Int32Array;
  readonly #sqes: DataView;
  readonly #vectors: (IoVector | undefined)[];
  readonly #sqTail: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqes: number;
  readonly #sqMask: number;
  readonly #cqMask: number;
  #queued = 0;
  #underWay = 0;

  /**
   * @param capacity a power of two
   * @throws {HostError} ENOSYS, EPERM and the like where this host or a jail has none.
   */
  constructor(capacity: number) {
    this.capacity = capacity;
    this.#vectors = new Array<IoVector | undefined>(capacity).fill(undefined);
    const params = new DataView(new ArrayBuffer(PARAMS_BYTES));
    params.setUint32(8, SETUP_R_DISABLED, true);
    using fd = Fd.adopt(checked(
      libcSetup().syscall(SYS_IO_URING_SETUP, BigInt(capacity), params),
      "io_uring_setup",
    ));
    const field = (at: number) => params.getUint32(at, true);
    const needed = FEAT_SINGLE_MMAP | FEAT_NODROP;
    if ((field(20) & needed) !== needed) throw new HostError("io_uring_setup", Errno.ENOSYS);
    restrict(fd);
    const [sqEntries, cqEntries] = [field(0), field(4)];
    // struct io_sqring_offsets and io_cqring_offsets.
    const sq = { tail: field(44), mask: field(48), array: field(64) };
    const cq = { head: field(80), tail: field(84), mask: field(88), cqes: field(100) };
    const ringBytes = Math.max(sq.array + sqEntries * 4, cq.cqes + cqEntries * CQE_BYTES);
    this.#ring = mmap(ringBytes, { fd });
    this.#entries = mmap(sqEntries * SQE_BYTES, { fd, offset: OFF_SQES });
    this.#words = new Int32Array(this.#ring.buffer, 0, Math.floor(ringBytes / 4));
    this.#sqes = this.#entries.view;
    this.#sqTail = sq.tail / 4;
    this.#cqHead = cq.head / 4;
    this.#cqTail = cq.tail / 4;
    this.#cqes = cq.cqes / 4;
    this.#sqMask = this.#words[sq.mask / 4]!;
    this.#cqMask = this.#words[cq.mask / 4]!;
    for (let index = 0; index < sqEntries; index++) this.#words[sq.array / 4 + index] = index;
    this.#fd = Fd.adopt(fd.take());
  }

  /** Readable where {@link complete} has something. */
  get fd(): Fd {
    return this.#fd;
  }

  /** Transfers that are not completed, those that wait for {@link submit} included. */
  get underWay(): number {
    return this.#underWay;
  }

  /**
   * Reads into the pieces of `vector`, which is not to be changed before it is completed.
   *
   * @param token from 0 to `capacity - 1`, none that is under way
   */
  read(fd: FdLike, vector: IoVector, { offset, token }: { offset: number; token: number }): void {
    this.#vector(Operation.Readv, rawFd(fd), vector, offset, token);
  }

  /** Writes the pieces of `vector`; as {@link read}. */
  write(fd: FdLike, vector: IoVector, { offset, token }: { offset: number; token: number }): void {
    this.#vector(Operation.Writev, rawFd(fd), vector, offset, token);
  }

  /** Makes durable what was written to `fd` before, as fdatasync(2). */
  sync(fd: FdLike, token: number): void {
    const at = this.#next(Operation.Fsync, rawFd(fd), token);
    this.#sqes.setUint32(at + 28, FSYNC_DATASYNC, true);
  }

  /** Starts what was asked for since the last call. */
  submit(): void {
    this.#enter(0);
  }

  /**
   * Takes the next transfer that is done.
   *
   * @returns its token, -1 where there is none; {@link result} has its result
   */
  complete(): number {
    const words = this.#words;
    const head = words[this.#cqHead]!;
    if (head === Atomics.load(words, this.#cqTail)) return -1;
    const at = this.#cqes + (head & this.#cqMask) * (CQE_BYTES / 4);
    const token = words[at]!;
    this.result = words[at + 2]!;
    Atomics.store(words, this.#cqHead, head + 1 | 0);
    this.#vectors[token] = undefined;
    this.#underWay--;
    return token;
  }

  /** Of the last completed transfer: bytes, or a negated error number. */
  result = 0;

  /** Waits until at least one transfer can be completed. */
  wait(): void {
    if (this.#words[this.#cqHead] === Atomics.load(this.#words, this.#cqTail)) this.#enter(1);
  }

  /** Waits until nothing is under way. What was to be read into stays untouched afterwards. */
  [Symbol.dispose](): void {
    if (this.#fd.closed) return;
    while (this.#underWay > 0) {
      this.wait();
      while (this.complete() >= 0);
    }
    this.#entries[Symbol.dispose]();
    this.#ring[Symbol.dispose]();
    this.#fd.close();
  }

  #vector(operation: number, fd: number, vector: IoVector, offset: number, token: number): void {
    const at = this.#next(operation, fd, token);
    const sqes = this.#sqes;
    sqes.setUint32(at + 8, offset % TWO_32, true);
    sqes.setUint32(at + 12, offset / TWO_32, true);
    const { address } = vector;
    sqes.setUint32(at + 16, address % TWO_32, true);
    sqes.setUint32(at + 20, address / TWO_32, true);
    sqes.setUint32(at + 24, vector.count, true);
    this.#vectors[token] = vector;
  }

  /** A new entry, all zeros but the operation. The kernel has taken all that were submitted. */
  #next(operation: number, fd: number, token: number): number {
    const words = this.#words;
    const tail = words[this.#sqTail]!;
    const at = (tail & this.#sqMask) * SQE_BYTES;
    const sqes = this.#sqes;
    for (let word = 0; word < SQE_BYTES; word += 8) {
      sqes.setUint32(at + word, 0, true);
      sqes.setUint32(at + word + 4, 0, true);
    }
    sqes.setUint8(at, operation);
    sqes.setInt32(at + 4, fd, true);
    sqes.setUint32(at + 32, token, true);
    Atomics.store(words, this.#sqTail, tail + 1 | 0);
    this.#queued++;
    this.#underWay++;
    return at;
  }

  #enter(minimum: number): void {
    while (this.#queued > 0 || minimum > 0) {
      const flags = minimum > 0 ? ENTER_GETEVENTS : 0;
      const count = libcEnter().syscall(
        SYS_IO_URING_ENTER,
        this.#fd.raw,
        this.#queued,
        minimum,
        flags,
        0n,
        0n,
      );
      if (count >= 0) {
        this.#queued -= count;
        if (this.#queued === 0) return;
        continue;
      }
      const errno = lastErrno();
      // EAGAIN: no memory for requests right now; those that are under way give some back.
      if (errno !== Errno.EINTR && errno !== Errno.EAGAIN && errno !== Errno.EBUSY) {
        throw new HostError("io_uring_enter", errno);
      }
    }
  }
}

/** Lets the ring do its three operations and nothing else, and enables it. */
function restrict(fd: Fd): void {
  const operations = Object.values(Operation);
  const table = new DataView(new ArrayBuffer(operations.length * RESTRICTION_BYTES));
  operations.forEach((operation, index) => {
    table.setUint16(index * RESTRICTION_BYTES, RESTRICTION_SQE_OP, true);
    table.setUint8(index * RESTRICTION_BYTES + 2, operation);
  });
  checked(
    libc().syscall(
      SYS_IO_URING_REGISTER,
      BigInt(fd.raw),
      REGISTER_RESTRICTIONS,
      table,
      BigInt(operations.length),
    ),
    "io_uring_register",
  );
  checked(
    libcEnter().syscall(SYS_REGISTER, fd.raw, REGISTER_ENABLE_RINGS, 0, 0, 0n, 0n),
    "io_uring_register",
  );
}

function checked(result: number, call: string): number {
  if (result >= 0) return result;
  throw new HostError(call, lastErrno());
}
