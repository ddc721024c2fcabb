/**
 * `vmctl disk info` and `vmctl disk check`.
 *
 * @module
 */

import { resolve } from "node:path";
import { formatSize } from "../../base/mod.ts";
import { checkDisk, type DiskInfo, diskInfo } from "../../disk/mod.ts";
import type { CommandInput } from "../command.ts";
import { currentFolder } from "../folder.ts";
import { print, printJson, table } from "../output.ts";
import type { DISK_OPTIONS } from "../command_options.ts";

/** Shows what an image is, and what it is based on. */
export async function info(input: CommandInput<typeof DISK_OPTIONS>): Promise<number> {
  const images = diskInfo(pathOf(input), { format: input.options.format ?? "probe" });
  if (input.options.json === true) {
    await printJson(images.map(imageJson));
  } else {
    await print(images.map((image) => table(imageRows(image))).join("\n"));
  }
  return 0;
}

/** Checks an image; 1 where it is damaged. */
export async function check(input: CommandInput<typeof DISK_OPTIONS>): Promise<number> {
  const path = pathOf(input);
  const report = checkDisk(path, { format: input.options.format ?? "probe" });
  if (input.options.json === true) {
    await printJson({
      path,
      ok: report.corruptions === 0,
      corruptions: report.corruptions,
      leaked_clusters: report.leaks,
      allocated_clusters: report.allocatedClusters,
      compressed_clusters: report.compressedClusters,
      total_clusters: report.totalClusters,
      messages: report.messages,
    });
  } else {
    const lines = report.messages.map((message) => `${path}: ${message}\n`);
    const more = report.corruptions + report.leaks - report.messages.length;
    if (more > 0) lines.push(`${path}: … ${more} more\n`);
    const leaks = report.leaks === 0
      ? ""
      : `, ${report.leaks} clusters are lost (no harm but room)`;
    lines.push(
      report.corruptions === 0
        ? `${path}: ok${leaks}\n`
        : `${path}: DAMAGED in ${report.corruptions} places${leaks}\n`,
    );
    await print(lines.join(""));
  }
  return report.corruptions === 0 ? 0 : 1;
}

function pathOf(input: CommandInput<typeof DISK_OPTIONS>): string {
  return resolve(currentFolder(), input.positionals[0] ?? "");
}

function imageRows({ path, format, sizeBytes, allocatedBytes, qcow2 }: DiskInfo): string[][] {
  const rows = [
    ["image", path],
    ["format", qcow2 === undefined ? format : `qcow2, version ${qcow2.version}`],
    ["size", `${formatSize(sizeBytes)} (${sizeBytes} bytes)`],
    ["on the host", formatSize(allocatedBytes)],
  ];
  if (qcow2 === undefined) return rows;
  rows.push(
    ["clusters", formatSize(qcow2.clusterBytes)],
    ["counts", `${qcow2.refcountBits} bits`],
    ["compression", qcow2.compression],
  );
  if (qcow2.backingFile !== undefined) {
    rows.push(["based on", `${qcow2.backingFile} (${qcow2.backingFormat ?? "format not stated"})`]);
  }
  for (const { id, name, takenAt } of qcow2.snapshots) {
    rows.push(["snapshot", `${id} ${name}, ${new Date(takenAt * 1000).toISOString()}`]);
  }
  if (qcow2.dirty) rows.push(["state", "dirty: its reference counts are out of date"]);
  if (qcow2.corrupt) rows.push(["state", "marked as corrupt"]);
  return rows;
}

function imageJson({ path, format, sizeBytes, allocatedBytes, qcow2 }: DiskInfo): unknown {
  return {
    path,
    format,
    size_bytes: sizeBytes,
    allocated_bytes: allocatedBytes,
    ...(qcow2 === undefined ? {} : {
      qcow2: {
        version: qcow2.version,
        cluster_bytes: qcow2.clusterBytes,
        refcount_bits: qcow2.refcountBits,
        compression: qcow2.compression,
        dirty: qcow2.dirty,
        corrupt: qcow2.corrupt,
        backing_file: qcow2.backingFile ?? null,
        backing_format: qcow2.backingFormat ?? null,
        snapshots: qcow2.snapshots.map(({ id, name, takenAt, sizeBytes }) => ({
          id,
          name,
          taken_at: takenAt,
          size_bytes: sizeBytes ?? null,
        })),
      },
    }),
  };
}
