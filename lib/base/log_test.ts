import assert from "node:assert/strict";
import { describeError, VmctlError } from "./errors.ts";
import {
  getLogLevel,
  getLogLevels,
  log,
  Logger,
  setLogColor,
  setLogLevel,
  setLogLevels,
  setLogSink,
} from "./log.ts";

function collect(body: () => void): string[] {
  const lines: string[] = [];
  const level = getLogLevel();
  setLogSink((line) => lines.push(line));
  setLogColor(false);
  try {
    body();
  } finally {
    setLogSink(undefined);
    setLogColor(undefined);
    setLogLevel(level);
  }
  return lines;
}

Deno.test("lines at and above the level come through, with their scope", () => {
  const lines = collect(() => {
    setLogLevel("info");
    log.error("a");
    log.debug("hidden");
    new Logger("vm").child("vcpu0").info("b");
    assert.ok(log.enabled("warn"));
    assert.ok(!log.enabled("debug"));
    setLogLevel("trace");
    log.trace("c");
  });
  assert.deepEqual(lines, ["error vmctl: a\n", "info  vm:vcpu0: b\n", "trace vmctl: c\n"]);
});

Deno.test("modules have levels of their own, numbered ones also together", () => {
  const vcpu1 = new Logger("vcpu1");
  const disk = new Logger("vm").child("disk");
  const lines = collect(() => {
    setLogLevels({ level: "warn", modules: { vcpu: "debug", vcpu1: "error", vm: "trace" } });
    vcpu1.warn("hidden");
    new Logger("vcpu0").debug("a");
    new Logger("vcpu0").trace("hidden");
    disk.trace("b");
    log.info("hidden");
    setLogLevels({ level: "warn", modules: { disk: "error", vm: "trace" } });
    disk.warn("hidden");
    vcpu1.warn("c");
    assert.deepEqual(getLogLevels(), { level: "warn", modules: { disk: "error", vm: "trace" } });
    setLogLevels({ level: "info", modules: {} });
    disk.debug("hidden");
  });
  assert.deepEqual(lines, ["debug vcpu0: a\n", "trace vm:disk: b\n", "warn  vcpu1: c\n"]);
});

Deno.test("control characters of a message do not reach the terminal", () => {
  const lines = collect(() => log.error("a\x1b[2Jb\r\x9b\tc\nd"));
  assert.deepEqual(lines, ["error vmctl: a\\x1b[2Jb\\x0d\\x9b\tc\nd\n"]);
});

Deno.test("the text of an error names its causes once", () => {
  const inner = new Error("disk full");
  assert.equal(
    describeError(new VmctlError("cannot save", { cause: inner })),
    "cannot save: disk full",
  );
  assert.equal(
    describeError(new VmctlError("save: disk full", { cause: inner })),
    "save: disk full",
  );
  assert.equal(describeError("text"), "text");
  const loop = new Error("loop");
  loop.cause = loop;
  assert.equal(describeError(loop), "loop");
});

Deno.test("stderr gets plain lines when it is no terminal", async () => {
  const url = new URL("./mod.ts", import.meta.url).href;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "eval",
      `import { log } from ${JSON.stringify(url)}; log.warn("careful"); log.debug("no");`,
    ],
  }).output();
  assert.equal(new TextDecoder().decode(stderr), "warn  vmctl: careful\n");
  assert.equal(stdout.length, 0);
});
