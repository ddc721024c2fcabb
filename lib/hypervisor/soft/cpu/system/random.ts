/**
 * RDRAND and RDSEED (Intel SDM vol. 1, 7.3.17), so that a guest's random numbers need no warming up.
 *
 * @module
 */

import { HostResult } from "../cx.ts";
import type { HostFunction } from "../host_context.ts";
import { Flag, Rec } from "../state.ts";
import { field16, operandSize, setSlot } from "./access.ts";

/** Numbers of the host's generator, fetched many at a time. */
const pool = new BigUint64Array(512);
let used = pool.length;

/** RDRAND and RDSEED: always succeed. */
export const random: HostFunction = (cpu, record) => {
  if (used === pool.length) {
    crypto.getRandomValues(pool);
    used = 0;
  }
  const low = pool[used] as bigint;
  pool[used++] = 0n;
  setSlot(cpu, field16(cpu, record, Rec.b), { low, size: operandSize(cpu, record) });
  // CF says that the number is good; the other flags are cleared.
  cpu.exports.setArithFlags(BigInt(Flag.CF));
  return HostResult.Next;
};
