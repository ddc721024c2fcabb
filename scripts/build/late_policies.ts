/**
 * What takes the place of the compiler of policies in the program's script: a guest runs before the first
 * policy is compiled.
 *
 * @module
 */

import { late } from "./late.ts";

type Policies = typeof import("./policies_part.ts");

const policies = () => late<Policies>("policies_part");

/** See there. */
export const compilePolicy: Policies["compilePolicy"] = (...args) =>
  policies().compilePolicy(...args);

/** See there. */
export const returnValue: Policies["returnValue"] = (...args) => policies().returnValue(...args);

/** See there. */
export const embeddedPolicies: Policies["embeddedPolicies"] = () => policies().embeddedPolicies();

/** See there. */
export const embeddedPolicyNames: Policies["embeddedPolicyNames"] = () =>
  policies().embeddedPolicyNames();

/** See there. */
export const loadDevicePolicy: Policies["loadDevicePolicy"] = (...args) =>
  policies().loadDevicePolicy(...args);
