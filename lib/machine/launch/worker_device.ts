/**
 * A device in a worker of the VMM, unjailed. It is the same code, told by the same channels.
 *
 * @module
 */

import { getLogLevel } from "../../base/mod.ts";
import { type Fd, socketPair, type UnixSocket } from "../../host/mod.ts";
import type { DeviceWorkerMessage, DeviceWorkerStart } from "./device_worker.ts";
import { endingThread, EndWatch } from "./end_watch.ts";
import type { DeviceOrder, LaunchedDevice } from "./launched_device.ts";

/**
 * Starts a device in a worker. Descriptors are those of the process, so the worker gets copies.
 *
 * @param url of the module that workers of this program load
 */
export function launchInWorker(order: DeviceOrder, url: string): LaunchedDevice {
  const { name, kind, opened } = order;
  const [frontEnd, itsFrontEnd] = socketPair("stream");
  const [control, itsControl] = socketPair("seqpacket", { nonblock: true });
  const start: DeviceWorkerStart = {
    role: "device",
    name,
    spec: {
      kind,
      settings: opened.settings,
      resourceFds: opened.fds.map((fd: Fd) => fd.dup().take()),
      frontEndFd: itsFrontEnd.fd.take(),
      controlFd: itsControl.fd.take(),
      logLevel: getLogLevel(),
    },
  };
  const worker = new Worker(url, { type: "module", name });
  worker.postMessage(start);
  return new WorkerDevice(worker, { name, frontEnd, control });
}

class WorkerDevice implements LaunchedDevice {
  readonly #name: string;
  readonly #worker: Worker;
  readonly socket: UnixSocket;
  readonly control: UnixSocket;
  readonly ended: Promise<string>;
  /** Number of its thread, once it has told. */
  #thread: number | undefined;

  constructor(
    worker: Worker,
    { name, frontEnd, control }: {
      readonly name: string;
      readonly frontEnd: UnixSocket;
      readonly control: UnixSocket;
    },
  ) {
    this.#name = name;
    this.#worker = worker;
    this.socket = frontEnd;
    this.control = control;
    const { promise, resolve } = Promise.withResolvers<string>();
    this.ended = promise;
    worker.onmessage = ({ data }: MessageEvent<DeviceWorkerMessage>) => {
      if (data.type === "started") this.#thread = data.thread;
      else resolve(data.error ?? "it ended");
    };
    worker.onerror = (event) => {
      // Otherwise the error would end this process.
      event.preventDefault();
      resolve(event.message);
    };
  }

  /**
   * Lets it end by itself, for which its front end must have gone, and write what it holds; gives it up where
   * it hangs.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    this.socket[Symbol.dispose]();
    this.control[Symbol.dispose]();
    const killed = Promise.withResolvers<void>();
    const thread = endingThread(() => this.#thread, () => {
      this.#worker.terminate();
      // A thread that hangs in the kernel ends with this process, and not before.
      killed.resolve();
    });
    using _watch = new EndWatch(thread, { name: this.#name });
    await Promise.race([this.ended, killed.promise]);
  }
}
