import assert from "node:assert/strict";
import { FetchError, fetchUserland, tryFetchGuest } from "../scripts/guest/mod.ts";
import { CheckReader, CHECKS, scriptOf } from "../scripts/userland/checks.ts";
import { runGuest } from "../scripts/userland/guest_run.ts";
import { vmctlBinary } from "./support/vmctl.ts";

const guest = await tryFetchGuest();
const image = typeof guest === "string" ? new FetchError(guest) : await tryFetchUserland();
const skipped = typeof image === "string" ? "" : ` (skipped: ${image.message.split("\n", 1)[0]})`;

async function tryFetchUserland(): Promise<string | FetchError> {
  try {
    return await fetchUserland();
  } catch (error) {
    if (!(error instanceof FetchError)) throw error;
    return error;
  }
}

Deno.test({
  name: `userland: Debian's bash, python3, gcc, dpkg and openssl work in a guest${skipped}`,
  ignore: skipped !== "",
  async fn() {
    assert(typeof guest === "object" && typeof image === "string");
    const folder = await Deno.makeTempDir({ prefix: "vmctl-userland-" });
    try {
      const checks = CHECKS.filter(({ slow }) => !slow);
      const reader = new CheckReader(checks);
      const lines: string[] = [];
      const end = await runGuest({
        vmctl: await vmctlBinary(),
        kernel: guest.kernel,
        image,
        script: scriptOf(checks),
        cpus: 1,
        memoryMib: 3000,
        folder,
        timeoutMs: 900_000,
        onLine: (line) => {
          lines.push(line);
          reader.line(line);
        },
      });
      assert.equal(end.code, 0, end.stderr + lines.slice(-30).join("\n"));
      for (const { check, passed, output } of reader.results) {
        assert(passed, `${check.name}: expected ${check.expected}, got\n${output}`);
      }
      assert.equal(reader.results.length, checks.length, lines.slice(-30).join("\n"));
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
