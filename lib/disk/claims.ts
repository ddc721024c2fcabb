/**
 * Which files the disks of one program use: its own locks do not tell a file that was given twice from one
 * that another program uses, and do not hold where both come from one descriptor.
 *
 * @module
 */

import { DiskError } from "./errors.ts";

/** A file that a disk uses. */
export interface FileClaim {
  /** Path of the file. */
  readonly path: string;
  /** Whether it is the disk's own image, not one that this is based on. */
  readonly isTop: boolean;
  /** Whether the disk only reads it. */
  readonly readOnly: boolean;
}

/** A disk of a program. */
export interface ClaimingDisk {
  /** How it was asked for, such as `--block a.img`. */
  readonly option: string;
  /** Its name, such as `vda`. */
  readonly name: string;
}

/** The files of all disks of a program, as far as these are locked. */
export class FileClaims {
  /** By what the file is for the host. */
  readonly #claims = new Map<string, { readonly claim: FileClaim; readonly disk: ClaimingDisk }>();

  /**
   * Notes that `disk` uses a file.
   *
   * @param identity of the file on the host, whatever its names are
   * @throws {DiskError} EBUSY where another disk uses it, too, and not both only read it.
   */
  add(identity: string, claim: FileClaim, disk: ClaimingDisk): void {
    const first = this.#claims.get(identity);
    if (first === undefined) {
      this.#claims.set(identity, { claim, disk });
      return;
    }
    if (claim.readOnly && first.claim.readOnly) return;
    const isTwice = claim.isTop && first.claim.isTop && disk.option === first.disk.option;
    const found = isTwice
      ? `${disk.option} is given twice, for ${first.disk.name} and ${disk.name}`
      : `${describe(claim, disk)} is the same file as ${describe(first.claim, first.disk)}`;
    throw new DiskError(
      `${found}: expected a file of its own for each disk that is not read-only (ro), as the guest would ` +
        "destroy what is on it",
      { code: "EBUSY" },
    );
  }
}

function describe({ path, isTop }: FileClaim, { option, name }: ClaimingDisk): string {
  return isTop ? `${option} (${name})` : `${path}, which ${option} (${name}) is based on,`;
}
