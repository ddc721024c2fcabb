/**
 * Why a host refuses jails, and what its owner can do.
 *
 * @module
 */

/** A switch of the kernel's, what it must be, and how it is set. */
interface Switch {
  readonly name: string;
  readonly isClosed: (value: number) => boolean;
  readonly open: string;
}

const SWITCHES: readonly Switch[] = [
  { name: "user.max_user_namespaces", isClosed: (value) => value === 0, open: "100000" },
  { name: "kernel.unprivileged_userns_clone", isClosed: (value) => value === 0, open: "1" },
  {
    name: "kernel.apparmor_restrict_unprivileged_userns",
    isClosed: (value) => value !== 0,
    open: "0",
  },
];

/**
 * The switches that keep this host from making user namespaces, each with its way out.
 *
 * @param readSwitch gives a switch's value, or undefined where the kernel has none of that name.
 */
export function closedSwitches(
  readSwitch: (name: string) => number | undefined = readHostSwitch,
): string[] {
  return SWITCHES.flatMap(({ name, isClosed, open }) => {
    const value = readSwitch(name);
    if (value === undefined || !isClosed(value)) return [];
    return [`${name} is ${value}; "sysctl ${name}=${open}" allows it`];
  });
}

function readHostSwitch(name: string): number | undefined {
  try {
    return Number(Deno.readTextFileSync(`/proc/sys/${name.replaceAll(".", "/")}`));
  } catch {
    return undefined;
  }
}

/** How to go on where this host makes no jails. */
export function wayOut(): string {
  const closed = closedSwitches();
  const cause = closed.length === 0
    ? "the host (a container's settings, perhaps) does not allow user namespaces"
    : closed.join("; ");
  return `${cause}; --disable-sandbox runs devices without jails`;
}
