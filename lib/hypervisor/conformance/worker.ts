/**
 * The other threads of a conformance test: one that acts on the VM while the test's own thread runs a
 * vCPU, and those that run further vCPUs.
 *
 * @module
 */

import { monotonicNs, PollEvent, pollFd, signalEvent, takeEvent } from "../../host/mod.ts";
import { GuestMemory } from "../../memory/mod.ts";
import { attachVm, ExitReason, type Vm } from "../mod.ts";
import { type Command, Word } from "./protocol.ts";
import { RecordingIo } from "./recording_io.ts";

/** How long a guest may take for its next request. */
const ANSWER_TIMEOUT_MS = 60_000;

interface Attached {
  readonly vm: Vm;
  readonly memory: GuestMemory;
  readonly words: Int32Array;
}

let attached: Attached | undefined;

self.onmessage = (event: MessageEvent<Command>) => {
  const command = event.data;
  if (command.do === "attach") {
    const memory = GuestMemory.attach(command.memory);
    attached = { vm: attachVm(command.handle, memory), memory, words: command.words };
  } else if (command.do === "detach") {
    attached?.vm[Symbol.dispose]();
    attached?.memory[Symbol.dispose]();
    attached = undefined;
  } else if (command.do === "serve") {
    using memory = GuestMemory.attach(command.memory);
    using vm = attachVm(command.handle, memory);
    vm.service?.serve();
  } else if (attached !== undefined) {
    act(attached, command);
  }
};
self.postMessage("ready");

function act(
  { vm, memory, words }: Attached,
  command: Exclude<Command, { do: "attach" | "detach" | "serve" }>,
): void {
  switch (command.do) {
    case "watch":
      setTimeout(() => {
        if (Atomics.load(words, Word.Run) !== command.run) return;
        Atomics.store(words, Word.TimedOut, 1);
        for (let id = 0; id < vm.vcpuCount; id++) vm.kick(id);
      }, command.timeoutMs);
      break;
    case "kick":
      setTimeout(() => vm.kick(command.id), command.delayMs);
      break;
    case "kick-changed": {
      const mine = attached;
      const timer = setInterval(() => {
        const isThere = attached === mine;
        if (isThere && memory.readU64(command.address) === command.seen) return;
        clearInterval(timer);
        if (isThere) vm.kick(command.id);
      }, 10);
      break;
    }
    case "kick-often":
      while (Atomics.load(words, Word.Stop) === 0) {
        vm.kick(command.id);
        Atomics.wait(words, Word.Stop, 0, 0.2);
      }
      break;
    case "msi":
      vm.signalMsi(command.address, command.data);
      break;
    case "event":
      signalEvent(command.fd);
      break;
    case "answer":
      answer(command);
      break;
    case "irq":
      vm.setIrqLine(command.gsi, command.level);
      break;
    case "vcpu":
      runVcpu(vm, command.id, words);
  }
}

function answer({ kick, call, delaysUs }: Extract<Command, { do: "answer" }>): void {
  for (const delayUs of delaysUs) {
    // Where none comes the guest is lost, and the watchdog's to end, which waits behind this.
    if (pollFd(kick, PollEvent.In, ANSWER_TIMEOUT_MS) === 0) return;
    takeEvent(kick);
    const end = monotonicNs() + delayUs * 1000;
    while (monotonicNs() < end);
    signalEvent(call);
  }
}

function runVcpu(vm: Vm, id: number, words: Int32Array): void {
  using vcpu = vm.createVcpu(id);
  const io = new RecordingIo();
  Atomics.add(words, Word.Ready, 1);
  Atomics.notify(words, Word.Ready);
  while (Atomics.load(words, Word.Stop) === 0) {
    const { reason } = vcpu.run(io);
    if (reason !== ExitReason.Interrupted) {
      Atomics.store(words, Word.ExitReason, reason + 1);
      break;
    }
    io.done = false;
  }
  Atomics.add(words, Word.Ended, 1);
  Atomics.notify(words, Word.Ended);
}
