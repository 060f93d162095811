import assert from "node:assert/strict";
import { test } from "node:test";
import { makeEvent, type NewEvent } from "@mcp-failover/contracts";
import { type Evidence, foldSignal, noEvidence, trafficOn } from "@mcp-failover/domain";
import { type Call, calls, trafficOf } from "./signals.ts";

const startMs = 1_000_000_000_000;
let seqs = 0;
/** One window of a router that holds this epoch of the upstream. */
function told(
  evidence: Evidence,
  router: string,
  atMs: number,
  ended: readonly Call[],
  epoch: number | null,
  endpoint = "primary",
): Evidence {
  seqs += 1;
  const routes = epoch === null ? {} : { pinecone: { generation: 1, epoch, eventId: null, active: endpoint } };
  const data = { router, fromMs: atMs - 250, toMs: atMs, endpoints: [{ ...trafficOf(ended), endpoint }], tools: [], routes, rollbacks: {} };
  const from = { type: "traffic.observed", keys: [router], data, id: `e${seqs}`, service: "router", instance: "t", timeMs: atMs };
  return foldSignal(evidence, { seq: seqs, timeMs: atMs, event: makeEvent(from as NewEvent<"traffic.observed">) as never });
}
const since = (epoch: number, generation = 1) => ({ epoch, generation, windowMs: 30_000 });
const of = (evidence: Evidence, epoch: number, atMs: number) => trafficOn(evidence, "pinecone", ["primary"], since(epoch), atMs);

test("calls count from the routers that had applied the route, each for itself; all of the window count for what was before", () => {
  let evidence = told(noEvidence, "r1", startMs, [...calls("ok", 3), ...calls("hard", 2)], 1);
  evidence = told(evidence, "r1", startMs + 1000, [...calls("ok", 1), ...calls("hard", 4)], 2);
  evidence = told(evidence, "r2", startMs + 1100, calls("ok", 2), 1);
  evidence = told(evidence, "r3", startMs + 1100, calls("hard", 7), null);
  assert.deepEqual(of(evidence, 2, startMs + 1200), { after: [{ router: "r1", ok: 1, hard: 4, run: 4 }], before: { ok: 6, hard: 13 } });
  assert.deepEqual(trafficOn(evidence, "pinecone", ["primary"], since(2, 2), startMs + 1200).after, [], "another generation of the log");
});

test("hard failures in a row are carried over windows and seconds, and ended by any answer", () => {
  let evidence = told(noEvidence, "r1", startMs, [...calls("ok", 1), ...calls("hard", 2)], 1);
  evidence = told(evidence, "r1", startMs + 250, calls("hard", 1), 1);
  evidence = told(evidence, "r1", startMs + 1500, calls("hard", 3), 1);
  assert.deepEqual(of(evidence, 1, startMs + 1500).after, [{ router: "r1", ok: 1, hard: 6, run: 6 }]);
  const answered = told(evidence, "r1", startMs + 1600, calls("caller", 1), 1);
  assert.deepEqual(
    of(answered, 1, startMs + 1600).after,
    [{ router: "r1", ok: 2, hard: 6, run: 0 }],
    "an error of the caller is an answer",
  );
});

test("what is older than the window is forgotten, and a router keeps at most a minute", () => {
  let evidence = noEvidence;
  for (let second = 0; second < 200; second += 1) evidence = told(evidence, "r1", startMs + second * 1000, calls("ok", 1), 1);
  const { before } = of(evidence, 1, startMs + 199_000);
  assert.ok(before.ok >= 30 && before.ok <= 32, `${before.ok}`);
  const word = evidence.words.get("pinecone/primary")?.get("router:r1");
  assert.ok((word?.seconds.length ?? 0) <= 60);
});

test("in a pool the calls of the whole tier count together, and of many routers those with the most calls", () => {
  let evidence = told(noEvidence, "r1", startMs, calls("ok", 1), 1);
  evidence = told(evidence, "r1", startMs, calls("hard", 2), 1, "second");
  assert.deepEqual(trafficOn(evidence, "pinecone", ["primary", "second"], since(1), startMs).after, [
    { router: "r1", ok: 1, hard: 2, run: 2 },
  ]);
  for (let router = 0; router < 40; router += 1) evidence = told(evidence, `x${router}`, startMs, calls("ok", router + 2), 1);
  const { after } = of(evidence, 1, startMs);
  assert.equal(after.length, 20);
  assert.ok(after.every(({ ok }) => ok > 20));
});
