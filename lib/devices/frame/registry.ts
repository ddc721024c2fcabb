/**
 * The kinds of virtio devices. Their code is loaded when one is wanted: a device program has room for one.
 *
 * @module
 */

import type { DeviceKind } from "./device_kind.ts";
import { DeviceError } from "./errors.ts";

const KINDS = {
  balloon: async () => (await import("../balloon/mod.ts")).BALLOON_DEVICE,
  block: async () => (await import("../block/mod.ts")).BLOCK_DEVICE,
  console: async () => (await import("../console/mod.ts")).CONSOLE_DEVICE,
  rng: async () => (await import("../rng/mod.ts")).RNG_DEVICE,
} as const satisfies Record<string, () => Promise<DeviceKind>>;

/** Name of a kind of device. */
export type DeviceKindName = keyof typeof KINDS;

/** The names. */
export const DEVICE_KINDS = Object.keys(KINDS) as readonly DeviceKindName[];

/** The kind called `name`. */
export async function deviceKind<Name extends DeviceKindName>(
  name: Name,
): Promise<Awaited<ReturnType<typeof KINDS[Name]>>> {
  // The compiler loses the name on its way through the table.
  return await KINDS[name]() as Awaited<ReturnType<typeof KINDS[Name]>>;
}

/** @throws {DeviceError} where `name` is none of a kind. */
export function requireDeviceKind(name: string): DeviceKindName {
  const kind = DEVICE_KINDS.find((known) => known === name);
  if (kind !== undefined) return kind;
  throw new DeviceError(`expected a device of ${DEVICE_KINDS.join(", ")}, got "${name}"`);
}
