/**
 * What the processes of a VM's devices have for themselves.
 *
 * @module
 */

import { privateDirtyBytes } from "./programs.ts";

/** What a jailed device may have for itself, in MiB. */
export const DEVICE_MEMORY_LIMIT_MIB = 14;

/** The processes of the devices of the VM whose control socket is at `socket`. */
export async function devicePids(vmctl: string, socket: string): Promise<number[]> {
  const { success, stdout, stderr } = await new Deno.Command(vmctl, {
    args: ["status", "--json", socket],
  }).output();
  const decoder = new TextDecoder();
  if (!success) throw new Error(`vmctl status: ${decoder.decode(stderr)}`);
  const { devices } = JSON.parse(decoder.decode(stdout)) as {
    devices: readonly { readonly pid: number | null }[];
  };
  return devices.flatMap(({ pid }) => pid === null ? [] : [pid]);
}

/** Private dirty memory of a device's process, without the guest's, in MiB. */
export async function deviceMib(pid: number): Promise<number> {
  const smaps = await Deno.readTextFile(`/proc/${pid}/smaps`);
  return privateDirtyBytes(smaps, (name) => name.startsWith("/memfd:")) / 2 ** 20;
}
