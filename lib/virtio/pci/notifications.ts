/**
 * The guest's notifications as ioeventfds, which follow the BAR.
 *
 * @module
 */

import { VmctlError } from "../../base/mod.ts";
import type { IoEventAddress, Vm } from "../../hypervisor/mod.ts";
import { BarOffset, NOTIFY_MULTIPLIER, QueueWord, Word } from "./layout.ts";
import type { TransportState } from "./state.ts";

const PAGE_BYTES = 4096;

/**
 * Listens for notifications of a BAR that begins at `page`, 0 for one that is not decoded. Under the
 * state's lock. Where two functions are put at one place, one has no ioeventfd; its notifications then
 * come as plain writes.
 */
export function moveNotifications(state: TransportState, vm: Vm, page: number): void {
  const { words, queues, handle } = state;
  const before = words[Word.IoeventPage]! >>> 0;
  if (before === page) return;
  words[Word.IoeventPage] = page;
  for (let index = 0; index < handle.queueCount; index++) {
    const registered = index * QueueWord.Count + QueueWord.Ioevent;
    const kick = handle.kicks[index]!;
    if (queues[registered] !== 0) {
      vm.unregisterIoeventfd(notifyAddress(before, index), kick);
      queues[registered] = 0;
    }
    if (page !== 0) queues[registered] = register(vm, notifyAddress(page, index), kick) ? 1 : 0;
  }
}

function notifyAddress(page: number, index: number): IoEventAddress {
  const address = page * PAGE_BYTES + BarOffset.Notify + index * NOTIFY_MULTIPLIER;
  return { space: "mmio", address, length: 0 };
}

function register(vm: Vm, at: IoEventAddress, kick: number): boolean {
  try {
    vm.registerIoeventfd(at, kick);
    return true;
  } catch (error) {
    if (error instanceof VmctlError) return false;
    throw error;
  }
}
