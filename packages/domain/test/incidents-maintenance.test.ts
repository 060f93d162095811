import assert from "node:assert/strict";
import { test } from "node:test";
import { incidentChanged } from "@mcp-failover/contracts";
import {
  confirmTold,
  emptyReadModel,
  foldIncident,
  foldReadModel,
  type Incident,
  incidentContextOf,
  type Placed,
  settleIncident,
  tellIncident,
} from "@mcp-failover/domain";
import {
  configApplied,
  executed,
  failing,
  healthChanged,
  operator,
  rollbackNotice,
  rollbackRejected,
  startMs,
  topologyOf,
} from "./audit-events.ts";

const channels = [{ name: "pager", severities: ["page" as const, "notify" as const] }];
const window = (untilMs: number, scope: object = { upstreams: ["shop"] }) => ({
  name: "upgrade",
  ...scope,
  from: new Date(startMs - 1000).toISOString(),
  until: new Date(untilMs).toISOString(),
  reason: "new disks",
});

const upstreams = topologyOf(
  { shop: ["primary", "secondary"] },
  { tools: { stock: { legacy: { url: "http://127.0.0.1:9/" } } } },
) as object;

/** A notifier in small, with the one incident of the upstream `shop`, or of another key. */
class Desk {
  readonly key: string;
  model = emptyReadModel;
  incident: Incident | null = null;
  told: string[] = [];
  nowMs = startMs;
  seq = 0;
  constructor(key = "upstream/shop") {
    this.key = key;
  }
  configure(maintenance: readonly object[]): this {
    return this.takes((seq) => configApplied(seq, seq, { ...upstreams, maintenance }));
  }
  takes(make: (seq: number) => Placed): this {
    this.seq += 1;
    const placed = { ...make(this.seq), timeMs: this.nowMs };
    this.model = foldReadModel(this.model, placed);
    return this.keep(foldIncident(this.incident, placed, incidentContextOf(this.model, this.key)));
  }
  waits(ms: number): this {
    this.nowMs += ms;
    if (this.incident === null) return this;
    this.keep(settleIncident(this.incident, incidentContextOf(this.model, this.key), this.nowMs));
    const due = tellIncident(this.incident, channels, this.nowMs);
    if (due === null) return this;
    this.told.push(`${due.telling?.kind} ${due.severity}`);
    return this.keep(confirmTold(due, {}));
  }
  private keep(incident: Incident | null): this {
    if (incident !== null) this.incident = incidentChanged.parse(incident);
    return this;
  }
}
const health = (endpoint: string, status: "healthy" | "unhealthy") => (seq: number) => healthChanged(seq, "shop", endpoint, status);
const well = () =>
  new Desk()
    .configure([window(startMs + 600_000)])
    .takes(health("primary", "healthy"))
    .takes(health("secondary", "healthy"));

test("I7: what fails and is well again within its maintenance is on the list, but nobody is told", () => {
  const desk = well().takes(health("primary", "unhealthy"));
  assert.deepEqual([desk.incident?.status, desk.incident?.notifyAtMs], ["open", startMs + 600_000]);
  assert.match(desk.incident?.causes.at(-1)?.text ?? "", /; in maintenance upgrade$/);
  desk.takes((seq) => failing(seq, "shop", true)).waits(300_000);
  desk
    .takes((seq) => failing(seq, "shop", false))
    .takes(health("primary", "healthy"))
    .waits(1000)
    .waits(600_000);
  assert.deepEqual([desk.incident?.status, desk.told], ["resolved", []]);
});

test("I7: what is still wrong when the maintenance ends is told then", () => {
  const desk = well().takes(health("primary", "unhealthy")).waits(599_000);
  assert.deepEqual(desk.told, []);
  assert.deepEqual(desk.waits(1000).told, ["opened page"]);
});

test("I7: an active endpoint that is still sick when the maintenance ends is a page, also where a standby was sick before it", () => {
  const desk = well().takes(health("secondary", "unhealthy")).takes(health("primary", "unhealthy")).waits(600_000);
  assert.deepEqual(desk.told, ["opened page"]);
  assert.equal(desk.incident?.title, "shop: the active endpoint primary is unhealthy");
  const one = [window(startMs + 600_000, { endpoints: ["shop/primary"] })];
  const other = new Desk().configure(one).takes(health("primary", "healthy")).takes(health("secondary", "unhealthy"));
  assert.deepEqual(
    other.takes(health("primary", "unhealthy")).waits(11_000).told,
    ["opened notify"],
    "what is explained makes no page of what is not",
  );
});

test("I7: maintenance of one endpoint silences that endpoint alone", () => {
  const one = [window(startMs + 600_000, { endpoints: ["shop/secondary"] })];
  const desk = new Desk().configure(one).takes(health("primary", "healthy")).takes(health("secondary", "unhealthy")).waits(60_000);
  assert.deepEqual(desk.told, []);
  assert.deepEqual(desk.takes(health("primary", "unhealthy")).waits(2000).told, ["opened page"]);
});

test("I7: work that goes on from endpoint to endpoint hides none that is still sick when its own is over", () => {
  const rolling = [
    { ...window(startMs + 600_000, { endpoints: ["shop/primary"] }), name: "first" },
    { ...window(startMs + 3_600_000, { endpoints: ["shop/secondary"] }), name: "second" },
  ];
  const begin = () => new Desk().configure(rolling).takes(health("primary", "healthy")).takes(health("secondary", "healthy"));
  const desk = begin().takes(health("primary", "unhealthy")).waits(300_000).waits(299_000);
  assert.deepEqual(desk.told, []);
  assert.deepEqual(desk.waits(1000).told, ["opened page"]);
  const both = begin().takes(health("secondary", "unhealthy")).takes(health("primary", "unhealthy")).waits(300_000).waits(299_000);
  assert.deepEqual(both.told, []);
  assert.deepEqual(both.waits(1000).told, ["opened page"], "of two that are sick one is explained no more");
  assert.deepEqual(begin().takes(health("secondary", "unhealthy")).waits(600_000).waits(600_000).told, []);
});

test("I7: a maintenance made longer keeps silent longer, one called off is told at once", () => {
  const longer = well()
    .takes(health("primary", "unhealthy"))
    .configure([window(startMs + 900_000)]);
  assert.deepEqual(longer.waits(1000).waits(700_000).told, []);
  assert.deepEqual(longer.waits(200_000).told, ["opened page"]);
  const off = well().takes(health("primary", "unhealthy")).configure([]);
  assert.deepEqual(off.waits(1000).told, ["opened page"]);
});

test("I7: what was told before the maintenance becomes no page by it, and what an operator moves in it is nothing to tell", () => {
  const desk = new Desk().configure([]).takes(health("primary", "healthy")).takes(health("secondary", "unhealthy")).waits(11_000);
  assert.deepEqual(desk.told, ["opened notify"]);
  desk
    .configure([window(desk.nowMs + 600_000)])
    .takes(health("primary", "unhealthy"))
    .waits(120_000);
  assert.deepEqual(desk.told, ["opened notify"]);
  const calm = well().takes((seq) => executed(seq, "shop", "secondary", 1, { by: operator }));
  assert.equal(calm.incident, null);
  assert.deepEqual(
    well()
      .takes((seq) => executed(seq, "shop", "secondary", 1))
      .waits(0).told,
    ["opened page"],
    "an automatic move is told",
  );
});

const rolledBack = (by?: typeof operator) => (seq: number) => rollbackNotice(seq, "rollback.executed", "stock", by);
const everything = (untilMs: number) => window(untilMs, {});

test("I7: a tool that is rolled back by itself in the maintenance of its upstream is told only if it still is when that ends", () => {
  const planned = () => new Desk("rollback/tool/stock").configure([window(startMs + 600_000)]).takes(rolledBack());
  const desk = planned().waits(599_000);
  assert.deepEqual([desk.told, desk.incident?.status], [[], "open"]);
  assert.match(desk.incident?.causes.at(-1)?.text ?? "", /; in maintenance upgrade$/);
  assert.deepEqual(desk.waits(1000).told, ["opened page"]);
  const back = planned()
    .waits(1000)
    .takes((seq) => rollbackNotice(seq, "rollback.recovered", "stock"));
  assert.deepEqual([back.waits(3_600_000).told, back.incident?.status], [[], "resolved"]);
  assert.deepEqual(planned().configure([]).waits(1000).told, ["opened page"], "called off");
  const longer = planned().configure([everything(startMs + 900_000)]);
  assert.deepEqual(longer.waits(1000).waits(700_000).told, []);
  assert.deepEqual(longer.waits(200_000).told, ["opened page"]);
});

test("I7: an operator's rollback in maintenance is told at once, and so is one of another upstream's tool", () => {
  const planned = (scope: object, key = "stock") => new Desk(`rollback/tool/${key}`).configure([window(startMs + 600_000, scope)]);
  assert.deepEqual(planned({}).takes(rolledBack(operator)).waits(0).told, ["opened notify"]);
  assert.deepEqual(
    planned({ endpoints: ["shop/primary"] })
      .takes(rolledBack())
      .waits(0).told,
    ["opened page"],
  );
  const strange = (seq: number) => rollbackNotice(seq, "rollback.executed", "strange");
  assert.deepEqual(
    planned({ upstreams: ["shop"] }, "strange")
      .takes(strange)
      .waits(0).told,
    ["opened page"],
  );
  assert.deepEqual(planned({}, "strange").takes(strange).waits(0).told, [], "everything is everything");
});

test("I7: in maintenance a ramp that stops is told when that ends, and a rollback that a rule forbids not at all", () => {
  const desk = new Desk("rollback/tool/stock").configure([]).takes(rolledBack()).waits(1000);
  desk
    .configure([window(startMs + 600_000)])
    .takes((seq) => rollbackNotice(seq, "rollback.paused", "stock"))
    .waits(300_000);
  assert.deepEqual(desk.told, ["opened page"]);
  assert.deepEqual(desk.waits(300_000).told, ["opened page", "escalated page"]);
  const refused = new Desk("rollback/tool/stock").configure([window(startMs + 600_000)]).takes((seq) => rollbackRejected(seq, "stock"));
  assert.deepEqual([refused.incident, refused.waits(3_600_000).told], [null, []]);
});
