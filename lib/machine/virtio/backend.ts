/**
 * The back end of a device while it lives, and the next one after its death.
 *
 * @module
 */

import { Alarm, describeError, Logger } from "../../base/mod.ts";
import type { Reactor } from "../../host/mod.ts";
import {
  DeviceType,
  Feature,
  type FrontendState,
  MAX_DEVICE_CONFIG_BYTES,
  MAX_QUEUES,
  ProtocolFeature,
  VhostUserError,
  VhostUserFrontend,
} from "../../virtio/mod.ts";
import { DeviceViolationError, MachineError } from "../errors.ts";
import type { BackendLink, VirtioDevice } from "./device.ts";

const log = new Logger("virtio");

/** How long a launcher may take to say why a back end ended, in ms. */
const REASON_TIMEOUT_MS = 5000;
/** How long to try to reach a successor, in ms, and how long between two tries. */
const REVIVE_TIMEOUT_MS = 30_000;
const REVIVE_INTERVAL_MS = 100;

/** Features that a front end has no use for: those of older drivers, and what the machine does not do. */
const UNSUPPORTED = 1n << 24n | 1n << 26n | 1n << 27n | Feature.AccessPlatform |
  1n << 37n | Feature.NotificationData | Feature.RingReset;

/** What devices of a type have where nobody says more. */
interface TypeTraits {
  readonly queueCount: number;
  /** Bytes of the configuration space that every back end of the type has. */
  readonly configBytes: number;
}

const TRAITS: Readonly<Record<number, TypeTraits>> = {
  [DeviceType.Net]: { queueCount: 2, configBytes: 12 },
  [DeviceType.Block]: { queueCount: 1, configBytes: 60 },
  [DeviceType.Console]: { queueCount: 2, configBytes: 12 },
  [DeviceType.Entropy]: { queueCount: 1, configBytes: 0 },
  [DeviceType.Balloon]: { queueCount: 3, configBytes: 16 },
  [DeviceType.P9]: { queueCount: 1, configBytes: 0 },
  [DeviceType.Gpu]: { queueCount: 2, configBytes: 16 },
  [DeviceType.Input]: { queueCount: 2, configBytes: 136 },
  [DeviceType.Vsock]: { queueCount: 3, configBytes: 8 },
  [DeviceType.Fs]: { queueCount: 2, configBytes: 44 },
};
const OTHER: TypeTraits = { queueCount: 1, configBytes: 0 };

/** What a back end is told of, and whom it tells. */
export interface BackendOptions {
  readonly device: VirtioDevice;
  readonly reactor: Reactor;
  /** Ends attempts to reach it: the VM ends. */
  readonly signal: AbortSignal;
  /** It is gone. */
  readonly onDeath: () => void;
  readonly onConfigChange: () => void;
  readonly onQueueError: (index: number) => void;
}

/** A back end that was reached. */
export class Backend implements AsyncDisposable {
  readonly #options: BackendOptions;
  readonly #link: BackendLink;
  readonly #frontend: VhostUserFrontend;
  /** The configuration space as it was read first. */
  readonly config: Uint8Array;

  private constructor(
    options: BackendOptions,
    parts: { link: BackendLink; frontend: VhostUserFrontend; config: Uint8Array },
  ) {
    this.#options = options;
    this.#link = parts.link;
    this.#frontend = parts.frontend;
    this.config = parts.config;
  }

  /**
   * Launches a back end and learns what it offers.
   *
   * @param state of its predecessor's front end
   * @throws {VmctlError} where it cannot be reached or is no virtio 1 device.
   */
  static async launch(options: BackendOptions, state?: FrontendState): Promise<Backend> {
    const { device, signal } = options;
    await using stack = new AsyncDisposableStack();
    const link = stack.use(await device.launch(signal));
    // The back end may be busy with another front end, or hang, and the VM's end does not wait for that.
    const giveUp = () => link.socket.shutdown("both");
    signal.addEventListener("abort", giveUp);
    let frontend: VhostUserFrontend | undefined;
    try {
      frontend = stack.use(await connect(link, options, state));
      if ((frontend.features & Feature.Version1) === 0n) {
        throw new MachineError(`${device.name}: its back end is no device of virtio 1`);
      }
      const config = await readConfig(frontend, traitsOf(device).configBytes);
      stack.move();
      return new Backend(options, { link, frontend, config });
    } catch (error) {
      // The state stays the caller's for another try.
      if (state !== undefined) frontend?.takeState();
      // Where it was called off, that is the reason.
      throw signal.aborted ? error : await explain(error, { device, link });
    } finally {
      signal.removeEventListener("abort", giveUp);
    }
  }

  /** The connection. */
  get frontend(): VhostUserFrontend {
    return this.#frontend;
  }

  /** Bytes of the configuration space that a back end of `device` has at most. */
  static configBytesOf(device: VirtioDevice): number {
    return traitsOf(device).configBytes;
  }

  /** Features for the driver to choose from, but for those that are the transport's. */
  get features(): bigint {
    const unwanted = this.#options.device.packedQueues === undefined ? Feature.RingPacked : 0n;
    return this.#frontend.features & ~(UNSUPPORTED | unwanted);
  }

  /** How many queues the guest sees. */
  get queueCount(): number {
    const { device } = this.#options;
    const count = device.queueCount ?? this.#frontend.queueCount ?? traitsOf(device).queueCount;
    return Math.min(count, MAX_QUEUES);
  }

  /** Whether a successor can take up what this one held. */
  get recordsRequests(): boolean {
    return this.#frontend.recordsRequests;
  }

  /** The configuration space as it is now. */
  readConfig(): Promise<Uint8Array> {
    return readConfig(this.#frontend, this.config.byteLength);
  }

  /** Whether it ended because it did what its jail forbids; known when its reason is. */
  get violated(): boolean {
    return this.#link.violated ?? false;
  }

  /** Why it is gone, for the log. */
  async reason(): Promise<string> {
    const told = await toldReason(this.#link);
    const { end } = this.#frontend;
    if (told !== undefined) return told;
    if (end === undefined) return "unknown reason";
    // Whoever reads this has been told who it is.
    const message = describeError(end);
    const { name } = this.#options.device;
    if (message.startsWith(`${name}: `)) return message.slice(name.length + 2);
    return message.startsWith(name) ? `it${message.slice(name.length)}` : message;
  }

  /**
   * The next back end, after this one's death.
   *
   * @throws {VmctlError} where there is none in time, or it is another device than this one.
   */
  async revive(): Promise<Backend> {
    const { device, signal } = this.#options;
    const state = this.#frontend.takeState();
    await this.#link[Symbol.asyncDispose]();
    const deadline = performance.now() + REVIVE_TIMEOUT_MS;
    for (;;) {
      try {
        const next = await Backend.launch(this.#options, state);
        if (this.#isLike(next)) return next;
        await next[Symbol.asyncDispose]();
        throw new MachineError(`${device.name}: its new back end offers less than the one before`);
      } catch (error) {
        if (state.disposed) throw error;
        const hopeless = error instanceof DeviceViolationError;
        if (hopeless || signal.aborted || performance.now() > deadline) {
          state[Symbol.dispose]();
          throw error;
        }
        log.debug(`${device.name}: ${describeError(error)}`);
        await new Promise((resolve) => setTimeout(resolve, REVIVE_INTERVAL_MS));
      }
    }
  }

  /** Whether a driver of this one can go on with `next`. */
  #isLike(next: Backend): boolean {
    return next.config.byteLength === this.config.byteLength &&
      next.queueCount >= this.queueCount && (this.features & ~next.features) === 0n;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#frontend[Symbol.dispose]();
    await this.#link[Symbol.asyncDispose]();
  }
}

async function connect(
  { socket }: BackendLink,
  { device, reactor, signal, onDeath, onConfigChange, onQueueError }: BackendOptions,
  state: FrontendState | undefined,
): Promise<VhostUserFrontend> {
  signal.throwIfAborted();
  return await VhostUserFrontend.connect({
    name: device.name,
    socket,
    reactor,
    ...state === undefined ? {} : { state },
    onClose: onDeath,
    onConfigChange,
    onQueueError,
  });
}

/** What whoever launched a back end says of its end; undefined where that is nothing. */
async function toldReason({ ended }: BackendLink): Promise<string | undefined> {
  const late = Promise.withResolvers<undefined>();
  using _alarm = new Alarm(REASON_TIMEOUT_MS, () => late.resolve(undefined));
  return await Promise.race([ended, late.promise]);
}

/** What is to be thrown instead of `error`: that a connection was closed only says that there is a reason. */
async function explain(
  error: unknown,
  { device, link }: { readonly device: VirtioDevice; readonly link: BackendLink },
): Promise<unknown> {
  if (!(error instanceof VhostUserError) || error.kind !== "closed") return error;
  const told = await toldReason(link);
  if (told === undefined) return error;
  const message = `${device.name} ended before it served: ${told}`;
  return link.violated === true ? new DeviceViolationError(message) : new MachineError(message);
}

function traitsOf(device: VirtioDevice): TypeTraits {
  return TRAITS[device.deviceType] ?? OTHER;
}

/** A back end does not say how much it has: those that are asked for too much refuse. */
async function readConfig(frontend: VhostUserFrontend, bytes: number): Promise<Uint8Array> {
  if (bytes === 0 || (frontend.protocolFeatures & ProtocolFeature.Config) === 0n) {
    return new Uint8Array(0);
  }
  try {
    return await frontend.readConfig(0, Math.min(bytes, MAX_DEVICE_CONFIG_BYTES));
  } catch (error) {
    if (!(error instanceof VhostUserError) || error.kind !== "refused" || bytes < 16) throw error;
    return await readConfig(frontend, bytes - 8);
  }
}
