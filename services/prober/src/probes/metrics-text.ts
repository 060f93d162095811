/**
 * The sum of the samples of one metric in a Prometheus text (or OpenMetrics) that have at least these labels; null: there is none, or none that is a number.
 * https://prometheus.io/docs/instrumenting/exposition_formats/
 */
export function metricSum(text: string, metric: string, labels: Readonly<Record<string, string>>): number | null {
  let sum: number | null = null;
  for (const line of text.split("\n")) {
    if (!line.startsWith(metric)) continue;
    // Its labels end before an exemplar's begin, and their values may hold braces.
    const sample = /^[a-zA-Z_:][a-zA-Z0-9_:]*(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?[ \t]+(\S+)/.exec(line);
    const after = line[metric.length];
    if (sample === null || (after !== "{" && after !== " " && after !== "\t")) continue;
    const own = labelsOf(sample[1] ?? "");
    if (!Object.entries(labels).every(([name, value]) => own.get(name) === value)) continue;
    const value = numberOf(sample[2] ?? "");
    if (!Number.isNaN(value)) sum = (sum ?? 0) + value;
  }
  return Number.isNaN(sum) ? null : sum;
}

/** Whether a text is one of metrics, be there any or none: an error page, which servers give with 200 too, is not. */
export function isMetrics(text: string): boolean {
  return text.split("\n").every((line) => /^\s*(?:#.*|[a-zA-Z_:][a-zA-Z0-9_:]*(?:\{.*\})?[ \t]+\S.*)?$/.test(line));
}

function labelsOf(text: string): Map<string, string> {
  const labels = new Map<string, string>();
  for (const [, name = "", value = ""] of text.matchAll(/([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g)) {
    labels.set(
      name,
      value.replace(/\\(.)/g, (_all, escaped: string) => (escaped === "n" ? "\n" : escaped)),
    );
  }
  return labels;
}

function numberOf(text: string): number {
  if (/^[+-]?inf$/i.test(text)) return text.startsWith("-") ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
  return text === "" ? Number.NaN : Number(text);
}
