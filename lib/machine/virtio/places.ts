/**
 * Where devices are on the PCI bus.
 *
 * @module
 */

/** The first number behind the host bridge. */
export const FIRST_PCI_DEVICE = 1;

/**
 * Numbers for `devices` in their order: those that are wanted, and for the others the lowest that nobody
 * wants. They may be more than a bus has.
 */
export function pciNumbers(
  devices: readonly { readonly pciDevice?: number | undefined }[],
): number[] {
  const taken = new Set(devices.map(({ pciDevice }) => pciDevice));
  let next = FIRST_PCI_DEVICE;
  return devices.map(({ pciDevice }) => {
    if (pciDevice !== undefined) return pciDevice;
    while (taken.has(next)) next++;
    return next++;
  });
}
