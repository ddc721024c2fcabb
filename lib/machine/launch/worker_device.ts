/**
 * A device in a worker of the VMM, unjailed. It is the same code, told by the same channels.
 *
 * @module
 */

import { Alarm, getLogLevel, Logger } from "../../base/mod.ts";
import { type Fd, socketPair, type UnixSocket } from "../../host/mod.ts";
import type { DeviceWorkerEnd, DeviceWorkerStart } from "./device_worker.ts";
import type { DeviceOrder, LaunchedDevice } from "./launched_device.ts";

const log = new Logger("sandbox");

/** How long a device may take to write what it holds, once its front end has gone. */
const END_TIMEOUT_MS = 20_000;

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
    worker.onmessage = ({ data }: MessageEvent<DeviceWorkerEnd>) => {
      resolve(data.error ?? "it ended");
    };
    worker.onerror = (event) => {
      // Otherwise the error would end this process.
      event.preventDefault();
      resolve(event.message);
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket[Symbol.dispose]();
    this.control[Symbol.dispose]();
    const late = Promise.withResolvers<void>();
    using _alarm = new Alarm(END_TIMEOUT_MS, () => {
      log.warn(`${this.#name} does not end within ${END_TIMEOUT_MS / 1000} s; it is given up`);
      this.#worker.terminate();
      late.resolve();
    });
    await Promise.race([this.ended, late.promise]);
  }
}
