import assert from "node:assert/strict";
import { test } from "node:test";
import { silenceMsMax, topology } from "@mcp-failover/contracts";
import {
  confirmSilenceTold,
  emptyReadModel,
  endSilence,
  foldIncident,
  type Incident,
  incidentContext,
  isAbout,
  isMuting,
  leftWhileMuted,
  type Silence,
  type SilenceOrder,
  silence,
  silenceProblem,
  unsilence,
} from "@mcp-failover/domain";
import { failing, startMs } from "./audit-events.ts";

const ann = { kind: "operator", id: "ann" } as const;
const channels = [
  { name: "pager", severities: ["page" as const] },
  { name: "chat", severities: ["page" as const, "notify" as const] },
];
const hourMs = 3_600_000;
const order = (acceptedSeq: number, more: Partial<SilenceOrder> & { untilMs?: number } = {}) => ({
  target: "shop",
  commandId: `c-${acceptedSeq}`,
  by: ann,
  reason: "it moves house",
  acceptedSeq,
  untilMs: startMs + hourMs,
  ...more,
});
const changed = (verdict: ReturnType<typeof silence>): Silence => {
  assert.ok(verdict.kind === "changed", JSON.stringify(verdict));
  return verdict.silence;
};
const codeOf = (verdict: ReturnType<typeof silence>): string => (verdict.kind === "refused" ? verdict.code : verdict.kind);
const first = changed(silence(null, order(5), channels, startMs));

test("Q1: a silence mutes until its time and not a moment longer, and is none without an end", () => {
  assert.deepEqual(
    [startMs, startMs + hourMs - 1, startMs + hourMs].map((nowMs) => isMuting(first, nowMs)),
    [true, true, false],
  );
  const until = (untilMs: number): string => codeOf(silence(null, order(5, { untilMs }), channels, startMs));
  assert.deepEqual([startMs, startMs + 1, startMs + silenceMsMax, startMs + silenceMsMax + 1].map(until), [
    "until_over",
    "changed",
    "changed",
    "bad_request",
  ]);
});

test("Q1: that of an upstream mutes what belongs to it, that of a key the key alone", () => {
  assert.deepEqual(
    [
      isAbout("shop", "upstream/shop", "shop"),
      isAbout("shop", "rollback/tool/stock", "shop"),
      isAbout("shop", "upstream/shop2", "shop2"),
      isAbout("rollback/tool/stock", "rollback/tool/stock", "shop"),
      isAbout("rollback/tool/stock", "upstream/shop", "shop"),
      isAbout("", "rollback/system/system", ""),
    ],
    [true, true, false, true, false, false],
  );
});

test("Q1: what is not there cannot be silenced, and the sentence says what can", () => {
  const tools = { stock: { legacy: { url: "http://127.0.0.1:9/" } } };
  const config = topology.parse({
    upstreams: { shop: { kind: "mcp", endpoints: [{ name: "one", tier: 0, url: "http://127.0.0.1:1/" }], tools } },
    agents: { picker: {} },
  });
  const problem = (target: string, known = ""): string | null => silenceProblem(config, target, (key) => key === known);
  const fit = [
    "shop",
    "upstream/shop",
    "rollback/tool/stock",
    "rollback/agent/picker",
    "rollback/system/system",
    "log/rollbacks",
    "log/routes",
  ];
  assert.deepEqual(
    fit.filter((target) => problem(target) !== null),
    [],
  );
  assert.equal(problem("rollback/tool/old", "rollback/tool/old"), null, "there was an incident of it");
  for (const target of [
    "shp",
    "upstream/shp",
    "rollback/tool/stok",
    "rollback/planet/x",
    "upstream/shop/one",
    "toString",
    "upstream-shop-4",
  ])
    assert.match(problem(target) ?? "", /write an upstream \(shop\), or a key of incidents: upstream\/NAME/, target);
});

test("Q2: of what is muted the end of what was told is left to be told, and nothing of what was over before", () => {
  const incident = foldIncident(null, failing(1, "shop", true), incidentContext(emptyReadModel, "shop")) as Incident;
  assert.equal(leftWhileMuted(incident), null, "it waits");
  const over: Incident = { ...incident, status: "resolved" };
  assert.deepEqual(leftWhileMuted(over), { ...over, notifyAtMs: null });
  const told: Incident = { ...over, notified: ["opened"] };
  assert.equal(leftWhileMuted(told), told);
});

test("Q3: its beginning and its end are each told once, to the channels for notifications, and the end after the beginning", () => {
  assert.deepEqual([first.telling?.kind, first.telling?.channels], ["silenced", ["chat"]]);
  const told = confirmSilenceTold(first, { chat: 7 });
  assert.deepEqual([told.telling, told.outbox], [null, { chat: 7 }]);
  assert.equal(endSilence(told, channels, startMs + hourMs - 1), null);
  const over = endSilence(told, channels, startMs + hourMs) as Silence;
  assert.deepEqual([over.status, over.telling?.kind, over.telling?.channels, over.outbox], ["ended", "unsilenced", ["chat"], { chat: 7 }]);
  assert.equal(endSilence(over, channels, startMs + 2 * hourMs), null);
  const longer = changed(silence(told, order(9, { untilMs: startMs + 2 * hourMs }), channels, startMs + 1000));
  assert.deepEqual([longer.id, longer.sinceMs, longer.telling?.kind], [first.id, startMs, "silenced"]);
  assert.notEqual(longer.telling?.name, first.telling?.name);
  assert.notEqual(changed(silence(over, order(9, { untilMs: startMs + 3 * hourMs }), channels, startMs + 2 * hourMs)).id, first.id);
});

test("Q4: a repeated order changes nothing, and one that was given before another was carried out undoes nothing", () => {
  assert.equal(codeOf(silence(first, order(5), channels, startMs + 1000)), "known");
  const lifted = changed(unsilence(first, order(9), channels, startMs + 2000));
  assert.deepEqual([lifted.status, lifted.endedBy, lifted.telling?.kind], ["ended", { by: ann, reason: "it moves house" }, "unsilenced"]);
  assert.equal(codeOf(silence(lifted, order(5), channels, startMs + 3000)), "overtaken");
  assert.equal(codeOf(silence(lifted, order(12, { givenAtSeq: 8 }), channels, startMs + 3000)), "overtaken");
  assert.equal(codeOf(silence(lifted, order(12, { givenAtSeq: 9 }), channels, startMs + 3000)), "changed");
  assert.equal(codeOf(unsilence(lifted, order(12), channels, startMs + 3000)), "not_silenced");
  assert.equal(codeOf(unsilence(null, order(12), channels, startMs)), "not_silenced");
});

test("Q5: where the store's clock was set back to before it began a silence is over, and that is told", () => {
  const setBackMs = startMs - 60_000;
  assert.equal(isMuting(first, setBackMs), false);
  assert.equal(endSilence(first, channels, setBackMs)?.status, "ended");
  assert.equal(isMuting(first, startMs - 1000), true, "two nodes differ by less");
});
