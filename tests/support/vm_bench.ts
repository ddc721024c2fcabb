/**
 * A place to run VMs in: folders of its own, so that what a VM leaves behind is seen.
 *
 * @module
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import type { VmRequest, VmResponse, VmState } from "../../lib/control/mod.ts";
import { queryState, requestVm } from "../../lib/control/mod.ts";
import type { TestEngine } from "./engines.ts";
import {
  type RunOptions,
  type RunResult,
  runVmctl,
  startVmctl,
  type VmctlProcess,
} from "./vmctl.ts";

/** How long a VM may take for what a test waits for, in ms: whoever takes longer hangs. */
export const PATIENCE_MS = 240_000;

/** Folders and helpers for the VMs of one test. */
export class VmBench implements AsyncDisposable {
  /** Where the test may write. */
  readonly folder: string;
  /** Environment of the VMs. */
  readonly env: Record<string, string>;
  readonly #engine: TestEngine;
  #files = 0;

  constructor(engine: TestEngine) {
    this.#engine = engine;
    this.folder = Deno.makeTempDirSync({ prefix: "vmctl-test-" });
    for (const name of ["run", "tmp", "files"]) Deno.mkdirSync(join(this.folder, name));
    this.env = {
      XDG_RUNTIME_DIR: join(this.folder, "run"),
      TMPDIR: join(this.folder, "tmp"),
      XDG_CACHE_HOME: join(this.folder, "cache"),
      NO_COLOR: "1",
    };
  }

  /** A path for a file of the test. */
  path(name: string): string {
    return join(this.folder, "files", name);
  }

  /** Writes `bytes` to a new file and tells its path. */
  file(bytes: Uint8Array | string): string {
    const path = this.path(`file${this.#files++}`);
    if (typeof bytes === "string") Deno.writeTextFileSync(path, bytes);
    else Deno.writeFileSync(path, bytes);
    return path;
  }

  /** Arguments that run `kernel`, after `options`. */
  args(kernel: Uint8Array, options: readonly string[] = []): string[] {
    const mem = options.includes("--mem") ? [] : ["--mem", "64"];
    const base = ["run", "--hypervisor", this.#engine.kind, "--log-level", "debug", ...mem];
    return [...base, ...options, this.file(kernel)];
  }

  /** Starts a VM. */
  start(kernel: Uint8Array, options: readonly string[] = []): Promise<VmctlProcess> {
    return startVmctl(this.args(kernel, options), { env: this.env });
  }

  /** Runs a VM to its end, with `stdin` or nothing on its standard input. */
  run(
    kernel: Uint8Array,
    options: readonly string[] = [],
    settings: RunOptions = {},
  ): Promise<RunResult> {
    const { env = {}, ...rest } = settings;
    return runVmctl(this.args(kernel, options), {
      timeoutMs: PATIENCE_MS,
      ...rest,
      env: { ...this.env, ...env },
    });
  }

  /** Runs another command of vmctl. */
  vmctl(...args: string[]): Promise<RunResult> {
    return runVmctl(args, { env: this.env, timeoutMs: PATIENCE_MS });
  }

  /** Control socket of VM `name`. */
  socket(name: string): string {
    return join(this.folder, "run", "vmctl", `${name}.sock`);
  }

  /** Sends a request to VM `name`. */
  request(name: string, request: VmRequest): Promise<VmResponse> {
    return requestVm(this.socket(name), request);
  }

  /** State of VM `name`. */
  state(name: string): Promise<VmState> {
    return queryState(this.socket(name));
  }

  /** Waits until `condition` holds. */
  async until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS;
    while (!await condition()) {
      if (performance.now() > deadline) throw new Error(`still not: ${what}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** Checks that nothing of the VMs is left: no process, no socket, no temporary file. */
  async checkClean(): Promise<void> {
    await this.until("no process left", () => this.processes().length === 0);
    // The folder itself stays for the next VM.
    for (const name of filesIn(this.env["XDG_RUNTIME_DIR"]!)) {
      assert.equal(name, "vmctl");
      assert.deepEqual(filesIn(join(this.env["XDG_RUNTIME_DIR"]!, name)), []);
    }
    assert.deepEqual(filesIn(this.env["TMPDIR"]!), []);
  }

  /** Processes that were started with this bench's environment. */
  processes(): number[] {
    const mark = `XDG_RUNTIME_DIR=${this.env["XDG_RUNTIME_DIR"]}\0`;
    return filesIn("/proc").map(Number).filter((pid) => {
      if (!Number.isInteger(pid)) return false;
      try {
        return Deno.readTextFileSync(`/proc/${pid}/environ`).includes(mark);
      } catch {
        return false;
      }
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    Deno.removeSync(this.folder, { recursive: true });
    return Promise.resolve();
  }
}

function filesIn(folder: string): string[] {
  return [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
}
