import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MIB } from "../../base/mod.ts";
import { GuestMemory } from "../../memory/mod.ts";
import { BootError } from "../errors.ts";
import {
  device,
  eisaId,
  integer,
  method,
  name,
  nameString,
  packageOf,
  returnValue,
} from "./aml.ts";
import { type AcpiOptions, buildAcpi } from "./mod.ts";

/** All tables by signature, found as an OS does, with their checksums verified. */
function readTables(options: AcpiOptions): Map<string, Uint8Array<ArrayBuffer>> {
  using memory = GuestMemory.create({ sizeBytes: MIB, backing: "mmap" });
  buildAcpi(memory, options);
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  const sum = (bytes: Uint8Array) => bytes.reduce((total, byte) => total + byte & 0xff, 0);
  const root = memory.read(0xe_0000, 36);
  assert.equal(text(root.subarray(0, 8)), "RSD PTR ");
  assert.equal(sum(root.subarray(0, 20)), 0);
  assert.equal(sum(root), 0);

  const tables = new Map<string, Uint8Array<ArrayBuffer>>();
  const read = (address: number) => {
    const bytes = memory.read(address, memory.readU32(address + 4));
    const signature = text(bytes.subarray(0, 4));
    if (signature !== "FACS") assert.equal(sum(bytes), 0, `checksum of ${signature}`);
    tables.set(signature, bytes);
    return bytes;
  };
  const list = read(Number(memory.readU64(0xe_0000 + 24)));
  for (let at = 36; at < list.length; at += 8) {
    read(Number(new DataView(list.buffer).getBigUint64(at, true)));
  }
  const fadt = new DataView(tables.get("FACP")!.buffer);
  assert.equal(fadt.getUint32(36, true) % 64, 0, "the FACS is aligned to 64 bytes");
  read(fadt.getUint32(36, true));
  read(fadt.getUint32(40, true));
  return tables;
}

/** Kinds of the entries of a MADT. */
function madtEntries(madt: Uint8Array): Map<number, number> {
  const counts = new Map<number, number>();
  for (let at = 44; at < madt.length; at += madt[at + 1]!) {
    counts.set(madt[at]!, (counts.get(madt[at]!) ?? 0) + 1);
  }
  return counts;
}

Deno.test("the tables are found through the RSDP and have right checksums", () => {
  const tables = readTables({ cpuCount: 2 });
  assert.deepEqual([...tables.keys()].sort(), ["APIC", "DSDT", "FACP", "FACS", "XSDT"]);
  assert.ok(readTables({ cpuCount: 1, ecam: true }).has("MCFG"));
});

Deno.test("the FADT tells of power management, reset and power button", () => {
  const fadt = new DataView(readTables({ cpuCount: 1 }).get("FACP")!.buffer);
  assert.equal(fadt.byteLength, 276);
  assert.equal(fadt.getUint8(8), 6);
  assert.equal(fadt.getUint16(46, true), 9);
  assert.equal(fadt.getUint32(56, true), 0x600);
  assert.equal(fadt.getUint32(64, true), 0x604);
  assert.equal(fadt.getUint32(76, true), 0x608);
  assert.equal(fadt.getUint32(120, true), 0xcf9);
  assert.equal(fadt.getUint8(128), 6);
  const flags = fadt.getUint32(112, true);
  assert.equal(flags & (1 << 4), 0, "the power button is a fixed feature");
  assert.notEqual(flags & (1 << 10), 0, "the reset register is supported");
  assert.equal(flags & (1 << 20), 0, "the hardware is not reduced");
});

Deno.test("the MADT has a local APIC for every processor, x2APICs from id 255 on", () => {
  const few = madtEntries(readTables({ cpuCount: 4 }).get("APIC")!);
  assert.deepEqual(few, new Map([[0, 4], [1, 1], [2, 1], [4, 1]]));
  const many = madtEntries(readTables({ cpuCount: 300 }).get("APIC")!);
  assert.deepEqual(many, new Map([[0, 255], [9, 45], [1, 1], [2, 1], [4, 1], [10, 1]]));
});

Deno.test("more processors than the tables hold are refused", () => {
  readTables({ cpuCount: 1024 });
  for (const cpuCount of [0, 4096, 5000]) {
    assert.throws(() => readTables({ cpuCount }), BootError);
  }
});

Deno.test("AML terms have the bytes of the specification", () => {
  assert.deepEqual([...integer(0)], [0x00]);
  assert.deepEqual([...integer(1)], [0x01]);
  assert.deepEqual([...integer(0x12)], [0x0a, 0x12]);
  assert.deepEqual([...integer(0x1234)], [0x0b, 0x34, 0x12]);
  assert.deepEqual([...integer(0x12345678)], [0x0c, 0x78, 0x56, 0x34, 0x12]);
  assert.deepEqual([...integer(2 ** 40)], [0x0e, 0, 0, 0, 0, 0, 1, 0, 0]);
  assert.deepEqual([...eisaId("PNP0A03")], [0x0c, 0x41, 0xd0, 0x0a, 0x03]);
  assert.deepEqual([...nameString("\\_SB")], [0x5c, 0x5f, 0x53, 0x42, 0x5f]);
  assert.deepEqual([...nameString("_SB.PCI0")].slice(0, 2), [0x2e, 0x5f]);
  assert.deepEqual(
    [...method("_STA", 0, [returnValue(integer(15))])],
    [0x14, 0x09, 0x5f, 0x53, 0x54, 0x41, 0, 0xa4, 0x0a, 15],
  );
  assert.deepEqual([...packageOf([integer(1)])], [0x12, 3, 1, 1]);
  // From 64 bytes on the length takes two bytes, from 4096 three.
  const value = { length: 60 };
  const sixty = packageOf(Array.from(value, () => integer(0)));
  assert.deepEqual([...sixty.subarray(0, 2)], [0x12, 62]);
  const hundred = packageOf(Array.from({ length: 100 }, () => integer(0)));
  assert.deepEqual([...hundred.subarray(0, 3)], [0x12, 0x40 | (103 & 15), 103 >> 4]);
  const devices = device("BIG", Array.from({ length: 1000 }, () => name("A", integer(0))));
  const total = 4 + 6 * 1000 + 3;
  assert.deepEqual(
    [...devices.subarray(2, 5)],
    [0x80 | (total & 15), total >> 4 & 0xff, total >> 12],
  );
  for (const path of ["abc", "TOOLONG", "1AB", "A B"]) {
    assert.throws(() => nameString(path), TypeError);
  }
});

const iasl = hasIasl();

Deno.test({
  name: "iasl takes the tables apart and puts the DSDT together again" +
    (iasl ? "" : " (skipped: no iasl)"),
  ignore: !iasl,
  fn() {
    const dir = mkdtempSync(join(tmpdir(), "vmctl-acpi-"));
    try {
      const run = (...args: string[]) => {
        const command = new Deno.Command("iasl", { args, cwd: dir, stdin: "null" });
        const { success, stdout, stderr } = command.outputSync();
        const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
        assert.ok(success, said);
        return said;
      };
      const tables = readTables({ cpuCount: 3, ecam: true });
      for (const [signature, bytes] of tables) {
        const file = `${signature.toLowerCase()}.dat`;
        writeFileSync(join(dir, file), bytes);
        const said = run("-d", file);
        assert.doesNotMatch(said, /error|invalid|warning/i);
      }
      const source = readFileSync(join(dir, "dsdt.dsl"), "utf8");
      assert.match(source, /Device \(C002\)/);
      assert.match(source, /Name \(_HID, EisaId \("PNP0A03"\)/);
      assert.match(run("dsdt.dsl"), /0 Errors, 0 Warnings/);
    } finally {
      rmSync(dir, { recursive: true });
    }
  },
});

function hasIasl(): boolean {
  try {
    return new Deno.Command("iasl", { args: ["-v"], stdout: "null", stderr: "null" }).outputSync()
      .success;
  } catch {
    return false;
  }
}
