/**
 * What takes the place of modules that few runs of the program want: their functions load them when they are
 * called.
 *
 * @module
 */

/** Global function of the program's script that gives a module at once, by the name of its file. */
export const NEED = "VMCTL_NEED";

/** Gives the module of this folder that `name` names. */
export function late<Module>(name: string): Module {
  return Reflect.get(globalThis, NEED)(`./${name}.js`);
}
