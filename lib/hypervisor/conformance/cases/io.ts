/**
 * Port and memory accesses that leave the guest.
 *
 * @module
 */

import assert from "node:assert/strict";
import { at } from "../asm/mod.ts";
import type { GuestTest } from "../guest_case.ts";
import { DATA, FREE, Port } from "../layout.ts";
import type { Access } from "../recording_io.ts";
import { result } from "../tables.ts";

const PORT = 0x520;
const MMIO = 0xd000_0000;

function out(size: number, value: bigint, address: number = PORT): Access {
  return { kind: "out", address, size, value };
}

function input(size: number, value: bigint, address: number = PORT): Access {
  return { kind: "in", address, size, value };
}

/** The guests. */
export const IO_TESTS: readonly GuestTest[] = [
  {
    name: "port I/O of 1, 2 and 4 bytes in real mode",
    run(m) {
      m.load(16, (a) => {
        a.mov("dx", PORT).mov("eax", 0x11223344).out("dx", "al").out("dx", "ax").out("dx", "eax");
        a.xor("eax", "eax").in("al", "dx").mov(at(result(0)), "eax");
        a.in("ax", "dx").mov(at(result(1)), "eax").in("eax", "dx").mov(at(result(2)), "eax");
        a.out(Port.Done, "al");
      });
      m.io.onPortIn = (_port, size) => size === 1 ? 0xa5n : size === 2 ? 0xb6c7n : 0xd8e9fa0bn;
      m.startReal();
      m.run();
      assert.deepEqual(m.io.accesses, [
        out(1, 0x44n),
        out(2, 0x3344n),
        out(4, 0x11223344n),
        input(1, 0xa5n),
        input(2, 0xb6c7n),
        input(4, 0xd8e9fa0bn),
      ]);
      assert.deepEqual([0, 1, 2].map((index) => m.result(index)), [0xa5n, 0xb6c7n, 0xd8e9fa0bn]);
    },
  },
  {
    name: "port I/O in long mode keeps the upper halves as the processor does",
    run(m) {
      m.load(64, (a) => {
        a.mov("rax", -1).mov("dx", PORT).in("al", "dx").mov(at(result(0)), "rax");
        a.mov("rax", -1).in("ax", "dx").mov(at(result(1)), "rax");
        a.mov("rax", -1).in("eax", "dx").mov(at(result(2)), "rax").in("al", 0x90);
        a.out(Port.Done, "al");
      });
      m.io.onPortIn = () => 0x12n;
      m.startLong();
      m.run();
      assert.equal(m.result(0), 0xffff_ffff_ffff_ff12n);
      assert.equal(m.result(1), 0xffff_ffff_ffff_0012n);
      assert.equal(m.result(2), 0x12n);
      assert.equal(m.io.accesses.at(-1)?.address, 0x90);
    },
  },
  {
    name: "ports that nobody answers read all ones",
    run(m) {
      m.load(32, (a) => {
        a.xor("eax", "eax").mov("dx", PORT).in("eax", "dx").mov(at(result(0)), "eax");
        a.out(Port.Done, "al");
      });
      m.startProtected();
      m.run();
      assert.equal(m.result(0), 0xffff_ffffn);
    },
  },
  ...([1, 2, 4] as const).map((size): GuestTest => ({
    name: `string output of ${size} byte elements, forwards and backwards`,
    run(m) {
      const source = FREE;
      m.memory.writeFrom(source, Uint8Array.from({ length: 64 }, (_, index) => index + 1));
      m.load(64, (a) => {
        a.op("cld").mov("rsi", source).mov("ecx", 5).mov("dx", PORT).rep().outs(size);
        a.mov(at(result(0)), "rsi").mov(at(result(1)), "rcx");
        a.op("std").mov("rsi", source + 32).mov("ecx", 2).rep().outs(size).op("cld");
        a.mov(at(result(2)), "rsi").outs(size).out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      const element = (offset: number) => {
        const bytes = m.memory.read(source + offset, 8);
        const value = new DataView(bytes.buffer).getBigUint64(0, true);
        return out(size, BigInt.asUintN(size * 8, value));
      };
      const offsets = [0, size, 2 * size, 3 * size, 4 * size, 32, 32 - size, 32 - 2 * size];
      assert.deepEqual(m.io.accesses, offsets.map(element));
      assert.equal(m.result(0), BigInt(source + 5 * size));
      assert.equal(m.result(1), 0n);
      assert.equal(m.result(2), BigInt(source + 32 - 2 * size));
    },
  })),
  ...([1, 2, 4] as const).map((size): GuestTest => ({
    name: `string input of ${size} byte elements`,
    run(m) {
      m.load(64, (a) => {
        a.op("cld").mov("rdi", FREE).mov("ecx", 5).mov("dx", PORT).rep().ins(size);
        a.mov(at(result(0)), "rdi").mov(at(result(1)), "rcx").ins(size);
        a.mov("ecx", 0).rep().ins(size).mov(at(result(2)), "rdi").out(Port.Done, "al");
      });
      let next = 0n;
      m.io.onPortIn = () => next++ * 0x0101_0101n + 0x10n;
      m.startLong();
      m.run();
      const expected = Array.from(
        { length: 6 },
        (_, index) => BigInt.asUintN(size * 8, BigInt(index) * 0x0101_0101n + 0x10n),
      );
      const stored = expected.map((_, index) => {
        const bytes = m.memory.read(FREE + index * size, 8);
        return BigInt.asUintN(size * 8, new DataView(bytes.buffer).getBigUint64(0, true));
      });
      assert.deepEqual(stored, expected);
      assert.equal(m.memory.readU64(FREE + 6 * size), 0n);
      assert.equal(m.result(0), BigInt(FREE + 5 * size));
      assert.equal(m.result(1), 0n);
      assert.equal(m.result(2), BigInt(FREE + 6 * size));
    },
  })),
  {
    name: "string output across a page and of more than a page",
    run(m) {
      const length = 5000;
      const source = FREE + 0xf80;
      m.memory.writeFrom(source, Uint8Array.from({ length }, (_, index) => index * 7));
      m.load(64, (a) => {
        a.mov("rsi", source).mov("ecx", length).mov("dx", PORT).rep().outs(1);
        a.mov(at(result(0)), "rsi").out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.equal(m.io.accesses.length, length);
      assert.ok(m.io.accesses.every(({ value }, index) => value === BigInt(index * 7 & 0xff)));
      assert.equal(m.result(0), BigInt(source + length));
    },
  },
  {
    name: "loads and stores of 1, 2, 4 and 8 bytes outside RAM",
    run(m) {
      m.load(64, (a) => {
        a.mov("rbx", MMIO).mov("rax", 0x1122334455667788n);
        a.mov(at("rbx"), "al").mov(at("rbx", { disp: 2 }), "ax");
        a.mov(at("rbx", { disp: 4 }), "eax").mov(at("rbx", { disp: 8 }), "rax");
        a.mov(at("rbx", { disp: 16, size: 4 }), 0x55).xor("eax", "eax");
        a.mov("al", at("rbx")).mov(at(result(0)), "rax").mov("ax", at("rbx", { disp: 2 }));
        a.mov(at(result(1)), "rax").mov("eax", at("rbx", { disp: 4 })).mov(at(result(2)), "rax");
        a.mov("rax", at("rbx", { disp: 8 })).mov(at(result(3)), "rax").out(Port.Done, "al");
      });
      m.io.onMmioRead = (address, size) =>
        BigInt.asUintN(size * 8, 0x8877665544332211n) + BigInt(address - MMIO);
      m.startLong();
      m.run();
      const write = (offset: number, size: number, value: bigint): Access => ({
        kind: "write",
        address: MMIO + offset,
        size,
        value,
      });
      const read = (offset: number, size: number, value: bigint): Access => ({
        kind: "read",
        address: MMIO + offset,
        size,
        value,
      });
      assert.deepEqual(m.io.accesses, [
        write(0, 1, 0x88n),
        write(2, 2, 0x7788n),
        write(4, 4, 0x55667788n),
        write(8, 8, 0x1122334455667788n),
        write(16, 4, 0x55n),
        read(0, 1, 0x11n),
        read(2, 2, 0x2213n),
        read(4, 4, 0x44332215n),
        read(8, 8, 0x8877665544332219n),
      ]);
      assert.deepEqual(
        [0, 1, 2, 3].map((index) => m.result(index)),
        [0x11n, 0x2213n, 0x44332215n, 0x8877665544332219n],
      );
    },
  },
  {
    name: "read-modify-write, test and extension outside RAM",
    run(m) {
      m.load(64, (a) => {
        a.mov("rbx", MMIO).or(at("rbx", { size: 4 }), 0x100).add("ecx", at("rbx", { disp: 4 }));
        a.movzx("eax", at("rbx", { disp: 8, size: 1 })).mov(at(result(0)), "rax");
        a.movsx("rax", at("rbx", { disp: 8, size: 2 })).mov(at(result(1)), "rax");
        a.cmp(at("rbx", { disp: 12, size: 1 }), 0x80).setcc("e", "al").movzx("eax", "al");
        a.mov(at(result(2)), "rax").out(Port.Done, "al");
      });
      m.io.onMmioRead = (_address, size) => size === 1 ? 0x80n : 0x8081n;
      m.startLong();
      m.run();
      const kinds = m.io.accesses.map(({ kind, address, value }) =>
        `${kind} ${address - MMIO} ${value.toString(16)}`
      );
      const expected = ["read 0 8081", "write 0 8181", "read 4 8081", "read 8 80", "read 8 8081"];
      assert.deepEqual(kinds, [...expected, "read 12 80"]);
      assert.equal(m.result(0), 0x80n);
      assert.equal(m.result(1), 0xffff_ffff_ffff_8081n);
      assert.equal(m.result(2), 1n);
    },
  },
  {
    name: "string moves to and from addresses outside RAM",
    run(m) {
      m.memory.writeU64(FREE, 0x0807060504030201n);
      m.load(64, (a) => {
        a.mov("rsi", FREE).mov("rdi", MMIO).mov("ecx", 2).rep().string("movs", 4);
        a.mov("rsi", MMIO + 0x100).mov("rdi", FREE + 64).mov("ecx", 4).rep().string("movs", 2);
        a.mov("rdi", MMIO + 0x200).mov("eax", 0x33).mov("ecx", 3).rep().string("stos", 1);
        a.out(Port.Done, "al");
      });
      m.io.onMmioRead = (address) => BigInt(address & 0xff) + 0x1000n;
      m.startLong();
      m.run();
      const writes = m.io.accesses.filter(({ kind }) => kind === "write");
      assert.deepEqual(writes.map(({ address, value }) => [address - MMIO, value]), [
        [0, 0x04030201n],
        [4, 0x08070605n],
        [0x200, 0x33n],
        [0x201, 0x33n],
        [0x202, 0x33n],
      ]);
      assert.equal(m.memory.readU64(FREE + 64), 0x1006_1004_1002_1000n);
    },
  },
  {
    name: "a store that begins in RAM and ends outside reaches both",
    run(m) {
      const end = m.memory.sizeBytes;
      m.load(64, (a) => {
        a.mov("rbx", end - 4).mov("rax", 0x1122334455667788n).mov(at("rbx"), "rax");
        a.out(Port.Done, "al");
      });
      m.startLong();
      m.run();
      assert.equal(m.memory.readU32(end - 4), 0x55667788);
      const bytes = m.io.accesses.flatMap(({ address, size, value }) =>
        Array.from(
          { length: size },
          (_, index) => [address + index, value >> BigInt(8 * index) & 0xffn],
        )
      );
      assert.deepEqual(
        bytes,
        [0x44n, 0x33n, 0x22n, 0x11n].map((byte, index) => [end + index, byte]),
      );
    },
  },
  {
    name: "a stop that a device asks for comes after the access is complete",
    run(m) {
      m.load(32, (a) => {
        a.mov("eax", 0).mov("dx", PORT).in("al", "dx").mov(at(DATA), "eax").out(Port.Done, "al");
      });
      m.io.onPortIn = () => {
        m.io.done = true;
        return 0x77n;
      };
      m.startProtected();
      m.run();
      assert.equal(m.vcpu.getRegs().rax, 0x77n);
      assert.equal(m.memory.readU32(DATA), 0, "nothing is executed after the access");
      m.run();
      assert.equal(m.memory.readU32(DATA), 0x77, "the guest goes on where it was");
    },
  },
  {
    name: "an access handler that throws makes run throw",
    run(m) {
      m.load(32, (a) => a.mov("dx", PORT).in("al", "dx").out(Port.Done, "al"));
      m.io.onPortIn = () => {
        throw new Error("device failed");
      };
      m.startProtected();
      assert.throws(() => m.runToExit(), /device failed/);
    },
  },
];
