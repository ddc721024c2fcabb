/**
 * The asking end of a control socket.
 *
 * @module
 */

import { describeError } from "../base/mod.ts";
import {
  type FdLike,
  isHostError,
  PollEvent,
  Reactor,
  UnixSeqpacket,
  type UnixSocket,
} from "../host/mod.ts";
import { ControlError, NoAnswerError, NotRunningError } from "./errors.ts";
import { ControlListener } from "./listener.ts";
import {
  encodeMessage,
  MAX_RESPONSE_BYTES,
  parseResponse,
  type VmRequest,
  type VmResponse,
  type VmState,
} from "./protocol.ts";
import { runDirectory, socketsIn } from "./run_directory.ts";

/** How long a VM may take to answer, in ms: longer than it waits for its vCPUs and devices, 80 s. */
const DEFAULT_TIMEOUT_MS = 90_000;
/** How long each VM of a list may take, in ms. */
const LIST_TIMEOUT_MS = 5_000;
/** How long to wait before another try when a VM has too many clients waiting, in ms. */
const CONNECT_RETRY_MS = 20;

/** Settings of a {@link ControlClient}. */
export interface ControlClientOptions {
  /** Waits for the socket; one of its own where absent. */
  readonly reactor?: Reactor;
  /** Longest wait for the connection and for each answer, in ms. */
  readonly timeoutMs?: number;
}

/** A connection to a running VM. */
export class ControlClient implements Disposable {
  readonly #path: string;
  readonly #socket: UnixSocket;
  readonly #reactor: Reactor;
  readonly #ownReactor: boolean;
  readonly #timeoutMs: number;
  #ended = false;

  private constructor(socket: UnixSocket, path: string, options: ControlClientOptions) {
    this.#socket = socket;
    this.#path = path;
    this.#ownReactor = options.reactor === undefined;
    this.#reactor = options.reactor ?? new Reactor();
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  }

  /**
   * Connects to the VM that listens at `path`.
   *
   * @throws {NotRunningError} when nobody does
   * @throws {ControlError} when it takes nobody in, or the host refuses.
   */
  static async connect(path: string, options: ControlClientOptions = {}): Promise<ControlClient> {
    const deadline = performance.now() + (options.timeoutMs ?? DEFAULT_TIMEOUT_MS);
    for (;;) {
      try {
        return new ControlClient(UnixSeqpacket.connect(path, { nonblock: true }), path, options);
      } catch (error) {
        if (isHostError(error, "ENOENT", "ECONNREFUSED")) {
          throw new NotRunningError(`no VM listens at ${path}: ${error.reason}`);
        }
        if (!isHostError(error, "EAGAIN") || performance.now() > deadline) {
          const reason = isHostError(error) ? error.reason : describeError(error);
          throw new ControlError(`cannot connect to the VM at ${path}: ${reason}`);
        }
        await new Promise((resolve) => setTimeout(resolve, CONNECT_RETRY_MS));
      }
    }
  }

  /** Whether the VM was found to have hung up, which it does when it has released everything. */
  get ended(): boolean {
    return this.#ended;
  }

  /**
   * Asks, and gives the answer, whatever it is. One request at a time.
   *
   * @param fds descriptors that go along; they stay open here
   * @throws {NoAnswerError} when the VM does not answer in time
   * @throws {ControlError} when it is gone, or does not answer intelligibly.
   */
  async request(request: VmRequest, fds: readonly FdLike[] = []): Promise<VmResponse> {
    const packet = encodeMessage(request);
    try {
      while (this.#socket.sendMessage(packet, fds) < 0) await this.#ready(PollEvent.Out);
      for (;;) {
        const message = this.#socket.recvMessage(MAX_RESPONSE_BYTES);
        if (message === undefined) {
          await this.#ready(PollEvent.In);
          continue;
        }
        if (message.endOfFile) {
          this.#ended = true;
          throw new ControlError(`the VM at ${this.#path} ended`);
        }
        return parseResponse(message.bytes);
      }
    } catch (error) {
      if (error instanceof ControlError) throw error;
      if (isHostError(error, "ECONNRESET", "EPIPE")) {
        this.#ended = true;
        throw new ControlError(`the VM at ${this.#path} ended`);
      }
      throw new ControlError(`the VM at ${this.#path} cannot be asked`, { cause: error });
    }
  }

  /**
   * Waits until the VM hangs up, which it does when it has released everything.
   *
   * @throws {ControlError} when it does not in time.
   */
  async waitForEnd(): Promise<void> {
    try {
      for (;;) {
        const message = this.#socket.recvMessage(MAX_RESPONSE_BYTES);
        if (message?.endOfFile) return;
        if (message === undefined) await this.#ready(PollEvent.In);
      }
    } catch (error) {
      if (!isHostError(error, "ECONNRESET")) throw error;
    }
  }

  [Symbol.dispose](): void {
    this.#socket[Symbol.dispose]();
    if (this.#ownReactor) this.#reactor[Symbol.dispose]();
  }

  async #ready(events: number): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(
      () =>
        reject(
          new NoAnswerError(`the VM at ${this.#path} did not answer within ${this.#timeoutMs} ms`),
        ),
      this.#timeoutMs,
    );
    const watch = this.#reactor.watch(this.#socket.fd, events, () => resolve());
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      watch[Symbol.dispose]();
    }
  }
}

/**
 * Sends one request to the VM that listens at `path` and gives the answer.
 *
 * @throws {NotRunningError} when there is none
 * @throws {ControlError} as {@link ControlClient.request}.
 */
export async function requestVm(
  path: string,
  request: VmRequest,
  options: ControlClientOptions = {},
): Promise<VmResponse> {
  using client = await ControlClient.connect(path, options);
  return await client.request(request);
}

/**
 * Ends the VM that listens at `path`, and waits until it has released everything.
 *
 * @returns the answer; the VM has ended only where it is `"Ok"`, by this or because somebody else ended it
 * @throws {NotRunningError} when there is none
 * @throws {ControlError} as {@link ControlClient.request}, and when it does not end in time.
 */
export async function stopVm(
  path: string,
  options: ControlClientOptions = {},
): Promise<VmResponse> {
  using client = await ControlClient.connect(path, options);
  try {
    const answer = await client.request("Exit");
    if (answer === "Ok") await client.waitForEnd();
    return answer;
  } catch (error) {
    if (client.ended) return "Ok";
    throw error;
  }
}

/** The state of the VM that listens at `path`. Errors as {@link requestVm}. */
export async function queryState(
  path: string,
  options: ControlClientOptions = {},
): Promise<VmState> {
  const answer = await requestVm(path, { Vmctl: "State" }, options);
  if (typeof answer === "object" && "Vmctl" in answer && "State" in answer.Vmctl) {
    return answer.Vmctl.State;
  }
  throw new ControlError(`the VM at ${path} answered ${JSON.stringify(answer)} to State`);
}

/** A VM of {@link listRunning}. */
export interface RunningVm {
  /** Its name. */
  readonly name: string;
  /** Where its control socket is. */
  readonly path: string;
  /** Its state; undefined when it listens and did not tell in time. */
  readonly state: VmState | undefined;
}

/**
 * The VMs that listen in `directory`, the user's run directory by default, by name. Sockets of VMs that
 * were killed are removed.
 */
export async function listRunning(directory: string = runDirectory()): Promise<RunningVm[]> {
  using reactor = new Reactor();
  const all = await Promise.all(
    socketsIn(directory).map(async ({ name, path }) => {
      try {
        return {
          name,
          path,
          state: await queryState(path, { reactor, timeoutMs: LIST_TIMEOUT_MS }),
        };
      } catch (error) {
        if (error instanceof NotRunningError) return undefined;
        if (error instanceof ControlError) return { name, path, state: undefined };
        throw error;
      }
    }),
  );
  if (all.includes(undefined)) await ControlListener.sweep(directory);
  return all.filter((vm) => vm !== undefined);
}
