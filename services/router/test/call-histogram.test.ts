import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Histogram, Registry } from "prom-client";
import { CallHistogram, type CallSeries } from "../src/observe/call-histogram.ts";

test("a histogram with series that are found once says what prom-client's own says", async () => {
  const config = { name: "h", help: "of a test", labelNames: ["a", "b"] as const, buckets: [0.5, 1, 2] };
  const value = fc.oneof(fc.constantFrom(0, 0.5, 1, 2), fc.double({ min: 0, max: 4, noNaN: true }));
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.constantFrom("x", 'y"\\\n'), fc.constantFrom("1", "2"), value), { maxLength: 50, size: "max" }),
      async (seen) => {
        const [plain, ours] = [new Registry(), new Registry()];
        const known = new Histogram({ ...config, registers: [plain] });
        const found = new CallHistogram({ ...config, registers: [ours] });
        const series = new Map<string, CallSeries>();
        for (const [a, b, took] of seen) {
          known.observe({ a, b }, took);
          const one = series.get(`${a} ${b}`) ?? found.series({ a, b });
          series.set(`${a} ${b}`, one);
          one.observe(took);
        }
        const lines = (text: string): string[] =>
          text.split("\n").map((line) => line.replaceAll(/\d+\.\d{10,}$/g, (n) => Number(n).toFixed(9)));
        assert.deepEqual(lines(await ours.metrics()), lines(await plain.metrics()));
        assert.equal((await ours.getMetricsAsJSON())[0]?.type, "histogram");
      },
    ),
    { numRuns: 100 },
  );
});
