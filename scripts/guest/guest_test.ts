import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GuestMemory } from "../../lib/memory/mod.ts";
import { loadKernel } from "../../lib/boot/mod.ts";
import { buildInitramfs, FetchError, fetchGuest, tryFetchGuest, writeVmlinux } from "./mod.ts";

/** Runs `action` with a folder of its own. */
async function withDir(action: (dir: string) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), "vmctl-guest-"));
  try {
    await action(dir);
  } finally {
    rmSync(dir, { recursive: true });
  }
}

Deno.test("a cached guest is used without a look at the archive", async () => {
  await withDir(async (dir) => {
    mkdirSync(join(dir, "tree/boot"), { recursive: true });
    mkdirSync(join(dir, "tree/bin"));
    writeFileSync(join(dir, "tree/boot/vmlinuz-1.2"), "");
    writeFileSync(join(dir, "tree/bin/busybox"), "");
    writeFileSync(join(dir, "guest.json"), JSON.stringify({ tree: "tree", release: "1.2" }));
    const guest = await fetchGuest({
      cacheDir: dir,
      progress: () => assert.fail("expected nothing to be done"),
    });
    assert.deepEqual(guest, {
      kernel: join(dir, "tree/boot/vmlinuz-1.2"),
      busybox: join(dir, "tree/bin/busybox"),
      modules: join(dir, "tree/lib/modules/1.2"),
      release: "1.2",
    });
  });
});

Deno.test("without Debian's tools the error says so", async () => {
  await withDir(async (dir) => {
    const path = Deno.env.get("PATH");
    Deno.env.set("PATH", dir);
    try {
      await assert.rejects(fetchGuest({ cacheDir: join(dir, "cache") }), {
        name: "FetchError",
        message: /expected a Debian host .* found no apt-get, apt-cache, apt-config, dpkg-deb/,
      });
      assert.match(String(await tryFetchGuest({ cacheDir: dir })), /expected a Debian host/);
    } finally {
      if (path !== undefined) Deno.env.set("PATH", path);
    }
  });
});

const isDebian = (await tryFetchGuest({ cacheDir: "/proc/no-such-folder" })).toString()
  .includes("XDG_CACHE_HOME");

Deno.test({
  name: "a cache folder that cannot be made is named" + (isDebian ? "" : " (skipped: no Debian)"),
  ignore: !isDebian,
  async fn() {
    await assert.rejects(fetchGuest({ cacheDir: "/proc/no-such-folder" }), FetchError);
  },
});

const guest = await tryFetchGuest();
const skipped = typeof guest === "string" ? ` (skipped: ${guest})` : "";

Deno.test({
  name: "the stock kernel is unpacked and loaded" + skipped,
  ignore: skipped !== "",
  async fn() {
    if (typeof guest === "string") return;
    using memory = GuestMemory.create({ sizeBytes: 256 * 1024 * 1024, backing: "mmap" });
    const { entry, format, payload } = await loadKernel(memory, {
      kernel: guest.kernel,
      cmdline: "quiet",
      cpuCount: 1,
    });
    assert.equal(format, "bzImage");
    assert.equal(entry.kind, "long64");
    // A kernel that had been left packed would be entered 512 bytes behind its start.
    if (payload === "lz4" || payload === "zstd" || payload === "gzip") {
      assert.equal(entry.rip, 0x100_0000);
    }
  },
});

Deno.test({
  name: "the vmlinux inside of the stock kernel boots by PVH too" + skipped,
  ignore: skipped !== "",
  async fn() {
    if (typeof guest === "string") return;
    const { kernel } = guest;
    await withDir(async (dir) => {
      const vmlinux = join(dir, "vmlinux");
      await writeVmlinux(kernel, vmlinux);
      assert.deepEqual([...readFileSync(vmlinux).subarray(0, 4)], [0x7f, 0x45, 0x4c, 0x46]);
      using memory = GuestMemory.create({ sizeBytes: 256 * 1024 * 1024, backing: "mmap" });
      const options = { kernel: vmlinux, cmdline: "quiet", cpuCount: 1 };
      assert.equal((await loadKernel(memory, options)).entry.kind, "long64");
      const { entry } = await loadKernel(memory, { ...options, protocol: "pvh" });
      assert.equal(entry.kind, "pvh32");
    });
  },
});

Deno.test({
  name: "an initramfs holds busybox, its applets and an init" + skipped,
  ignore: skipped !== "",
  async fn() {
    if (typeof guest === "string") return;
    const { busybox } = guest;
    const text = async (options: { script?: string; interactive?: boolean }) =>
      new TextDecoder("latin1").decode(await buildInitramfs({ busybox, ...options }));
    const scripted = await text({ script: "echo from the guest" });
    assert.match(scripted, /echo from the guest\n/);
    assert.match(scripted, /sh \/etc\/script\npoweroff -f\n/);
    assert.match(scripted, /usr\/bin\/env\0+\/bin\/busybox/);
    assert.match(await text({ interactive: true }), /setsid cttyhack sh -l\npoweroff -f\n/);
    await assert.rejects(text({ script: "x", interactive: true }), TypeError);
    await assert.rejects(text({}), TypeError);
  },
});

Deno.test({
  name: "apt leaves nothing behind but the guest" + skipped,
  ignore: skipped !== "",
  fn() {
    if (typeof guest === "string") return;
    const cache = join(guest.kernel, "../../..");
    const left = readdirSync(cache).filter((name) => name.startsWith("fetch-"));
    assert.deepEqual(left, []);
  },
});
