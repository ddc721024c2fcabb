/**
 * Where an image keeps its metadata, so that no guest data is ever written over it, whatever the tables
 * of a damaged or hostile image say.
 *
 * @module
 */

/** Clusters from `start` on, `end` excluded. */
export interface ClusterRange {
  readonly start: number;
  readonly end: number;
}

/** A set of cluster numbers, most of them known at once. */
export class MetadataMap {
  readonly #points: Float64Array;
  /** Starts and ends of disjoint ranges, in order. */
  readonly #starts: number[] = [];
  readonly #ends: number[] = [];
  /** In order; those that came later. */
  readonly #added: number[] = [];
  readonly #removed = new Set<number>();

  /** Over single clusters, which are sorted in place, and ranges of them. */
  constructor(points: Float64Array, ranges: readonly ClusterRange[]) {
    this.#points = points.sort();
    for (const { start, end } of [...ranges].sort((a, b) => a.start - b.start)) {
      const last = this.#ends.length - 1;
      if (last >= 0 && start <= this.#ends[last]!) {
        this.#ends[last] = Math.max(this.#ends[last]!, end);
      } else {
        this.#starts.push(start);
        this.#ends.push(end);
      }
    }
  }

  /** A cluster that is stated twice among the single ones, or undefined. */
  get duplicate(): number | undefined {
    for (let at = 1; at < this.#points.length; at++) {
      if (this.#points[at] === this.#points[at - 1]) return this.#points[at];
    }
    return undefined;
  }

  /** The first cluster of metadata among `count` from `cluster` on, or undefined. */
  overlap(cluster: number, count: number): number | undefined {
    const end = cluster + count;
    for (let at = lowerBound(this.#points, cluster); at < this.#points.length; at++) {
      const point = this.#points[at]!;
      if (point >= end) break;
      if (!this.#removed.has(point)) return point;
    }
    const added = lowerBound(this.#added, cluster);
    if (added < this.#added.length && this.#added[added]! < end) return this.#added[added];
    const from = Math.max(0, lowerBound(this.#starts, cluster + 1) - 1);
    for (let at = from; at < this.#starts.length && this.#starts[at]! < end; at++) {
      const last = Math.min(end, this.#ends[at]!);
      for (let found = Math.max(cluster, this.#starts[at]!); found < last; found++) {
        if (!this.#removed.has(found)) return found;
      }
    }
    return undefined;
  }

  /** Adds `count` clusters from `cluster` on. */
  add(cluster: number, count = 1): void {
    for (let at = cluster; at < cluster + count; at++) {
      const place = lowerBound(this.#added, at);
      if (this.#added[place] === at) continue;
      if (place === this.#added.length) this.#added.push(at);
      else this.#added.splice(place, 0, at);
    }
  }

  /** Takes a cluster out that holds no metadata any more. */
  remove(cluster: number): void {
    const place = lowerBound(this.#added, cluster);
    if (this.#added[place] === cluster) this.#added.splice(place, 1);
    else this.#removed.add(cluster);
  }
}

function lowerBound(sorted: Float64Array | readonly number[], value: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
