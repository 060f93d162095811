import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Attempt, AttemptResult, CallControl } from "../../src/control/port.ts";
import { describe, ok, play, refused, reset, settled, start } from "./fixture.ts";

/** The reference's NEO4J_URI with NEO4J_READ_REPLICA_1 and _2. */
const neo4j = (mode: string, more = "") => `
upstreams:
  warehouse:
    kind: mcp
    mode: ${mode}
    endpoints:
      - { name: primary, url: "http://127.0.0.1:1/mcp", tier: 0, zone: a }
      - { name: replica-1, url: "http://127.0.0.1:2/mcp", tier: 0, role: read, zone: a }
      - { name: replica-2, url: "http://127.0.0.1:3/mcp", tier: 0, role: read, zone: b }
    tools: { get_inventory: { read_only: true }, set_stock: { idempotent: true } }
${more}`;

test("read replicas never get a write, whatever fails, in either mode; reads reach them", async (t) => {
  for (const mode of ["active_standby", "pool"]) {
    const fixture = await start(t, { yaml: neo4j(mode) });
    for (const tool of ["ship_order", "set_stock"]) {
      for (const health of ["healthy", "unhealthy"] as const) {
        await fixture.health("warehouse", "primary", { status: health, score: health === "healthy" ? 1 : 0 });
        const went = await play(fixture.control.begin(describe(fixture, { tool, deadlineMs: fixture.clock.nowMs + 200 })), () => refused);
        assert.ok(
          went.every((name) => name === "primary"),
          `${mode} ${tool} ${health}: ${went}`,
        );
      }
    }
    const read = await play(fixture.control.begin(describe(fixture)), (name) => (name === "primary" ? refused : ok));
    assert.match(read.at(-1) ?? "", /^replica-/, mode);
  }
});

test("a router prefers the endpoints of its zone", async (t) => {
  const fixture = await start(t, { yaml: neo4j("pool"), zone: "b" });
  for (const name of ["primary", "replica-1", "replica-2"]) await fixture.health("warehouse", name, { status: "healthy", score: 1 });
  for (let index = 0; index < 20; index += 1)
    assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["replica-2"]);
  assert.deepEqual(await play(fixture.control.begin(describe(fixture, { tool: "ship_order" })), () => ok), ["primary"]);
});

type Step = {
  readonly call: number;
  readonly does: "next" | "ok" | "refused" | "reset" | "aborted" | "ineligible" | "twice" | "end" | "answering";
};
const steps = fc.array(
  fc.record({
    call: fc.nat(5),
    does: fc.constantFrom<Step["does"]>("next", "ok", "refused", "reset", "aborted", "ineligible", "twice", "end", "answering"),
  }),
  { maxLength: 60, size: "max" },
);

test("A3: whatever order attempts begin, end, break off and are told twice in, nothing is left in flight", async (t) => {
  const limits = "    admission: { concurrency_max: 3, queue_max: 2, queue_ms_max: 5 }\n    breaker: { failure_threshold: 2 }\n";
  const fixture = await start(t, { yaml: neo4j("pool", limits) });
  const results: Readonly<Record<string, AttemptResult>> = {
    ok,
    refused,
    reset,
    aborted: { outcome: "aborted" },
    ineligible: { outcome: "ineligible", message: "another era" },
  };
  await fc.assert(
    fc.asyncProperty(steps, async (all) => {
      const calls: (CallControl | null)[] = [];
      const attempts: (Attempt | null)[] = [];
      const waits: Promise<unknown>[] = [];
      for (const { call: index, does } of all) {
        const tool = index % 2 === 0 ? "get_inventory" : "ship_order";
        const call = calls[index] ?? fixture.control.begin(describe(fixture, { tool, deadlineMs: fixture.clock.nowMs + 1000 }));
        calls[index] = call;
        const attempt = attempts[index] ?? null;
        if (does === "next") {
          const next = call.next();
          if (next instanceof Promise) {
            const keep = (late: Attempt | null): void => {
              attempts[index] = late;
            };
            waits.push(next.then(keep));
          } else attempts[index] = next;
        } else if (does === "end") call.end("error");
        else if (does === "answering") attempt?.answering();
        else if (does === "twice") {
          attempt?.done(ok);
          attempt?.done(reset);
        } else attempt?.done(results[does] as AttemptResult);
      }
      // A handler that throws still ends its call, and tells nothing of an attempt that was out.
      for (const call of calls) call?.end("error");
      await Promise.all(waits);
    }),
    { numRuns: 60 },
  );
  // A call of another kind shows the counts: the next window tells of every endpoint that has something in flight.
  const shows = fixture.control.begin(describe(fixture));
  await play(shows, () => ok);
  shows.end("ok");
  await settled(600);
  const last = new Map(fixture.traffic.flatMap(({ endpoints }) => endpoints.map((one) => [one.endpoint, one.inFlight] as const)));
  assert.deepEqual(
    [...last].filter(([, inFlight]) => inFlight !== 0),
    [],
  );
  const free = [0, 1, 2].map(() => fixture.control.begin(describe(fixture)));
  for (const call of free) assert.ok(!(call.next() instanceof Promise), "nobody is left inside");
  for (const call of free) call.end("ok");
});
