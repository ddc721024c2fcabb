import assert from "node:assert/strict";
import fc from "fast-check";
import { HostError } from "./errno.ts";
import { eventfd, signalEvent, takeEvent } from "./event.ts";
import { getCloseOnExec, listOpenFds } from "./fd.ts";
import { getgid, getuid } from "./process.ts";
import { getpid } from "./signal.ts";
import { connectUnix, listenUnix, socketPair, UnixSeqpacket } from "./socket.ts";

const isCode = (code: string) => (error: unknown) =>
  error instanceof HostError && error.code === code;
const encode = (text: string) => new TextEncoder().encode(text);

function withFolder(body: (folder: string) => void): void {
  const folder = Deno.makeTempDirSync();
  try {
    body(folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

Deno.test("a message carries descriptors, which work and close at exec", () => {
  const [a, b] = socketPair("seqpacket");
  using left = a;
  using right = b;
  using event = eventfd(0, { nonblock: true });
  using other = eventfd(0, { nonblock: true });
  assert.equal(left.sendMessage(encode("take these"), [event, other.raw]), 10);
  const message = right.recvMessage(100, 4);
  assert.ok(message);
  assert.equal(new TextDecoder().decode(message.bytes), "take these");
  assert.equal(message.fds.length, 2);
  for (const fd of message.fds) {
    assert.ok(getCloseOnExec(fd));
    signalEvent(fd);
    fd.close();
  }
  assert.deepEqual([takeEvent(event), takeEvent(other)], [1, 1]);
  assert.ok(!message.truncated && !message.fdsTruncated && !message.endOfFile);
});

Deno.test("borders are kept, cut messages are told, surplus descriptors are closed", () => {
  const before = listOpenFds().length;
  {
    const [a, b] = UnixSeqpacket.pair({ nonblock: true });
    using left = a;
    using right = b;
    left.sendMessage(encode("one"));
    left.sendMessage(encode("two long"));
    assert.equal(right.recvMessage(3)?.truncated, false);
    const cut = right.recvMessage(3);
    assert.equal(new TextDecoder().decode(cut?.bytes), "two");
    assert.equal(cut?.truncated, true);
    assert.equal(right.recvMessage(3), undefined);

    using event = eventfd();
    for (let most = 0; most < 6; most++) {
      left.sendMessage(encode("x"), new Array(5).fill(event));
      const message = right.recvMessage(10, most);
      assert.ok(message);
      assert.equal(message.fds.length, Math.min(most, 5));
      assert.equal(message.fdsTruncated, most < 5);
      for (const fd of message.fds) fd.close();
    }
    assert.throws(() => left.sendMessage(encode("x"), new Array(254).fill(event)), isCode("E2BIG"));
    assert.throws(() => left.sendMessage(encode("x"), [987_654]), isCode("EBADF"));
  }
  assert.equal(listOpenFds().length, before);
});

Deno.test("an empty packet is not the end", () => {
  const [a, b] = UnixSeqpacket.pair();
  using left = a;
  using right = b;
  left.sendMessage(new Uint8Array(0));
  assert.equal(right.recvMessage(10)?.endOfFile, false);
  left.fd.close();
  assert.equal(right.recvMessage(10)?.endOfFile, true);
  assert.throws(() => right.sendMessage(encode("x")), isCode("EPIPE"));
});

Deno.test("a full non-blocking socket says so", () => {
  const [a, b] = UnixSeqpacket.pair({ nonblock: true });
  using left = a;
  using right = b;
  let sent = 0;
  while (left.sendMessage(new Uint8Array(1000)) > 0) sent++;
  assert.ok(sent > 0);
  for (let taken = 0; taken < sent; taken++) {
    assert.equal(right.recvMessage(1000)?.bytes.length, 1000);
  }
  assert.equal(right.recvMessage(1000, 0, { dontWait: true }), undefined);
});

Deno.test("listening, connecting, and who is there", () =>
  withFolder((folder) => {
    const path = `${folder}/socket`;
    assert.throws(() => connectUnix(path, "seqpacket"), isCode("ENOENT"));
    {
      using listener = UnixSeqpacket.listen(path, { nonblock: true });
      assert.equal((Deno.statSync(path).mode ?? 0) & 0o777, 0o600);
      assert.equal(listener.accept(), undefined);
      using client = UnixSeqpacket.connect(path);
      using server = listener.accept({ nonblock: true });
      assert.ok(server);
      assert.deepEqual(server.peerCredentials(), { pid: getpid(), uid: getuid(), gid: getgid() });
      assert.equal(server.recvMessage(10), undefined);
      client.sendMessage(encode("hi"));
      assert.equal(new TextDecoder().decode(server.recvMessage(10)?.bytes), "hi");
      assert.throws(() => connectUnix(path, "stream"), isCode("EPROTOTYPE"));
      assert.throws(() => listenUnix(path, "seqpacket"), isCode("EADDRINUSE"));
    }
    assert.throws(() => connectUnix(path, "seqpacket"), isCode("ECONNREFUSED"));
  }));

Deno.test("paths longer than a socket address work, absurd ones are refused", () =>
  withFolder((folder) => {
    const deep = `${folder}/${"d".repeat(100)}`;
    Deno.mkdirSync(deep);
    const path = `${deep}/socket`;
    using listener = listenUnix(path, "stream", { mode: 0o660 });
    assert.equal((Deno.statSync(path).mode ?? 0) & 0o777, 0o660);
    using client = connectUnix(path, "stream");
    using server = listener.accept();
    client.sendMessage(encode("stream"));
    assert.equal(server?.recvMessage(3)?.bytes.length, 3);
    assert.equal(server?.recvMessage(10)?.bytes.length, 3);
    assert.throws(() => connectUnix("", "stream"), isCode("EINVAL"));
    assert.throws(() => connectUnix("a\0b", "stream"), isCode("EINVAL"));
    assert.throws(
      () => connectUnix(`${folder}/${"n".repeat(200)}`, "stream"),
      isCode("ENAMETOOLONG"),
    );
  }));

Deno.test("any payload and number of descriptors arrives as sent", () => {
  const [a, b] = UnixSeqpacket.pair();
  using left = a;
  using right = b;
  using event = eventfd();
  const payload = fc.uint8Array({ minLength: 1, maxLength: 300 });
  fc.assert(fc.property(payload, fc.integer({ min: 0, max: 9 }), (bytes, count) => {
    left.sendMessage(bytes, new Array(count).fill(event));
    const message = right.recvMessage(300, 9);
    for (const fd of message?.fds ?? []) fd.close();
    assert.deepEqual([...message?.bytes ?? []], [...bytes]);
    assert.equal(message?.fds.length, count);
  }));
});
