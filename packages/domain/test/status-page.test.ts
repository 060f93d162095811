import assert from "node:assert/strict";
import { test } from "node:test";
import { type StatusPage, type StatusView, statusLimits, statusView } from "@mcp-failover/contracts";
import { emptyReadModel, foldReadModel, type Placed, pageStatus, type ReadModel, viewStatus } from "@mcp-failover/domain";
import fc from "fast-check";
import { configApplied, decided, healthChanged, rollbackDecided, startMs, topologyOf } from "./audit-events.ts";

const nowMs = startMs + 1_000_000;
const services = [{ name: "router", instances: 2 }];
const fold = (events: readonly Placed[], from: ReadModel = emptyReadModel): ReadModel => events.reduce(foldReadModel, from);

/** Upstreams in the order that they are given, agents, and a legacy tool that each upstream has. */
function fleet(upstreams: readonly string[], agents: readonly string[] = []): unknown {
  const tools = { stock: { legacy: { url: "http://127.0.0.1:9/" } } };
  const topology = topologyOf(Object.fromEntries(upstreams.map((name) => [name, ["primary", "secondary"]])), { tools }) as object;
  return { ...topology, agents: Object.fromEntries(agents.map((name) => [name, { tools: [] }])) };
}
/** One upstream whose endpoints have so much to say that its view is about as large as this. */
function talkative(upstream: string, bytes: number): Placed[] {
  const event = healthChanged(2, upstream, "primary", "unhealthy");
  return [{ ...event, event: { ...event.event, data: { ...event.event.data, reason: "ä".repeat(bytes / 2) } } as Placed["event"] }];
}
type Page = StatusView & { page: StatusPage };
function pageOf(model: ReadModel, page: { after?: string; limit?: number }): Page {
  const made = pageStatus(model, services, nowMs, page);
  assert.ok(made.kind === "page", JSON.stringify(made));
  const view = statusView.parse(made.view);
  assert.ok(view.page !== undefined);
  return { ...view, page: view.page };
}
/** Every page; `models` are what there is at each of them, the last for all that follow. */
function allPages(models: readonly ReadModel[], limit?: number): Page[] {
  const pages: Page[] = [];
  for (let after: string | null | undefined; after !== null; ) {
    const model = models[Math.min(pages.length, models.length - 1)] ?? emptyReadModel;
    const page = pageOf(model, { ...(after === undefined ? {} : { after }), ...(limit === undefined ? {} : { limit }) });
    assert.ok(page.page.next === null || page.page.next > (after ?? ""), "SP4: it goes on");
    after = page.page.next;
    pages.push(page);
  }
  return pages;
}
const name = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9_-]{0,3}$/);
const names = fc.uniqueArray(name, { minLength: 1, maxLength: 12, size: "max" });

test("SP2: all pages of one model are its whole view, nothing twice, in the order of the names, with the places of the configuration", () => {
  fc.assert(
    fc.property(
      names,
      fc.uniqueArray(name, { maxLength: 12, size: "max" }),
      fc.option(fc.integer({ min: 1, max: 5 }), { nil: undefined }),
      (upstreams, agents, limit) => {
        const model = fold([configApplied(1, 1, fleet(upstreams, agents)), rollbackDecided(2, "stock", "legacy")]);
        const pages = allPages([model], limit);
        const whole = viewStatus(model, services, nowMs);
        const shown = pages.flatMap((page) => page.upstreams.map((view, index) => ({ view, place: page.page.places[index] ?? -1 })));
        assert.deepEqual(
          shown.map(({ view }) => view.name),
          [...upstreams].sort(),
        );
        assert.deepEqual(
          shown.sort((a, b) => a.place - b.place).map(({ view }) => view),
          whole.upstreams,
        );
        const agentsShown = pages.flatMap((page) => Object.entries(page.rollback.agents));
        assert.deepEqual(agentsShown.map(([name]) => name).sort(), [...agents].sort());
        assert.deepEqual(Object.assign({}, ...pages.map((page) => page.rollback.tools)), whole.rollback.tools);
        for (const page of pages) {
          assert.deepEqual([page.rollback.system, page.services, page.page.seq], [whole.rollback.system, services, model.seq]);
          assert.ok(new Set([...page.upstreams.map(({ name }) => name), ...Object.keys(page.rollback.agents)]).size <= (limit ?? 100));
        }
      },
    ),
  );
});

test("SP3: what is configured all the time is on exactly one page, whatever is added, removed or moved between two", () => {
  fc.assert(
    fc.property(fc.array(names, { minLength: 1, maxLength: 4 }), fc.integer({ min: 1, max: 3 }), (configurations, limit) => {
      const models: ReadModel[] = [];
      for (const [index, upstreams] of configurations.entries()) {
        const seq = index * 100 + 1;
        const moved = upstreams.map((name, at) => decided(seq + 1 + at, name, index % 2 === 0 ? "secondary" : "primary", index + 1));
        models.push(fold([configApplied(seq, index + 1, fleet(upstreams)), ...moved], models.at(-1)));
      }
      const pages = allPages(models, limit);
      const shown = pages.flatMap((page) => page.upstreams.map(({ name }) => name));
      assert.equal(new Set(shown).size, shown.length, "nothing twice");
      const always = configurations.reduce((left, right) => left.filter((name) => right.includes(name)));
      for (const name of always) assert.ok(shown.includes(name), `${name} is skipped`);
      for (const [index, page] of pages.entries()) {
        const model = models[Math.min(index, models.length - 1)] ?? emptyReadModel;
        assert.equal(page.page.seq, model.seq);
        const whole = viewStatus(model, services, nowMs).upstreams;
        for (const view of page.upstreams)
          assert.deepEqual(
            view,
            whole.find(({ name }) => name === view.name),
          );
      }
    }),
  );
});

test("SP1: a page has fewer names than asked for where more do not fit, counted in bytes and not in letters", () => {
  const upstreams = ["a", "b", "c", "d"];
  const said = upstreams.flatMap((name) => talkative(name, 200 * 1024));
  const pages = allPages([fold([configApplied(1, 1, fleet(upstreams)), ...said])], 1000);
  assert.deepEqual(
    pages.map((page) => page.upstreams.map(({ name }) => name)),
    [
      ["a", "b"],
      ["c", "d"],
    ],
  );
  for (const page of pages) assert.ok(Buffer.byteLength(JSON.stringify(page)) <= statusLimits.pageBytesMax);
});

test("SP1: an upstream that is larger than a page has one alone, and one that no message takes is refused with its name and size", () => {
  const upstreams = ["a", "large", "z"];
  const events = [configApplied(1, 1, fleet(upstreams)), ...talkative("large", 900 * 1024)];
  assert.deepEqual(
    allPages([fold(events)]).map((page) => page.upstreams.map(({ name }) => name)),
    [["a"], ["large"], ["z"]],
  );
  const model = fold([configApplied(1, 1, fleet(upstreams)), ...talkative("large", 960 * 1024)]);
  assert.deepEqual(pageOf(model, {}).page.next, "a");
  const made = pageStatus(model, services, nowMs, { after: "a" });
  assert.ok(made.kind === "too_large" && made.name === "large" && made.bytes > statusLimits.upstreamBytesMax, JSON.stringify(made));
  assert.deepEqual(pageOf(model, { after: "large" }).page.next, null, "the others are there");
});

test("a fleet without a configuration has one page, and it is empty", () => {
  assert.deepEqual(pageOf(emptyReadModel, {}).page, { seq: 0, next: null, places: [] });
});
