import assert from "node:assert/strict";
import { join } from "node:path";
import { clearSocketPath, connectUnix, listenUnix, SocketFile } from "./mod.ts";

async function inFolder(body: (folder: string) => void): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "vmctl-socket-path-" });
  try {
    body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const clear = (path: string) =>
  clearSocketPath(path, () => connectUnix(path, "stream", { nonblock: true }));
const exists = (path: string) => {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
};

Deno.test("only a socket where nobody listens is cleared away", async () => {
  await inFolder((folder) => {
    const path = join(folder, "socket");
    assert.equal(clear(path), "free");
    {
      using _listener = listenUnix(path, "stream");
      assert.equal(clear(path), "taken");
    }
    assert.ok(exists(path));
    assert.equal(clear(path), "free");
    assert.ok(!exists(path));
    {
      using _other = listenUnix(path, "seqpacket");
      assert.equal(clear(path), "taken");
    }
    Deno.removeSync(path);
    Deno.writeTextFileSync(path, "precious");
    assert.equal(clear(path), "no socket");
    assert.equal(Deno.readTextFileSync(path), "precious");
    assert.throws(() => clear(join(path, "below")), {
      name: "VmctlError",
      message: "a part of the path is not a folder",
    });
  });
});

Deno.test("a socket's file goes with it, but not one that took its place", async () => {
  await inFolder((folder) => {
    const path = join(folder, "socket");
    {
      using _listener = listenUnix(path, "stream");
      using _file = new SocketFile(path);
    }
    assert.ok(!exists(path));
    {
      using _listener = listenUnix(path, "stream");
      using _file = new SocketFile(path);
      Deno.renameSync(path, `${path}.old`);
      Deno.writeTextFileSync(path, "another");
    }
    assert.equal(Deno.readTextFileSync(path), "another");
  });
});
