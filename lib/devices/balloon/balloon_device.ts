/**
 * The traditional memory balloon (virtio 1.2, 5.5): the driver gives pages to it, and what it has goes
 * back to the host.
 *
 * @module
 */

import { VmctlError } from "../../base/mod.ts";
import { Advice, isHostError, madvise } from "../../host/mod.ts";
import { PAGE_SIZE } from "../../memory/mod.ts";
import {
  type DescriptorChain,
  type DeviceContext,
  DeviceType,
  type Pieces,
  type VirtioDeviceBackend,
  type Virtqueue,
} from "../../virtio/mod.ts";
import {
  BALLOON_STATISTICS,
  type ControllableDevice,
  type DeviceEvent,
  type DeviceReply,
  type DeviceRequest,
} from "../control/mod.ts";

/** Feature bits (virtio 1.2, 5.5.3). PAGE_POISON and FREE_PAGE_HINT are not offered. */
export const BalloonFeature = {
  /** The driver reports statistics. */
  StatisticsQueue: 1n << 1n,
  /** The driver takes pages back when the guest is out of memory. */
  DeflateOnOom: 1n << 2n,
  /** The driver reports free pages without being asked. */
  PageReporting: 1n << 5n,
} as const;

const INFLATE_QUEUE = 0;
const DEFLATE_QUEUE = 1;
/** Where statistics were negotiated. */
const STATISTICS_QUEUE = 2;
/**
 * Inflate, deflate, statistics, free page hints, reporting. Drivers disagree about whether queues that
 * are not there count (Linux: no, the specification: yes), so reporting is whatever comes behind.
 */
export const QUEUE_COUNT = 5;

/** Offset of `actual` in the configuration space, the only field that the driver writes. */
const ACTUAL_OFFSET = 4;
/** num_pages, actual, free_page_hint_cmd_id, poison_val. */
const CONFIG_BYTES = 16;
/** Page numbers of one buffer that count; Linux sends 256. */
const MAX_PAGES = 4096;
/** Tag (16) and value (64) of a statistic. */
const STATISTIC_BYTES = 10;
/** Statistics of one buffer that count. */
const MAX_STATISTICS = 64;

/** A size is not possible, or was given up. */
export class BalloonError extends VmctlError {
  override readonly name = "BalloonError";
}

/** Settings of a {@link BalloonDevice}. */
export interface BalloonSettings {
  /** Whether the driver may take pages back when the guest is out of memory. */
  readonly deflateOnOom: boolean;
  /** Whether the driver is to report free pages. */
  readonly pageReporting: boolean;
}

/** A balloon. */
export class BalloonDevice implements VirtioDeviceBackend, ControllableDevice {
  readonly type: number = DeviceType.Balloon;
  readonly name = "balloon";
  readonly features: bigint;
  readonly queueCount: number = QUEUE_COUNT;
  readonly maxQueueSize = 256;
  readonly config: Uint8Array = new Uint8Array(CONFIG_BYTES);
  configChanged?: () => void;
  /** See {@link ControllableDevice.tell}. */
  tell?: (event: DeviceEvent) => void;
  readonly #view = new DataView(this.config.buffer);
  readonly #pages = new Uint32Array(MAX_PAGES);
  readonly #pageBytes = new Uint8Array(this.#pages.buffer);
  readonly #statistics = new Map<string, number>();
  #context: DeviceContext | undefined;
  /** Head of the statistics buffer that the driver wants back, -1 without. */
  #statisticsHead = -1;
  #wantStatistics: DeviceReply[] = [];
  #wantSize: DeviceReply[] = [];
  #settled = true;
  #returnedBytes = 0;

  constructor(settings: BalloonSettings) {
    this.features = BalloonFeature.StatisticsQueue |
      (settings.deflateOnOom ? BalloonFeature.DeflateOnOom : 0n) |
      (settings.pageReporting ? BalloonFeature.PageReporting : 0n);
  }

  activate(context: DeviceContext): void {
    this.#context = context;
  }

  process(index: number): void {
    const context = this.#context;
    const queue = context?.queue(index);
    if (context === undefined || queue === undefined) return;
    if (index === STATISTICS_QUEUE && this.#has(BalloonFeature.StatisticsQueue)) {
      this.#takeStatistics(queue);
      return;
    }
    for (let chain; (chain = queue.pop()) !== undefined;) {
      if (index === INFLATE_QUEUE) this.#inflate(chain.readable);
      // Nothing is to be done to deflate: pages come from the host when they are touched again.
      else if (index > DEFLATE_QUEUE && this.#has(BalloonFeature.PageReporting)) {
        this.#takeReport(chain.writable);
      }
      queue.push(chain.head, 0);
    }
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    // Beside `actual`, all is the device's; a driver that writes more is not heard.
    const from = ACTUAL_OFFSET - offset;
    if (from < 0 || from + 4 > bytes.byteLength) return;
    this.config.set(bytes.subarray(from, from + 4), ACTUAL_OFFSET);
    this.#settle();
  }

  queueStopping(index: number): void {
    if (index !== STATISTICS_QUEUE || this.#statisticsHead < 0) return;
    // It was taken to be given back when statistics are wanted: with another start it comes again.
    this.#context?.queue(index)?.unpop(this.#statisticsHead);
    this.#statisticsHead = -1;
  }

  reset(): void {
    this.#context = undefined;
    this.#statisticsHead = -1;
    this.#statistics.clear();
    this.#view.setUint32(ACTUAL_OFFSET, 0, true);
    this.#answerStatistics();
    this.#settle();
  }

  control(request: DeviceRequest, reply: DeviceReply): void {
    switch (request.name) {
      case "balloonAdjust":
        this.#adjust(request.data, reply);
        return;
      case "balloonStats":
        this.#report(request.data.fresh, reply);
        return;
      default:
        throw new BalloonError(`balloon: ${request.name} is nothing for it`);
    }
  }

  [Symbol.dispose](): void {}

  get #actualPages(): number {
    return this.#view.getUint32(ACTUAL_OFFSET, true);
  }

  get #targetPages(): number {
    return this.#view.getUint32(0, true);
  }

  #has(feature: bigint): boolean {
    return this.#context !== undefined && (this.#context.features & feature) !== 0n;
  }

  #adjust(
    { targetBytes, wait }: { readonly targetBytes: number; readonly wait: boolean },
    reply: DeviceReply,
  ): void {
    const pages = Math.floor(targetBytes / PAGE_SIZE);
    if (pages > 0xffff_ffff) throw new BalloonError(`balloon: ${targetBytes} bytes are too many`);
    if (pages !== this.#targetPages) {
      for (const waiting of this.#wantSize.splice(0)) {
        waiting.refuse("another size was asked for meanwhile");
      }
      this.#view.setUint32(0, pages, true);
      this.configChanged?.();
    }
    if (!wait) reply.answer(null);
    else this.#wantSize.push(reply);
    this.#settle();
  }

  /** Tells who waits for it that the balloon has its size, or left it. */
  #settle(): void {
    const settled = this.#actualPages === this.#targetPages;
    if (settled) { for (const waiting of this.#wantSize.splice(0)) waiting.answer(null); }
    if (settled === this.#settled) return;
    this.#settled = settled;
    const actualBytes = this.#actualPages * PAGE_SIZE;
    this.tell?.({ name: "balloonSize", data: { actualBytes } });
  }

  /** Gives back the pages that `numbers` holds the numbers of. */
  #inflate(numbers: Pieces): void {
    const memory = this.#context?.memory;
    if (memory === undefined) return;
    const count = Math.floor(numbers.copyTo(this.#pageBytes) / 4);
    // In order, neighbours go together: drivers often send them backwards.
    const pages = this.#pages.subarray(0, count).sort();
    for (let at = 0; at < count;) {
      const first = pages[at]!;
      const area = memory.findRange(first * PAGE_SIZE, PAGE_SIZE);
      at++;
      if (area === undefined) continue;
      const areaEnd = area.endAddress / PAGE_SIZE;
      let end = first + 1;
      while (at < count && pages[at]! <= end && end < areaEnd) {
        if (pages[at] === end) end++;
        at++;
      }
      const offset = first * PAGE_SIZE - area.guestAddress;
      this.#giveBack(area.span.address + offset, (end - first) * PAGE_SIZE);
    }
  }

  /** Gives back the free pages that `ranges` are; they read as zeros when the guest uses them again. */
  #takeReport(ranges: Pieces): void {
    for (let at = 0; at < ranges.count; at++) {
      const address = ranges.span(at).address + ranges.offset(at);
      const begin = Math.ceil(address / PAGE_SIZE) * PAGE_SIZE;
      const end = Math.floor((address + ranges.length(at)) / PAGE_SIZE) * PAGE_SIZE;
      if (end > begin) this.#giveBack(begin, end - begin);
    }
  }

  #giveBack(address: number, lengthBytes: number): void {
    try {
      // Guest memory is a file that others map, too: the pages leave the file, and with it all of them.
      madvise(BigInt(address), lengthBytes, Advice.Remove);
    } catch (error) {
      // Not a shared file (EINVAL, EOPNOTSUPP), or not to be written (EACCES): all stays as it is, which
      // is no harm to the guest.
      if (!isHostError(error, "EINVAL", "EACCES", "EOPNOTSUPP", "ENOMEM")) throw error;
      return;
    }
    this.#returnedBytes += lengthBytes;
  }

  #takeStatistics(queue: Virtqueue): void {
    for (let chain; (chain = queue.pop()) !== undefined;) {
      this.#readStatistics(chain);
      // A driver has one buffer; one that offers more gets them back.
      if (this.#statisticsHead >= 0) queue.push(this.#statisticsHead, 0);
      this.#statisticsHead = chain.head;
      this.#answerStatistics();
    }
  }

  #readStatistics({ readable }: DescriptorChain): void {
    this.#statistics.clear();
    const count = Math.min(Math.floor(readable.lengthBytes / STATISTIC_BYTES), MAX_STATISTICS);
    for (let index = 0; index < count; index++) {
      const at = index * STATISTIC_BYTES;
      const name = BALLOON_STATISTICS[readable.readU16(at)];
      if (name === undefined) continue;
      const value = readable.readU64AsNumber(at + 2);
      this.#statistics.set(name, Math.min(value, Number.MAX_SAFE_INTEGER));
    }
  }

  #report(fresh: boolean, reply: DeviceReply): void {
    this.#wantStatistics.push(reply);
    const queue = this.#context?.queue(STATISTICS_QUEUE);
    if (!fresh || queue === undefined || !this.#has(BalloonFeature.StatisticsQueue)) {
      this.#answerStatistics();
      return;
    }
    // The driver fills the buffer when it gets it back. Without a buffer it is about to come.
    if (this.#statisticsHead < 0) return;
    queue.push(this.#statisticsHead, 0);
    this.#statisticsHead = -1;
    this.#context?.notify(STATISTICS_QUEUE);
  }

  #answerStatistics(): void {
    if (this.#wantStatistics.length === 0) return;
    const report = {
      actualBytes: this.#actualPages * PAGE_SIZE,
      targetBytes: this.#targetPages * PAGE_SIZE,
      returnedBytes: this.#returnedBytes,
      statistics: Object.fromEntries(this.#statistics),
    };
    for (const reply of this.#wantStatistics.splice(0)) reply.answer(report);
  }
}
