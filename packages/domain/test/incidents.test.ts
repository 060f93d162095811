import assert from "node:assert/strict";
import { test } from "node:test";
import { incidentChanged } from "@mcp-failover/contracts";
import {
  acknowledgeIncident,
  againMs,
  confirmTold,
  emptyReadModel,
  foldIncident,
  foldReadModel,
  type Incident,
  type IncidentContext,
  incidentContext,
  incidentContextOf,
  incidentKeyOf,
  notifyWaitMs,
  outageMs,
  type Placed,
  pageWaitMs,
  quietMs,
  type ReadModel,
  settleIncident,
  tellIncident,
} from "@mcp-failover/domain";
import fc from "fast-check";
import {
  breakerChanged,
  configApplied,
  decided,
  executed,
  failing,
  healthChanged,
  operator,
  rejected,
  rollbackNotice,
  rollbackRejected,
  service,
  startMs,
  topologyOf,
} from "./audit-events.ts";

const channels = [
  { name: "pager", severities: ["page" as const] },
  { name: "mail", severities: ["notify" as const] },
  { name: "all", severities: ["page" as const, "notify" as const] },
];

/** The notifier in small: takes in events, and looks what is due at every step of time. Everything told is kept for the checks. */
class Desk {
  model: ReadModel = emptyReadModel;
  readonly all: Incident[] = [];
  readonly last = new Map<string, Incident>();
  readonly told: { name: string; kind: string; channel: string; incident: Incident; atMs: number }[] = [];
  /** What was known of the upstream when its incident was resolved. */
  readonly endings: IncidentContext[] = [];
  nowMs = startMs;
  seq = 0;
  /** Whether messages are confirmed to be in the outbox at once. */
  confirms = true;

  constructor(critical = true) {
    this.takes((seq) => configApplied(seq, 1, topologyOf({ shop: ["primary", "secondary"], docs: ["only"] }, { critical })));
    for (const endpoint of ["primary", "secondary"]) this.takes((seq) => healthChanged(seq, "shop", endpoint, "healthy"));
  }
  takes(make: (seq: number, atMs: number) => Placed): this {
    this.seq += 1;
    return this.sees({ ...make(this.seq, this.nowMs), timeMs: this.nowMs });
  }
  sees(event: Placed): this {
    this.model = foldReadModel(this.model, event);
    const key = incidentKeyOf(event.event);
    if (key !== null) this.keep(foldIncident(this.last.get(key) ?? null, event, incidentContextOf(this.model, key)));
    return this.looks();
  }
  waits(ms: number): this {
    const untilMs = this.nowMs + ms;
    while (this.nowMs < untilMs) {
      this.nowMs = Math.min(untilMs, this.nowMs + 250);
      this.looks();
    }
    return this;
  }
  looks(): this {
    for (const key of [...this.last.keys()]) {
      const known = this.last.get(key) as Incident;
      this.keep(settleIncident(known, incidentContextOf(this.model, key), this.nowMs));
      for (let due = tellIncident(this.last.get(key) as Incident, channels, this.nowMs); due !== null; ) {
        this.keep(due);
        for (const channel of due.telling?.channels ?? []) {
          this.told.push({ name: due.telling!.name, kind: due.telling!.kind, channel, incident: due, atMs: this.nowMs });
        }
        if (!this.confirms) break;
        if (due.telling != null)
          this.keep(confirmTold(due, Object.fromEntries(due.telling.channels.map((channel) => [channel, this.told.length]))));
        due = tellIncident(this.last.get(key) as Incident, channels, this.nowMs);
      }
    }
    return this;
  }
  keep(incident: Incident | null): void {
    if (incident === null) return;
    incidentChanged.parse(incident);
    const before = this.last.get(incident.dedupKey);
    const over = incident.status === "resolved" && (before?.id !== incident.id || before.status !== "resolved");
    if (over && incident.upstream !== null) this.endings.push(incidentContext(this.model, incident.upstream));
    this.last.set(incident.dedupKey, incident);
    this.all.push(incident);
  }
  get messages(): string[] {
    return this.told.filter(({ channel }) => channel === "all").map(({ kind, incident }) => `${kind} ${incident.title}`);
  }
}
const health = (endpoint: string, status: "healthy" | "unhealthy" | "unknown") => (seq: number) =>
  healthChanged(seq, "shop", endpoint, status);
const moved = (to: string) => (seq: number) => executed(seq, "shop", to, 1);
const breaker = (status: "open" | "closed") => (seq: number) => breakerChanged(seq, "shop", "primary", status);

const anyStep = fc.oneof(
  fc
    .tuple(fc.constantFrom("primary", "secondary"), fc.constantFrom("healthy" as const, "unhealthy" as const, "unknown" as const))
    .map(([endpoint, status]) => ({ event: health(endpoint, status) })),
  fc.constantFrom("open" as const, "closed" as const).map((status) => ({ event: breaker(status) })),
  fc.constantFrom("primary", "secondary").map((to) => ({ event: moved(to) })),
  fc.constantFrom("primary", "secondary").map((to) => ({ event: (seq: number) => executed(seq, "shop", to, 1, { by: operator }) })),
  fc.constantFrom("primary", "secondary").map((to) => ({ event: (seq: number) => decided(seq, "shop", to, seq) })),
  fc.boolean().map((is) => ({ event: (seq: number) => failing(seq, "shop", is) })),
  fc.constant({ event: (seq: number) => rejected(seq, "shop", "cooldown") }),
  fc
    .constantFrom("rollback.executed" as const, "rollback.advanced" as const, "rollback.paused" as const, "rollback.recovered" as const)
    .map((type) => ({ event: (seq: number) => rollbackNotice(seq, type, "stock") })),
  fc.constant({ event: (seq: number) => rollbackRejected(seq, "stock") }),
  fc.constantFrom("a", "b").map((version) => ({
    event: (seq: number) => configApplied(seq, seq, topologyOf(version === "a" ? { docs: ["only"] } : { shop: ["primary", "secondary"] })),
  })),
  fc.constantFrom(100, 2500, 11_000, 61_000).map((ms) => ({ ms })),
);
const anyHistory = fc.array(anyStep, { maxLength: 40, size: "max" }).map((steps) => {
  const desk = new Desk();
  for (const step of steps) {
    if ("ms" in step) desk.waits(step.ms);
    else desk.takes(step.event);
  }
  return desk;
});

test("I1: an incident is opened only where the last one of its key is resolved, and keeps its id till then", () => {
  fc.assert(
    fc.property(anyHistory, (desk) => {
      const open = new Map<string, Incident>();
      for (const incident of desk.all) {
        const before = open.get(incident.dedupKey);
        if (before !== undefined && before.id !== incident.id) assert.equal(before.status, "resolved");
        open.set(incident.dedupKey, incident);
      }
    }),
  );
});

test("I2: an event is taken in at most once, however often and late it is seen", () => {
  fc.assert(
    fc.property(anyHistory, (desk) => {
      for (const incident of desk.last.values()) {
        const cause = incident.causes.at(-1)!;
        const again = { ...health("primary", "unhealthy")(cause.seq), seq: cause.seq };
        if (incident.upstream === "shop") assert.equal(foldIncident(incident, again, incidentContext(desk.model, "shop")), null);
        const seqs = incident.causes.map(({ seq }) => seq);
        assert.deepEqual(
          seqs,
          [...seqs].sort((a, b) => a - b),
        );
      }
    }),
  );
});

test("I3: opened is told once and first, resolved once and last and to all who were told, and no message has another's id", () => {
  fc.assert(
    fc.property(anyHistory, (desk) => {
      const ids = desk.told.map(({ incident, name, channel }) => `${incident.id}/${name}/${channel}`);
      assert.equal(new Set(ids).size, ids.length);
      for (const [, told] of Map.groupBy(desk.told, ({ incident }) => incident.id)) {
        const kinds = told.filter(({ channel }) => channel === "all").map(({ kind }) => kind);
        assert.equal(kinds[0], "opened");
        assert.deepEqual(
          kinds.slice(1).filter((kind) => kind === "opened"),
          [],
        );
        // An outage is told once, and once more where it becomes a dead end that lasts; each begins `outageMs` after the one before it.
        const { openedAtMs } = told[0]!.incident;
        const outagesMax = 1 + Math.floor((told.at(-1)!.atMs - openedAtMs) / outageMs);
        const { upstream, causes } = told.at(-1)!.incident;
        assert.ok(kinds.filter((kind) => kind === "escalated").length <= (upstream === null ? causes.length - 1 : 2 * outagesMax));
        const resolved = told.filter(({ kind }) => kind === "resolved").map(({ channel }) => channel);
        if (resolved.length === 0) continue;
        assert.equal(kinds.at(-1), "resolved");
        assert.deepEqual(new Set(resolved), new Set(told.map(({ channel }) => channel)));
      }
    }),
  );
});

test("I4: a failover or a dead end is told in the very step, a sick endpoint only after its wait", () => {
  assert.deepEqual(new Desk().takes(moved("secondary")).messages, ["opened shop failed over from primary to secondary"]);
  assert.deepEqual(new Desk().takes((seq) => failing(seq, "shop", true)).messages, ["opened shop has no healthy endpoint to go to"]);
  const active = new Desk().takes(health("primary", "unhealthy")).waits(pageWaitMs - 250);
  assert.deepEqual(active.messages, []);
  assert.deepEqual(active.waits(250).messages, ["opened shop: the active endpoint primary is unhealthy"]);
  const standby = new Desk().takes(health("secondary", "unhealthy")).waits(notifyWaitMs - 250);
  assert.deepEqual(standby.messages, []);
  assert.deepEqual(standby.waits(250).messages, ["opened shop: the standby secondary is unhealthy"]);
});

test("I4: what is sick and what follows from it come in one message", () => {
  const desk = new Desk().takes(health("primary", "unhealthy")).waits(1500);
  desk
    .takes((seq) => decided(seq, "shop", "secondary", 1))
    .takes(moved("secondary"))
    .waits(30_000);
  assert.deepEqual(desk.messages, ["opened shop failed over from primary to secondary"]);
  assert.equal(desk.told[0]?.incident.causes.length, 2);
  desk.takes(health("primary", "healthy")).waits(1000);
  assert.deepEqual(desk.messages.slice(1), ["resolved shop failed over from primary to secondary"]);
});

test("I4: a failover that comes before health notices is one message too, and what health says then belongs to it", () => {
  const desk = new Desk()
    .takes((seq) => decided(seq, "shop", "secondary", 1))
    .takes(moved("secondary"))
    .waits(2000);
  // A word about what was well before heals nothing.
  desk.takes((seq) => healthChanged(seq, "shop", "secondary", "healthy", undefined, "healthy"));
  desk.takes(health("primary", "unhealthy")).waits(30_000);
  assert.equal(desk.messages.length, 1);
});

test("I5: an upstream's incident is resolved only when all of it is well, or it is not configured any more", () => {
  fc.assert(
    fc.property(anyHistory, (desk) => {
      const isWell = ({ failing, broken, health }: IncidentContext) =>
        !failing && broken.length === 0 && Object.values(health).every((status) => status === "healthy");
      for (const context of desk.endings) assert.ok(!context.configured || isWell(context));
      const context = incidentContext(desk.model, "shop");
      if (desk.last.has("upstream/shop") && context.configured && isWell(context)) {
        assert.equal(desk.waits(quietMs + 250).last.get("upstream/shop")?.status, "resolved");
      }
    }),
  );
});

test("I5: what is not configured any more has no open incident", () => {
  const desk = new Desk().takes(health("primary", "unhealthy")).waits(5000);
  desk.takes((seq) => configApplied(seq, seq, topologyOf({ docs: ["only"] })));
  assert.deepEqual(
    desk.messages.map((message) => message.split(" ")[0]),
    ["opened", "resolved"],
  );
  assert.match(desk.last.get("upstream/shop")?.causes.at(-1)?.text ?? "", /shop is not configured any more/);
});

test("I5: a breaker that opened alone ends with its closing", () => {
  const desk = new Desk().takes(breaker("open")).waits(notifyWaitMs);
  assert.deepEqual(desk.messages, ["opened shop: the breaker of primary is open"]);
  desk.takes(breaker("closed"));
  assert.deepEqual(desk.messages.slice(1), ["resolved shop: the breaker of primary is open"]);
});

test("I5: a failover that health never saw is over after a quiet while, and the next one is told again", () => {
  const desk = new Desk().takes(moved("secondary")).waits(quietMs);
  assert.equal(desk.last.get("upstream/shop")?.status, "resolved");
  desk.takes(moved("primary"));
  assert.deepEqual(
    desk.messages.map((message) => message.split(" ")[0]),
    ["opened", "resolved", "opened"],
  );
});

test("each failover that an operator makes of a well upstream is exactly one message", () => {
  const desk = new Desk();
  for (const to of ["secondary", "primary", "secondary"]) desk.takes((seq) => executed(seq, "shop", to, 1, { by: operator })).waits(5000);
  assert.deepEqual(
    desk.messages.map((message) => message.split(" ")[0]),
    ["opened", "opened", "opened"],
  );
});

test("an operator's failover away from what is sick stays open until that is well", () => {
  const desk = new Desk().takes(health("primary", "unhealthy")).takes((seq) => executed(seq, "shop", "secondary", 1, { by: operator }));
  assert.equal(desk.last.get("upstream/shop")?.status, "open");
  const degraded = new Desk().takes(health("secondary", "unknown")).takes((seq) => executed(seq, "shop", "primary", 1, { by: operator }));
  assert.equal(degraded.last.get("upstream/shop")?.status, "open");
  degraded.takes(health("secondary", "healthy"));
  assert.equal(degraded.last.get("upstream/shop")?.status, "resolved");
});

test("a dead end that comes again in the same incident is not paged again", () => {
  const desk = new Desk().takes(health("primary", "unhealthy"));
  for (let round = 0; round < 3; round += 1) {
    desk.takes((seq) => failing(seq, "shop", true)).waits(againMs);
    desk.takes((seq) => failing(seq, "shop", false)).waits(againMs);
  }
  assert.deepEqual(desk.messages, ["opened shop has no healthy endpoint to go to"]);
});

test("I8: an outage days after the last one is told, also while a standby that never became well keeps the incident open", () => {
  for (const critical of [true, false]) {
    const desk = new Desk(critical).takes(health("secondary", "unhealthy")).waits(notifyWaitMs);
    desk.takes(health("primary", "unhealthy")).waits(pageWaitMs);
    const kinds = () => desk.messages.map((message) => message.split(" ")[0]);
    assert.deepEqual(kinds(), ["opened", "escalated"], "a sick standby says nothing of what agents use");
    for (const day of [1, 2]) {
      desk.takes(health("primary", "healthy")).waits(3_600_000);
      const before = desk.messages.length;
      desk.takes(health("primary", "unhealthy")).waits(pageWaitMs);
      assert.deepEqual(desk.messages.slice(before), ["escalated shop: the active endpoint primary is unhealthy"]);
      desk.takes((seq) => failing(seq, "shop", true)).waits(againMs + 250);
      assert.deepEqual(desk.messages.slice(before + 1), ["escalated shop has no healthy endpoint to go to"], `day ${day}`);
      desk.takes((seq) => failing(seq, "shop", false));
    }
    const page = desk.told.at(-1)!.incident.severity;
    assert.equal(page, critical ? "page" : "notify");
    desk.takes(health("primary", "healthy")).takes(health("secondary", "healthy"));
    assert.equal(kinds().at(-1), "resolved");
  }
});

test("I8: what flaps within minutes is one outage, and one that is over before it was due is told nobody", () => {
  const desk = new Desk().takes(health("secondary", "unhealthy")).waits(notifyWaitMs);
  for (let round = 0; round < 5; round += 1) {
    desk.takes(health("primary", "unhealthy")).waits(outageMs - 60_000);
    desk.takes(health("primary", "healthy")).waits(30_000);
  }
  assert.equal(desk.messages.length, 2);
  desk.waits(outageMs).takes(health("primary", "unhealthy")).waits(1000).takes(health("primary", "healthy")).waits(30_000);
  assert.equal(desk.messages.length, 2);
  desk.takes(health("primary", "unhealthy")).takes(moved("secondary")).waits(30_000);
  assert.deepEqual(desk.messages.slice(2), ["escalated shop failed over from primary to secondary"], "and is not taken for told");
});

test("I11: what waits when the store's clock is set back by an hour is told as soon, and nothing is told twice", () => {
  const hourMs = 3_600_000;
  const desk = new Desk().takes(health("secondary", "unhealthy"));
  desk.nowMs -= hourMs;
  assert.deepEqual(desk.looks().messages, ["opened shop: the standby secondary is unhealthy"], "its wait is not of this clock");
  desk.waits(2 * hourMs);
  assert.equal(desk.messages.length, 1);

  const page = new Desk().takes(health("primary", "unhealthy"));
  page.nowMs -= hourMs;
  assert.deepEqual(page.looks().messages, ["opened shop: the active endpoint primary is unhealthy"]);

  const over = new Desk();
  over.takes(health("primary", "unhealthy"));
  over.nowMs -= hourMs;
  over.nowMs += 600_000;
  over.takes(health("primary", "healthy"));
  assert.equal(over.messages.length, 1, "an outage of ten minutes, of which the end is the first that is heard, is told");

  const dead = new Desk().takes(moved("secondary")).takes((seq) => failing(seq, "shop", true));
  dead.nowMs -= hourMs;
  dead.waits(againMs + 250);
  assert.deepEqual(dead.messages.slice(1), ["escalated shop has no healthy endpoint to go to"], "a dead end that lasts");
});

test("I11: the first outage after the store's clock was set back is told, while a standby that never became well keeps the incident open", () => {
  const desk = new Desk().takes(health("secondary", "unhealthy")).takes(health("primary", "unhealthy")).waits(notifyWaitMs);
  desk.takes(health("primary", "healthy")).waits(outageMs);
  assert.equal(desk.messages.length, 1);
  desk.nowMs -= 3_600_000;
  desk.takes(health("primary", "unhealthy")).waits(pageWaitMs);
  assert.deepEqual(desk.messages.slice(1), ["escalated shop: the active endpoint primary is unhealthy"]);
  desk.takes(health("primary", "healthy")).waits(1000).takes(health("primary", "unhealthy")).waits(notifyWaitMs);
  assert.equal(desk.messages.length, 2, "and by the new clock what flaps is one outage again");
});

test("I11: an incident that was quiet and well when the store's clock was set back is over within the minute", () => {
  const desk = new Desk().takes((seq) => decided(seq, "shop", "secondary", 1)).takes(moved("secondary"));
  desk.nowMs -= 3_600_000;
  desk.waits(quietMs);
  assert.deepEqual(
    desk.messages.map((message) => message.split(" ")[0]),
    ["opened", "resolved"],
  );
});

test("I6: until a message is known to be in the outbox, nothing else of the incident is told", () => {
  const desk = new Desk();
  desk.confirms = false;
  desk.takes(moved("secondary")).takes(health("primary", "unhealthy")).takes(health("primary", "healthy")).waits(120_000);
  assert.deepEqual(desk.messages, ["opened shop failed over from primary to secondary"]);
  desk.confirms = true;
  desk.keep(confirmTold(desk.last.get("upstream/shop") as Incident, { all: 7, pager: 8 }));
  desk.looks();
  assert.deepEqual(desk.messages.slice(1), ["resolved shop failed over from primary to secondary"]);
  assert.deepEqual(desk.told.at(-1)?.incident.told?.outbox, { all: 7, pager: 8 }, "what comes after knows what came before");
});

test("a notification that becomes a page is told to the pager, and its end to both", () => {
  const desk = new Desk().takes(health("secondary", "unhealthy")).waits(notifyWaitMs).takes(health("primary", "unhealthy"));
  desk.takes(health("secondary", "healthy")).takes(health("primary", "healthy"));
  const by = (channel: string) => desk.told.filter((told) => told.channel === channel).map(({ kind }) => kind);
  assert.deepEqual(by("mail"), ["opened", "resolved"]);
  assert.deepEqual(by("pager"), ["escalated", "resolved"]);
  assert.deepEqual(by("all"), ["opened", "escalated", "resolved"]);
});

test("a dead end is one page; one that follows a failover and lasts is told once more", () => {
  const both = new Desk().takes(health("primary", "unhealthy")).takes((seq) => failing(seq, "shop", true));
  both.takes(health("secondary", "unhealthy")).waits(3_600_000);
  assert.deepEqual(both.messages, ["opened shop has no healthy endpoint to go to"]);
  const later = new Desk().takes(moved("secondary")).takes(health("primary", "unhealthy")).waits(600_000);
  later.takes((seq) => failing(seq, "shop", true));
  assert.deepEqual(later.messages.slice(1), ["escalated shop has no healthy endpoint to go to"]);
  const short = new Desk().takes(moved("secondary")).takes(health("primary", "unhealthy")).waits(1000);
  short
    .takes((seq) => failing(seq, "shop", true))
    .waits(againMs - 5000)
    .takes((seq) => failing(seq, "shop", false))
    .waits(againMs);
  assert.equal(short.messages.length, 1, "over before it was worth a second page");
});

test("what was over while nobody could be told: not told where it only waited, one message where it was due", () => {
  const waited = new Desk().takes(health("primary", "unhealthy")).waits(1000).takes(health("primary", "healthy")).waits(60_000);
  assert.deepEqual(waited.messages, []);
  // As a notifier finds it after a restart: both events at once, long after they happened.
  const desk = new Desk();
  const due = { ...moved("secondary")(10), timeMs: startMs };
  const sick = { ...health("primary", "unhealthy")(11), timeMs: startMs + 1000 };
  const well = { ...health("primary", "healthy")(12), timeMs: startMs + 60_000 };
  for (const event of [due, sick, well]) {
    desk.model = foldReadModel(desk.model, event);
    desk.keep(foldIncident(desk.last.get("upstream/shop") ?? null, event, incidentContext(desk.model, "shop")));
  }
  desk.waits(120_000);
  assert.deepEqual(desk.messages, ["opened shop failed over from primary to secondary"]);
  assert.deepEqual(desk.told[0]?.incident.notified, ["opened", "resolved"]);
});

test("an upstream that is not critical never pages, and a rollback by the system does", () => {
  const calm = new Desk(false)
    .takes(moved("secondary"))
    .takes((seq) => failing(seq, "shop", true))
    .waits(600_000);
  assert.ok(calm.told.every(({ incident }) => incident.severity === "notify"));
  const desk = new Desk().takes((seq) => rollbackNotice(seq, "rollback.executed", "stock"));
  assert.equal(desk.told[0]?.incident.severity, "page");
  desk.takes((seq) => rollbackNotice(seq, "rollback.recovered", "stock"));
  assert.deepEqual(
    desk.messages.map((message) => message.split(" ")[0]),
    ["opened", "resolved"],
  );
  const byHand = new Desk().takes((seq) => rollbackNotice(seq, "rollback.executed", "stock", operator));
  assert.equal(byHand.told[0]?.incident.severity, "notify");
});

const step = (type: "executed" | "advanced" | "paused" | "recovered", by?: typeof operator) => (seq: number) =>
  rollbackNotice(seq, `rollback.${type}`, "stock", by);
const gone = "the tool stock was rolled back to its legacy implementation";
const stopped = "the recovery of the tool stock has stopped";

test("I9: a rollback that a rule forbids, a ramp that stops and a ramp that is rolled back are each told once", () => {
  const desk = new Desk().takes((seq) => rollbackRejected(seq, "stock")).waits(3_600_000);
  assert.deepEqual(desk.messages, ["opened the tool stock needs a rollback that a rule forbids (legacy_no_better)"]);
  assert.deepEqual(
    desk.told.map(({ channel, incident }) => [channel, incident.severity, incident.status]),
    [
      ["pager", "page", "resolved"],
      ["all", "page", "resolved"],
    ],
    "nothing will say that it became well",
  );
  desk.takes(step("executed")).waits(5000).takes(step("advanced", operator)).waits(30_000);
  const before = desk.told.length;
  desk.takes(step("paused")).waits(3_600_000);
  assert.deepEqual(
    desk.told.slice(before).map(({ kind, channel, incident }) => `${kind} ${channel} ${incident.telling?.severity} ${incident.title}`),
    [`escalated mail notify ${stopped}`, `escalated all notify ${stopped}`],
    "a ramp that waits wakes nobody",
  );
  desk.takes(step("advanced", operator)).waits(30_000).takes(step("executed")).waits(3_600_000);
  assert.deepEqual(desk.messages.slice(1), [`opened ${gone}`, `escalated ${stopped}`, `escalated ${gone}`]);
  assert.equal(desk.told.filter(({ channel }) => channel === "pager").at(-1)?.incident.telling?.severity, "page");
  desk.takes((seq) => rollbackRejected(seq, "stock")).waits(1000);
  desk.takes(step("recovered")).waits(1000);
  assert.deepEqual(
    desk.messages.slice(4).map((message) => message.split(" ")[0]),
    ["escalated", "resolved"],
  );
});

test("I10: that routers are ahead of a log that was lost is one page for all scopes, and over when no more is heard of it", () => {
  const desk = new Desk();
  const ahead = (name: string, type: "rollback.executed" | "rollback.recovered") =>
    desk.takes((seq) => rollbackNotice(seq, type, name, service, "routers_ahead"));
  for (let tool = 0; tool < 20; tool += 1) ahead(`tool-${tool}`, tool % 2 === 0 ? "rollback.executed" : "rollback.recovered").waits(50);
  desk.waits(quietMs - 250);
  assert.deepEqual(desk.messages, ["opened routers hold rollbacks that this log does not know"]);
  assert.equal(desk.told[0]?.incident.severity, "page");
  assert.equal(desk.last.get("log/rollbacks")?.causes.length, 20);
  assert.deepEqual([...desk.last.keys()], ["log/rollbacks"]);
  assert.deepEqual(desk.waits(3000).messages.slice(1), ["resolved routers hold rollbacks that this log does not know"]);
});

test("I10: that routers are ahead of a log that was lost is one page for the routes of all upstreams, and none of their own incidents", () => {
  const desk = new Desk();
  const ahead = (upstream: string, type: "failover.executed" | "failover.held" | "failover.released") =>
    desk.takes((seq) => {
      const told = executed(seq, upstream, "secondary", 1);
      return { ...told, event: { ...told.event, type, data: { ...told.event.data, rule: "routers_ahead" } } } as Placed;
    });
  ahead("shop", "failover.executed").waits(50);
  ahead("other", "failover.released").waits(50);
  ahead("third", "failover.held").waits(quietMs - 250);
  assert.deepEqual(desk.messages, ["opened routers hold routes that this log does not know"]);
  assert.equal(desk.told[0]?.incident.severity, "page");
  assert.deepEqual([...desk.last.keys()], ["log/routes"]);
  assert.deepEqual(desk.waits(3000).messages.slice(1), ["resolved routers hold routes that this log does not know"]);
});

test("I9: a ramp that is rolled back within minutes is told, and pages although its pause did not", () => {
  const desk = new Desk().takes(step("executed")).waits(5000).takes(step("advanced", operator)).waits(10_000);
  desk.takes(step("paused")).waits(10_000).takes(step("executed")).waits(1000);
  assert.deepEqual(desk.messages, [`opened ${gone}`, `escalated ${gone}`]);
  assert.equal(desk.told.filter(({ channel }) => channel === "pager").length, 2);
});

test("I9: a ramp that goes on within the minute has told nobody that it stopped, and what an operator is refused is nothing to tell", () => {
  const desk = new Desk().takes(step("executed")).waits(5000).takes(step("advanced", operator)).waits(30_000);
  desk
    .takes(step("paused"))
    .waits(againMs - 250)
    .takes((seq) => rollbackRejected(seq, "stock", { by: operator }))
    .takes(step("advanced"))
    .waits(3_600_000);
  assert.deepEqual(desk.messages, [`opened ${gone}`]);
  const refused = new Desk().takes((seq) => rollbackRejected(seq, "stock", { by: operator }));
  assert.deepEqual([refused.messages, refused.last.size], [[], 0]);
  const paused = new Desk().takes(step("executed")).waits(5000).takes(step("paused")).waits(30_000);
  paused.takes((seq) => rollbackRejected(seq, "stock", { by: operator })).waits(30_000);
  assert.deepEqual(paused.messages, [`opened ${gone}`, `escalated ${stopped}`], "a command that was refused has not moved it");
});

test("a failover that is needed and that a rule or a hold forbids is told in the very step, to the pager where the upstream is critical", () => {
  for (const [critical, severity] of [
    [true, "page"],
    [false, "notify"],
  ] as const) {
    const desk = new Desk(critical).takes((seq) => rejected(seq, "shop", "held"));
    assert.deepEqual([desk.told[0]?.kind, desk.told[0]?.incident.severity], ["opened", severity]);
    assert.match(JSON.stringify(desk.told[0]?.incident), /shop needs a failover that a rule forbids \(held\)/);
    desk.takes((seq) => rejected(seq, "shop", "held")).waits(60_000);
    assert.equal(new Set(desk.told.map(({ incident }) => incident.id)).size, 1, "it is one incident, however often it is refused");
  }
});

test("acknowledging works on an open incident alone, and what gets worse is told all the same", () => {
  const desk = new Desk().takes(health("secondary", "unhealthy")).waits(notifyWaitMs);
  const acknowledged = acknowledgeIncident(desk.last.get("upstream/shop") as Incident, operator, desk.nowMs);
  assert.equal(acknowledged?.status, "acknowledged");
  assert.equal(acknowledgeIncident(acknowledged as Incident, operator, desk.nowMs), null);
  desk.keep(acknowledged);
  desk.takes(health("primary", "unhealthy"));
  assert.deepEqual(
    desk.messages.map((message) => message.split(" ")[0]),
    ["opened", "escalated"],
  );
});

test("an incident stays small, however much belongs to it", () => {
  const desk = new Desk().takes(moved("secondary"));
  for (let count = 0; count < 150; count += 1) desk.takes((seq) => rejected(seq, "shop", "x".repeat(2000)));
  const incident = desk.last.get("upstream/shop") as Incident;
  assert.equal(incident.causes.length, 100);
  assert.ok(JSON.stringify(incident).length < 100_000);
});

test("an incident is told to 100 channels at most, and remembers none that is not configured any more", () => {
  const named = (from: number, count: number) =>
    Array.from({ length: count }, (_, index) => ({ name: `team-${from + index}`, severities: ["page" as const] }));
  let incident = new Desk().takes(moved("secondary")).last.get("upstream/shop") as Incident;
  incident = { ...incident, notified: [], told: null };
  for (let rename = 0; rename < 5; rename += 1) {
    const due = tellIncident(incident, named(rename * 200, 101), startMs + 60_000) as Incident;
    incidentChanged.parse(due);
    assert.deepEqual([due.told?.channels.length, due.told?.channels[0]], [100, `team-${rename * 200}`]);
    const seqs = Object.fromEntries((due.telling?.channels ?? []).map((name) => [name, 7]));
    // What comes next is told at once: the last outage was not.
    incident = { ...confirmTold(due, seqs), outage: { seq: 1_000_000 + rename, atMs: startMs, dueAtMs: startMs } };
    incident = { ...incident, told: { ...incident.told!, seq: 0 } };
    assert.ok(Object.keys(incident.told?.outbox ?? {}).length <= 200, "nor their messages");
  }
});
