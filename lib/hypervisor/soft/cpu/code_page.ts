/**
 * What is kept of a RAM page whose code is decoded.
 *
 * @module
 */

/** A RAM page's code in one mode. */
export interface CodePage {
  /** Offset of the page in RAM. */
  readonly ram: number;
  readonly mode: number;
  /** Address of the page map. */
  readonly map: number;
  /** Pairs of record addresses: ranges of records made for the page. */
  ranges: number[];
  /** Samples by page offset. */
  readonly heat: Map<number, number>;
  /** Records whose handler is a region now, with the handler that they had. */
  readonly regions: Map<number, number>;
  /** Table slots of the page's regions: a page that many others go on in may have very many. */
  readonly slots: Set<number>;
  /** How often translated code was thrown away here for good. */
  churn: number;
  /** Samples in its small regions since one was made larger. */
  busy: number;
  /** True where it was looked up what is known of its present code. */
  opened: boolean;
  /** True where some of that was left out, as the last run came to it much later. */
  late: boolean;
  /** True where another thread was asked to translate, and has not answered yet. */
  asked: boolean;
  /** Guards of instructions that reach from the page before into this one. */
  readonly crossings: Set<number>;
}

/** A page of which nothing is known yet; its parameters are as in {@link CodePage}. */
export function newCodePage(of: { ram: number; mode: number; map: number }): CodePage {
  return {
    ...of,
    ranges: [],
    heat: new Map(),
    regions: new Map(),
    slots: new Set(),
    churn: 0,
    busy: 0,
    opened: false,
    late: false,
    asked: false,
    crossings: new Set(),
  };
}

/** Forgets the regions of a page whose code is gone, and what was seen of them. */
export function forgetRegions(page: CodePage): void {
  page.slots.clear();
  page.regions.clear();
  page.heat.clear();
  page.busy = 0;
  page.opened = false;
  page.late = false;
}
