/**
 * What takes the place of the engine for KVM in the program's script, as long as it is not chosen.
 *
 * @module
 */

import { late } from "./late.ts";

type Kvm = typeof import("../../lib/hypervisor/kvm/mod.ts");

const kvm = () => late<Kvm>("kvm_part");

/** See there. */
export const attachKvmVm: Kvm["attachKvmVm"] = (...args) => kvm().attachKvmVm(...args);

/** See there. */
export const openKvm: Kvm["openKvm"] = (...args) => kvm().openKvm(...args);

/** See there. */
export const probeKvm: Kvm["probeKvm"] = (...args) => kvm().probeKvm(...args);
