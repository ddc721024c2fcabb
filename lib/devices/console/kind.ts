/**
 * The kind of device `console`.
 *
 * @module
 */

import { Fd } from "../../host/mod.ts";
import type { DeviceKind, OpenedDevice } from "../frame/device_kind.ts";
import { DeviceError } from "../frame/errors.ts";
import { ConsoleDevice, type TerminalSize } from "./console_device.ts";
import { queueCountOf } from "./protocol.ts";

/** What a port is connected with; the descriptors are taken over. */
export interface ConsolePortOptions {
  /** Where output goes; dropped without. */
  readonly output?: Fd | undefined;
  /** Where input comes from. */
  readonly input?: Fd | undefined;
}

/** What can be said about a console. */
export interface ConsoleOptions {
  /** hvc0 first. */
  readonly ports: readonly ConsolePortOptions[];
  /** The size of the terminal of hvc0 now. */
  readonly size?: TerminalSize | undefined;
}

/** Which descriptors there are, in the order of the ports: output, then input. */
interface ConsoleSettings {
  readonly ports: readonly { readonly output: boolean; readonly input: boolean }[];
  readonly size: TerminalSize | null;
}

/** Consoles. */
export const CONSOLE_DEVICE: DeviceKind<ConsoleOptions> = {
  name: "console",
  open: openConsole,
  make: (settings, fds) => makeConsole(settings as ConsoleSettings, fds),
};

function openConsole({ ports, size }: ConsoleOptions): OpenedDevice {
  const fds = ports.flatMap(({ output, input }) => [output, input])
    .filter((fd) => fd !== undefined);
  return {
    settings: {
      ports: ports.map(({ output, input }) => ({
        output: output !== undefined,
        input: input !== undefined,
      })),
      size: size === undefined ? null : { columns: size.columns, rows: size.rows },
    },
    fds,
    queueCount: queueCountOf(ports.length),
    [Symbol.dispose]() {
      for (const fd of fds) fd.close();
    },
  };
}

function makeConsole({ ports, size }: ConsoleSettings, fds: readonly Fd[]): ConsoleDevice {
  using stack = new DisposableStack();
  const owned = fds.map((fd) => stack.use(Fd.adopt(fd.take())));
  const wanted = ports.reduce((sum, { output, input }) => sum + Number(output) + Number(input), 0);
  if (owned.length !== wanted) {
    throw new DeviceError(`console: expected ${wanted} descriptors, got ${owned.length}`);
  }
  const next = (there: boolean) => there ? owned.shift() : undefined;
  const device = new ConsoleDevice(
    ports.map(({ output, input }) => ({ output: next(output), input: next(input) })),
  );
  // They are the device's from here on.
  stack.move();
  if (size !== null) device.resize(0, size);
  return device;
}
