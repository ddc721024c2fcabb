/** What the host's /proc shows of devices in their jails. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { DEVICE_KINDS, type DeviceKindName } from "../../devices/mod.ts";
import { memfdCreate, Reactor } from "../../host/mod.ts";
import { VhostUserFrontend } from "../../virtio/mod.ts";
import { jailTest, openKind, SOURCES_PROGRAM } from "./testing/jail_rig.ts";

const NAMESPACES = ["user", "mnt", "pid", "net", "ipc"];
const TARGETS = SOURCES_PROGRAM.mounts.map(({ target }) => target);

function namespace(pid: number | "self", name: string): string {
  return Deno.readLinkSync(`/proc/${pid}/ns/${name}`);
}

function descriptors(pid: number | "self"): string[] {
  const links: string[] = [];
  for (const { name } of Deno.readDirSync(`/proc/${pid}/fd`)) {
    try {
      links.push(Deno.readLinkSync(`/proc/${pid}/fd/${name}`));
    } catch (error) {
      // The one that lists them.
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  return links;
}

function isWithin(path: string, folders: readonly string[]): boolean {
  return folders.some((folder) => path === folder || path.startsWith(`${folder}/`));
}

/** Status of a thread (proc_pid_status(5)); undefined where it has ended: the runtime ends idle ones. */
function threadStatus(pid: number, thread: string): string | undefined {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/task/${thread}/status`);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || `${error}`.includes("os error 3)")) return;
    throw error;
  }
}

/** Every thread is without capabilities and under a filter. */
function checkThreads(pid: number): void {
  let threads = 0;
  for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
    const status = threadStatus(pid, name);
    if (status === undefined) continue;
    threads++;
    const field = (key: string) =>
      new RegExp(`^${key}:\\s*(.*?)\\s*$`, "m").exec(status)?.[1] ?? "";
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) {
      assert.match(field(set), /^0+$/, `${set} of thread ${name}`);
    }
    assert.deepEqual(["NoNewPrivs", "Seccomp"].map(field), ["1", "2"]);
    // In a namespace of processes within ours, of which it is the first.
    const numbers = field("NSpid").split(/\s+/);
    assert.equal(numbers.length, namespaceDepth() + 1);
    if (Number(name) === pid) assert.equal(numbers.at(-1), "1");
  }
  assert.ok(threads > 1);
}

/** In how many namespaces of processes this process is. */
function namespaceDepth(): number {
  const status = Deno.readTextFileSync("/proc/self/status");
  return /^NSpid:\s*(.*)$/m.exec(status)![1]!.trim().split(/\s+/).length;
}

/** Nothing is there but mounts, and the folders that they are in; nothing can be written. */
function checkRoot(pid: number): void {
  const points: string[] = [];
  for (const line of Deno.readTextFileSync(`/proc/${pid}/mountinfo`).trim().split("\n")) {
    // id parent device root mount-point options (proc_pid_mountinfo(5)).
    const [, , , , point = "", options = ""] = line.split(" ");
    points.push(point);
    assert.ok(point === "/" || isWithin(point, TARGETS), point);
    for (const option of ["ro", "nosuid", "nodev"]) {
      assert.ok(options.split(",").includes(option), `${point}: ${options}`);
    }
  }
  assert.deepEqual(TARGETS.filter((target) => !points.includes(target)), []);
  const root = `/proc/${pid}/root`;
  const visit = (folder: string) => {
    for (const { name, isDirectory } of Deno.readDirSync(root + folder)) {
      const path = join(folder, name);
      if (TARGETS.includes(path)) continue;
      assert.ok(isDirectory && TARGETS.some((target) => target.startsWith(`${path}/`)), path);
      visit(path);
    }
  };
  visit("/");
  assert.equal(Deno.readLinkSync(`/proc/${pid}/cwd`), "/");
}

/** What it was given, and what its runtime has of its own. */
function checkDescriptors(pid: number, { kind, folder }: { kind: string; folder: string }): void {
  const links = descriptors(pid);
  const shared = new Set(descriptors("self"));
  const files = ["/dev/null", ...TARGETS, ...(kind === "block" ? [join(folder, "disk")] : [])];
  const pipes = new Set<string>();
  for (const link of links) {
    if (link.startsWith("pipe:")) pipes.add(link);
    else if (link.startsWith("socket:")) assert.ok(!shared.has(link), link);
    else if (!/^anon_inode:\[(eventpoll|eventfd|timerfd|io_uring)\]$/.test(link)) {
      assert.ok(isWithin(link, files), `${kind}: ${link}`);
    }
  }
  // For its log; a console's for what it reads and writes.
  assert.equal(pipes.size, kind === "console" ? 2 : 1);
  assert.ok(!links.some((link) => link.includes("seccomp")), "it does not listen to itself");
  assert.equal(links.some((link) => link === join(folder, "disk")), kind === "block");
}

jailTest(
  "a jailed device has nothing but what it was given",
  { program: SOURCES_PROGRAM },
  async (place) => {
    const { folder, launcher } = place;
    using reactor = new Reactor();
    // What every child gets that is not kept from it.
    using _decoy = memfdCreate("decoy", 0);
    using stack = new DisposableStack();
    await using devices = new AsyncDisposableStack();
    const start = async (kind: DeviceKindName) => {
      const opened = stack.use(await openKind(kind, folder));
      const order = { name: kind, kind, opened, logLevel: "info" as const };
      const device = devices.use(await launcher.launch(order));
      // It answers when it has been confined.
      stack.use(await VhostUserFrontend.connect({ name: kind, socket: device.socket, reactor }));
      assert.ok(device.pid !== undefined);
      return { kind, pid: device.pid };
    };
    const started = await Promise.all(DEVICE_KINDS.map(start));
    const seen = Object.fromEntries(NAMESPACES.map((name) => [name, [namespace("self", name)]]));
    for (const { kind, pid } of started) {
      checkThreads(pid);
      checkRoot(pid);
      checkDescriptors(pid, { kind, folder });
      const devices = Deno.readTextFileSync(`/proc/${pid}/net/dev`).trim().split("\n").slice(2);
      assert.deepEqual(devices.map((line) => line.split(":")[0]?.trim()), ["lo"]);
      for (const name of NAMESPACES) {
        const own = namespace(pid, name);
        assert.ok(!seen[name]?.includes(own), `${kind} shares ${own}`);
        seen[name]?.push(own);
      }
    }
  },
);
