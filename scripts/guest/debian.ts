/**
 * Fetches a stock kernel and a static busybox with Debian's own package tools, into the user's cache
 * folder. Needs no root and touches nothing of the host's package state: apt works on lists and
 * caches of its own, with the host's sources, keyrings and proxies.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";

/** The parts of a guest, as paths of readable files. */
export interface Guest {
  /** Kernel as Debian ships it (bzImage). */
  readonly kernel: string;
  /** Statically linked busybox. */
  readonly busybox: string;
  /** The kernel's modules: the folder of its release. */
  readonly modules: string;
  /** Kernel release, such as `6.1.0-56-cloud-amd64`. */
  readonly release: string;
}

/** How to fetch. */
export interface FetchOptions {
  /** Told, in a few words, what is going on. */
  readonly progress?: ((message: string) => void) | undefined;
  /** Asks the archive for a newer kernel although one is cached. */
  readonly refresh?: boolean | undefined;
  /** Folder to use instead of `vmctl/guest` in the user's cache folder. */
  readonly cacheDir?: string | undefined;
  /** Ends the tools that run. */
  readonly signal?: AbortSignal | undefined;
  /** Which of Debian's kernels: that for virtual machines (default) or that for all machines. */
  readonly flavour?: KernelFlavour | undefined;
}

/** A kernel that Debian ships. */
export type KernelFlavour = "cloud" | "full";

/** A guest could not be fetched; the message says what to do. */
export class FetchError extends Error {
  override name = "FetchError";
}

const KERNEL_METAPACKAGES: Record<KernelFlavour, string> = {
  cloud: "linux-image-cloud-amd64",
  full: "linux-image-amd64",
};
const BUSYBOX_PACKAGE = "busybox-static";
const WORK_PREFIX = "fetch-";
const NEEDED_TOOLS = ["apt-get", "apt-cache", "apt-config", "dpkg-deb"];

/**
 * Gives the guest's parts, from the cache when they are there (then nothing is run and no network is
 * needed), else from the Debian archive.
 * @throws {FetchError} on a host without Debian's tools, without network, or when a package is missing.
 */
export async function fetchGuest(options: FetchOptions = {}): Promise<Guest> {
  const cacheDir = options.cacheDir ??
    guestCacheDir(options.flavour === "full" ? "guest-full" : "guest");
  if (!options.refresh) {
    const cached = await readCached(cacheDir);
    if (cached) return cached;
  }
  requireDebian();
  try {
    await mkdir(cacheDir, { recursive: true });
  } catch (cause) {
    throw new FetchError(
      `${cacheDir}: expected a folder to keep the guest in, cannot make it; set XDG_CACHE_HOME`,
      { cause },
    );
  }
  // One fetches, whoever comes meanwhile waits and then finds the cache filled.
  using lock = await Deno.open(join(cacheDir, "lock"), { create: true, write: true });
  await lock.lock(true);
  if (!options.refresh) {
    const cached = await readCached(cacheDir);
    if (cached) return cached;
  }
  // What an interrupted fetch has left behind; nobody else is fetching now.
  for (const entry of await readdir(cacheDir)) {
    if (entry.startsWith(WORK_PREFIX)) await rm(join(cacheDir, entry), { recursive: true });
  }
  const work = await mkdtemp(join(cacheDir, WORK_PREFIX));
  try {
    return await fetchInto(cacheDir, work, options);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/**
 * As {@link fetchGuest}, for tests: where a guest cannot be had, the reason is the result.
 */
export async function tryFetchGuest(options: FetchOptions = {}): Promise<Guest | string> {
  try {
    return await fetchGuest(options);
  } catch (error) {
    if (!(error instanceof FetchError)) throw error;
    return error.message.split("\n", 1)[0]!;
  }
}

/** Folder `vmctl/NAME` in the user's cache folder (XDG Base Directory Specification). */
export function guestCacheDir(name: string): string {
  const configured = Deno.env.get("XDG_CACHE_HOME");
  // The specification has relative paths ignored.
  const base = configured && isAbsolute(configured) ? configured : join(homedir(), ".cache");
  return join(base, "vmctl", name);
}

function requireDebian(): void {
  const path = (Deno.env.get("PATH") ?? "/usr/bin:/bin").split(":");
  const missing = NEEDED_TOOLS.filter((tool) => !path.some((dir) => existsSync(join(dir, tool))));
  if (missing.length > 0) {
    throw new FetchError(
      `expected a Debian host to fetch a kernel from, found no ${missing.join(", ")}; ` +
        `on another system give vmctl run a kernel and an initrd of your own`,
    );
  }
}

/** The record that makes a cache complete: it is written last. */
const RECORD = "guest.json";

interface GuestRecord {
  readonly tree: string;
  readonly release: string;
}

async function readCached(cacheDir: string): Promise<Guest | undefined> {
  let record: unknown;
  try {
    record = JSON.parse(await readFile(join(cacheDir, RECORD), "utf8"));
  } catch {
    return undefined;
  }
  if (!isRecord(record)) return undefined;
  const guest = guestIn(join(cacheDir, record.tree), record.release);
  return existsSync(guest.kernel) && existsSync(guest.busybox) ? guest : undefined;
}

function isRecord(value: unknown): value is GuestRecord {
  return typeof value === "object" && value !== null &&
    "tree" in value && typeof value.tree === "string" && !value.tree.includes("/") &&
    "release" in value && typeof value.release === "string" && !value.release.includes("/");
}

function guestIn(tree: string, release: string): Guest {
  return {
    kernel: join(tree, "boot", `vmlinuz-${release}`),
    busybox: [join(tree, "usr/bin/busybox"), join(tree, "bin/busybox")].find(existsSync) ??
      join(tree, "bin/busybox"),
    modules: join(tree, "lib/modules", release),
    release,
  };
}

async function fetchInto(cacheDir: string, work: string, options: FetchOptions): Promise<Guest> {
  const progress = options.progress ?? (() => {});
  const apt = await Apt.create(work, options.signal);

  progress("reading the package lists");
  const warnings = await apt.update();
  const metapackage = KERNEL_METAPACKAGES[options.flavour ?? "cloud"];
  const kernelPackage = findKernelPackage(await apt.show(metapackage));
  if (!kernelPackage) {
    throw new FetchError(
      `expected the package ${metapackage} in the sources of /etc/apt, found none` +
        (warnings ? `; apt-get update said:\n${warnings}` : ""),
    );
  }
  progress(`downloading ${kernelPackage} and ${BUSYBOX_PACKAGE}`);
  const archives = await apt.download([kernelPackage, BUSYBOX_PACKAGE]);

  progress("unpacking");
  const tree = join(work, "tree");
  await mkdir(tree);
  for (const archive of archives) {
    await runTool("dpkg-deb", ["-x", archive, tree], { signal: options.signal });
  }
  const release = kernelPackage.slice("linux-image-".length);
  for (const part of [guestIn(tree, release).kernel, guestIn(tree, release).busybox]) {
    if (!existsSync(part)) {
      throw new FetchError(`${archives.join(", ")}: expected ${part.slice(tree.length)} in them`);
    }
  }
  // A name of its own each time: another process may have a kernel of the old tree open.
  const name = `${release}-${Date.now().toString(36)}`;
  const previous = await listTrees(cacheDir);
  await rename(tree, join(cacheDir, name));
  const record: GuestRecord = { tree: name, release };
  await writeFile(join(work, RECORD), JSON.stringify(record));
  await rename(join(work, RECORD), join(cacheDir, RECORD));
  for (const old of previous) {
    await rm(join(cacheDir, old), { recursive: true, force: true });
  }
  return guestIn(join(cacheDir, name), release);
}

async function listTrees(cacheDir: string): Promise<string[]> {
  const entries = await readdir(cacheDir, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory() && !entry.name.startsWith(WORK_PREFIX))
    .map((entry) => entry.name);
}

/** The image that the metapackage's first stanza depends on. */
function findKernelPackage(stanzas: string): string | undefined {
  const depends = /^Depends: (.*)$/m.exec(stanzas)?.[1] ?? "";
  return /\blinux-image-[0-9][a-z0-9.+-]*/.exec(depends)?.[0];
}

/**
 * Downloads packages into a work folder, checked against the archive's signed lists.
 *
 * @returns The paths of the archives.
 */
export async function downloadPackages(
  work: string,
  { names, signal }: {
    readonly names: readonly string[];
    readonly signal?: AbortSignal | undefined;
  },
): Promise<string[]> {
  const apt = await Apt.create(work, signal);
  await apt.update();
  return await apt.download(names);
}

/** apt over private lists and caches in a work folder. */
class Apt {
  readonly #work: string;
  readonly #signal: AbortSignal | undefined;

  private constructor(work: string, signal: AbortSignal | undefined) {
    this.#work = work;
    this.#signal = signal;
  }

  static async create(work: string, signal: AbortSignal | undefined): Promise<Apt> {
    const apt = new Apt(work, signal);
    for (const dir of ["lists/partial", "cache/archives/partial", "archives"]) {
      await mkdir(join(work, dir), { recursive: true });
    }
    await writeFile(join(work, "status"), "");
    // The host's settings (proxies, mirrors, keys) without its hooks, which act on the host.
    const settings = await runTool("apt-config", ["dump"], { signal });
    const kept = settings.stdout.split("\n").filter((line) =>
      !/^(APT::Update|APT::Periodic|DPkg|Unattended-Upgrade|Dir::State|Dir::Cache)\b/.test(line)
    );
    const own: Record<string, string> = {
      "Dir::Etc::main": "/dev/null",
      "Dir::Etc::parts": "/dev/null",
      "Dir::State": work,
      "Dir::State::lists": join(work, "lists"),
      "Dir::State::status": join(work, "status"),
      "Dir::State::extended_states": join(work, "extended_states"),
      "Dir::Cache": join(work, "cache"),
      "Dir::Cache::archives": join(work, "cache/archives"),
      "Dir::Cache::pkgcache": "",
      "Dir::Cache::srcpkgcache": "",
      "Dir::Log": work,
      // As root, apt would drop to a user that cannot write here.
      "APT::Sandbox::User": "root",
      "APT::Architecture": "amd64",
      "Acquire::Languages": "none",
      "Acquire::Retries": "3",
    };
    for (const [key, value] of Object.entries(own)) kept.push(`${key} "${value}";`);
    await writeFile(join(work, "apt.conf"), kept.join("\n") + "\n");
    return apt;
  }

  /** Reads the archive's lists; gives apt's complaints, of which some are harmless. */
  async update(): Promise<string> {
    // A source that cannot be reached does not matter as long as another has the packages.
    return (await this.#run("apt-get", ["-q", "update"], { mayFail: true })).stderr.trim();
  }

  async show(name: string): Promise<string> {
    return (await this.#run("apt-cache", ["show", "--no-all-versions", name], { mayFail: true }))
      .stdout;
  }

  /** Downloads packages, checked against the signed lists; gives the paths of the archives. */
  async download(names: readonly string[]): Promise<string[]> {
    const dir = join(this.#work, "archives");
    await this.#run("apt-get", ["-q", "download", ...names], { cwd: dir });
    return (await readdir(dir)).filter((name) => name.endsWith(".deb")).map((name) =>
      join(dir, name)
    );
  }

  #run(command: string, args: string[], options: { cwd?: string; mayFail?: boolean } = {}) {
    const env = { APT_CONFIG: join(this.#work, "apt.conf"), LC_ALL: "C.UTF-8" };
    return runTool(command, args, { ...options, env, signal: this.#signal });
  }
}

interface RunOptions {
  readonly cwd?: string | undefined;
  readonly env?: Record<string, string> | undefined;
  readonly mayFail?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Runs a tool to its end. */
export async function runTool(
  command: string,
  args: string[],
  { cwd, env, mayFail, signal }: RunOptions,
): Promise<{ stdout: string; stderr: string }> {
  const output = await new Deno.Command(command, {
    args,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    ...cwd === undefined ? {} : { cwd },
    ...env === undefined ? {} : { env },
    ...signal === undefined ? {} : { signal },
  }).output();
  const decoder = new TextDecoder();
  const stdout = decoder.decode(output.stdout);
  const stderr = decoder.decode(output.stderr);
  signal?.throwIfAborted();
  if (!output.success && !mayFail) {
    throw new FetchError(
      `${command} ${args.join(" ")}: ended with status ${output.code}\n${stderr.trim()}`,
    );
  }
  return { stdout, stderr };
}
