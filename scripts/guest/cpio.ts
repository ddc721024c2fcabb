/**
 * Writer of cpio archives in the "newc" format (SVR4 without checksum), which is what Linux unpacks
 * an initial RAM file system from (Documentation/driver-api/early-userspace/buffer-format.rst).
 *
 * @module
 */

/** One member of an archive. Paths are relative, without a leading slash. */
export type CpioEntry =
  | { readonly type: "directory"; readonly path: string; readonly mode?: number }
  | {
    readonly type: "file";
    readonly path: string;
    readonly data: Uint8Array | string;
    readonly mode?: number;
  }
  | { readonly type: "symlink"; readonly path: string; readonly target: string }
  | {
    readonly type: "character-device";
    readonly path: string;
    readonly major: number;
    readonly minor: number;
    readonly mode?: number;
  };

const HEADER_BYTES = 110;
const TRAILER = "TRAILER!!!";
const S_IFCHR = 0o020000;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;

interface Member {
  readonly name: Uint8Array;
  readonly data: Uint8Array;
  readonly mode: number;
  readonly linkCount: number;
  readonly rdevMajor: number;
  readonly rdevMinor: number;
}

const NOTHING = new Uint8Array(0);
const encoder = new TextEncoder();

/**
 * Packs `entries`, in their order, into an archive. Everything belongs to root and has time 0, so
 * that the same entries always give the same bytes.
 * @throws {TypeError} when a path is empty, absolute or climbs out with "..".
 */
export function packCpio(entries: readonly CpioEntry[]): Uint8Array<ArrayBuffer> {
  const members = entries.map(toMember);
  members.push(
    {
      name: encoder.encode(TRAILER),
      data: NOTHING,
      mode: 0,
      linkCount: 1,
      rdevMajor: 0,
      rdevMinor: 0,
    },
  );
  let size = 0;
  for (const { name, data } of members) {
    size += align4(HEADER_BYTES + name.length + 1) + align4(data.length);
  }
  const archive = new Uint8Array(size);
  let offset = 0;
  for (const [index, member] of members.entries()) {
    const isTrailer = index === members.length - 1;
    encoder.encodeInto(header(member, isTrailer ? 0 : index + 1), archive.subarray(offset));
    archive.set(member.name, offset + HEADER_BYTES);
    offset += align4(HEADER_BYTES + member.name.length + 1);
    archive.set(member.data, offset);
    offset += align4(member.data.length);
  }
  return archive;
}

function toMember(entry: CpioEntry): Member {
  const parts = entry.path.split("/");
  if (parts.some((part) => part === "" || part === "." || part === "..")) {
    throw new TypeError(`"${entry.path}": expected a relative path without empty parts or ".."`);
  }
  const base = { name: encoder.encode(entry.path), linkCount: 1, rdevMajor: 0, rdevMinor: 0 };
  switch (entry.type) {
    case "directory":
      return { ...base, data: NOTHING, mode: S_IFDIR | (entry.mode ?? 0o755), linkCount: 2 };
    case "file": {
      const data = typeof entry.data === "string" ? encoder.encode(entry.data) : entry.data;
      return { ...base, data, mode: S_IFREG | (entry.mode ?? 0o644) };
    }
    case "symlink":
      return { ...base, data: encoder.encode(entry.target), mode: S_IFLNK | 0o777 };
    case "character-device":
      return {
        ...base,
        data: NOTHING,
        mode: S_IFCHR | (entry.mode ?? 0o600),
        rdevMajor: entry.major,
        rdevMinor: entry.minor,
      };
  }
}

function header(member: Member, inode: number): string {
  const fields = [
    inode,
    member.mode,
    0, // uid
    0, // gid
    member.linkCount,
    0, // mtime
    member.data.length,
    0, // device major
    0, // device minor
    member.rdevMajor,
    member.rdevMinor,
    member.name.length + 1,
    0, // checksum, unused in newc
  ];
  return "070701" + fields.map((field) => field.toString(16).padStart(8, "0")).join("");
}

function align4(value: number): number {
  return (value + 3) & ~3;
}
