/**
 * What a jail is made of.
 *
 * @module
 */

import type { FdLike } from "../host/mod.ts";

/** Something that the jailed program sees in its file system. Targets are absolute paths in the jail. */
export type JailMount =
  | {
    /** A file or folder of the host, with everything mounted below it. */
    readonly kind: "bind";
    readonly source: string;
    readonly target: string;
    /** Whether it can be changed. */
    readonly writable?: boolean;
  }
  | {
    /** An empty folder in memory. */
    readonly kind: "tmpfs";
    readonly target: string;
    readonly sizeBytes: number;
  }
  | {
    /** The jail's own processes, and nothing else that proc(5) has; read-only. */
    readonly kind: "proc";
    readonly target: string;
  };

/** Ids inside a jail that stand for ids outside. */
export interface IdMapping {
  readonly inside: number;
  readonly outside: number;
  readonly count: number;
}

/** A program and its jail: new user, mount, pid, network and ipc namespaces, no capabilities. */
export interface JailSpec {
  /** The program's path on the host: an ELF file. It needs nothing of it in the jail. */
  readonly program: string;
  /** Its arguments; the first is its name. */
  readonly argv: readonly string[];
  /** Its environment, empty where absent. */
  readonly env?: Readonly<Record<string, string>>;
  /** Its descriptors, by number. 0, 1 and 2 are /dev/null where they are missing. */
  readonly fds?: readonly { readonly fd: FdLike; readonly as: number }[];
  /** An empty folder, which becomes the root. */
  readonly pivotRoot: string;
  /** What is in the root; a read-only one in memory holds them. They need an id mapping. */
  readonly mounts?: readonly JailMount[];
  /** None where absent: everybody is nobody then. */
  readonly uidMap?: readonly IdMapping[];
  readonly gidMap?: readonly IdMapping[];
  /**
   * The ids, inside, that the program has; where absent, those that its parent's are mapped to, or the
   * first of the map.
   */
  readonly uid?: number;
  readonly gid?: number;
  /**
   * A filter that is in force from before the program starts, so it must allow `execveat` and what
   * starting needs: an array of struct sock_filter.
   */
  readonly filter?: Uint8Array;
}
