/**
 * Exits of KVM in words.
 *
 * @module
 */

import { hex } from "../../base/mod.ts";
import { Exit, EXIT_NAMES, RunOffset, SUBERROR_NAMES, SYSTEM_EVENT_NAMES } from "./abi.ts";

const MAX_DATA_WORDS = 16;
/** Flag of an emulation failure: the instruction's bytes follow. */
const INSTRUCTION_BYTES_VALID = 1;

/** Names the exit in `run` (`struct kvm_run`) and tells its details. */
export function describeExit(run: DataView): string {
  const reason = run.getUint32(RunOffset.ExitReason, true);
  const name = `KVM_EXIT_${EXIT_NAMES[reason] ?? `${reason} (not known to this program)`}`;
  const detail = describeDetail(reason, run);
  return detail === "" ? name : `${name}: ${detail}`;
}

function describeDetail(reason: number, run: DataView): string {
  const u32 = (offset: number) => run.getUint32(RunOffset.Union + offset, true);
  const u64 = (offset: number) => hex(run.getBigUint64(RunOffset.Union + offset, true));
  switch (reason) {
    case Exit.Unknown:
      return `hardware exit reason ${u64(0)}`;
    case Exit.Exception:
      return `exception ${u32(0)}, error code ${hex(u32(4))}`;
    case Exit.Hypercall:
      return `number ${u64(0)}, arguments ${[8, 16, 24, 32, 40, 48].map(u64).join(" ")}`;
    case Exit.Debug:
      return `exception ${u32(0)} at ${u64(8)}, DR6 ${u64(16)}, DR7 ${u64(24)}`;
    case Exit.FailEntry:
      return `hardware entry failure reason ${u64(0)} on host CPU ${u32(8)}`;
    case Exit.TprAccess:
      return `${u32(8) === 0 ? "read" : "write"} at ${u64(0)}`;
    case Exit.InternalError:
      return describeInternalError(run);
    case Exit.SystemEvent:
      return `${SYSTEM_EVENT_NAMES[u32(0)] ?? `type ${u32(0)}`}${
        words(run, RunOffset.SystemEventDataCount, RunOffset.SystemEventData)
      }`;
    case Exit.IoapicEoi:
      return `vector ${hex(u32(0) & 0xff)}`;
    case Exit.Hyperv:
      return `type ${u32(0)}, ${[8, 16, 24, 32].map(u64).join(" ")}`;
    case Exit.X86Rdmsr:
    case Exit.X86Wrmsr:
      return `MSR ${hex(u32(12))}, reason ${u32(8)}, data ${u64(16)}`;
    case Exit.Notify:
      return `flags ${hex(u32(0))}`;
    case Exit.MemoryFault:
      return `flags ${u64(0)}, guest address ${u64(8)}, ${u64(16)} bytes`;
    default:
      return "";
  }
}

function describeInternalError(run: DataView): string {
  const suberror = run.getUint32(RunOffset.InternalSuberror, true);
  const name = SUBERROR_NAMES[suberror] ?? "not known to this program";
  const data = words(run, RunOffset.InternalDataCount, RunOffset.InternalData);
  const count = run.getUint32(RunOffset.InternalDataCount, true);
  const flags = run.getBigUint64(RunOffset.InternalData, true);
  let bytes = "";
  if (suberror === 1 && count >= 3 && (Number(flags & 0xffn) & INSTRUCTION_BYTES_VALID) !== 0) {
    const size = Math.min(run.getUint8(RunOffset.InternalData + 8), 15);
    const list = Array.from(
      { length: size },
      (_, index) => hex(run.getUint8(RunOffset.InternalData + 9 + index), 2).slice(2),
    );
    bytes = `, instruction bytes ${list.join(" ")}`;
  }
  return `suberror ${suberror}, ${name}${bytes}${data}`;
}

function words(run: DataView, countOffset: number, dataOffset: number): string {
  const count = Math.min(run.getUint32(countOffset, true), MAX_DATA_WORDS);
  if (count === 0) return "";
  const list = Array.from(
    { length: count },
    (_, index) => hex(run.getBigUint64(dataOffset + index * 8, true)),
  );
  return `, data ${list.join(" ")}`;
}
