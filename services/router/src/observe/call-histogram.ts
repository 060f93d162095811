import { Histogram, type HistogramConfiguration } from "prom-client";

/**
 * A histogram whose series are found once: prom-client makes a key of all labels anew for each value, which costs a call more than
 * everything else that is noted of it. What is counted is put in prom-client's own form when it is asked for.
 */
export class CallHistogram<L extends string> extends Histogram<L> {
  readonly #series: CallSeries[] = [];
  readonly #config: HistogramConfiguration<L> & { readonly buckets: number[] };

  constructor(config: HistogramConfiguration<L> & { readonly buckets: number[] }) {
    super(config);
    this.#config = config;
  }

  /** A new series: whoever asks keeps it, and asks once for the same labels. */
  series(labels: Readonly<Record<L, string>>): CallSeries {
    const series = new CallSeries(this.#config.buckets, labels);
    this.#series.push(series);
    return series;
  }

  override async get(): ReturnType<Histogram<L>["get"]> {
    const { name, help, buckets: bounds } = this.#config;
    const values = this.#series.flatMap(({ labels, counts, sum }) => {
      let below = 0;
      const buckets = [...bounds, "+Inf" as const].map((le, index) => {
        below += counts[index] ?? 0;
        return { labels: { le, ...labels }, value: below, metricName: `${name}_bucket` };
      });
      return [...buckets, { labels, value: sum, metricName: `${name}_sum` }, { labels, value: below, metricName: `${name}_count` }];
    });
    return { name, help, type: "histogram", aggregator: "sum", values } as unknown as Awaited<ReturnType<Histogram<L>["get"]>>;
  }

  /** What prom-client asks for where there is one. */
  getForPromString(): ReturnType<Histogram<L>["get"]> {
    return this.get();
  }
}

/** The values of one set of labels. */
export class CallSeries {
  readonly labels: Readonly<Record<string, string>>;
  /** By bucket; the last is what is over all bounds. */
  readonly counts: Float64Array;
  sum = 0;
  readonly #bounds: readonly number[];

  constructor(bounds: readonly number[], labels: Readonly<Record<string, string>>) {
    this.#bounds = bounds;
    this.labels = labels;
    this.counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    let index = 0;
    while (index < this.#bounds.length && value > (this.#bounds[index] as number)) index += 1;
    this.counts[index] = (this.counts[index] as number) + 1;
    this.sum += value;
  }
}
