import assert from "node:assert/strict";
import { watchSession } from "./session.ts";

Deno.test("marks are found with their times, and a program that ends before one says so", async () => {
  await using session = watchSession("/bin/sh", {
    args: ["-c", "echo @@a; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo @@b"],
    timeoutMs: 600_000,
  });
  const a = await session.mark("@@a");
  const b = await session.mark("@@b");
  assert.ok(a.ms > 0 && b.ms >= a.ms, `${a.ms} ms, ${b.ms} ms`);
  assert.ok(b.cpuMs >= a.cpuMs);
  await assert.rejects(session.mark("@@c"), /expected "@@c", it ended after:\n@@a\n@@b/);
});
