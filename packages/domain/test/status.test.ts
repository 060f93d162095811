import assert from "node:assert/strict";
import { test } from "node:test";
import { statusView } from "@mcp-failover/contracts";
import {
  emptyReadModel,
  foldReadModel,
  historyMax,
  ownReadModel,
  type Placed,
  type ReadModel,
  strays,
  viewStatus,
} from "@mcp-failover/domain";
import fc from "fast-check";
import {
  breakerChanged,
  configApplied,
  decided,
  executed,
  failing,
  healthChanged,
  logStarted,
  rollbackDecided,
  startMs,
  topologyOf,
} from "./audit-events.ts";

const fold = (events: readonly Placed[], from: ReadModel = emptyReadModel): ReadModel => events.reduce(foldReadModel, from);
const nowMs = startMs + 1_000_000;
const shops = topologyOf(
  { shop: ["primary", "secondary"], docs: ["only"] },
  { tools: { stock: { legacy: { url: "http://127.0.0.1:9/" } } } },
);

/** Logs of a few upstreams, some of them never configured, one with a name that objects have of their own. */
const names = fc.constantFrom("shop", "docs", "gone", "constructor", "__proto__");
const endpoints = fc.constantFrom("primary", "secondary", "only", "toString");
const health = fc.constantFrom("healthy" as const, "unhealthy" as const, "degraded" as const, "unknown" as const);
const anyEvent = fc.oneof(
  fc.tuple(names, endpoints, health).map(
    ([upstream, endpoint, status]) =>
      (seq: number) =>
        healthChanged(seq, upstream, endpoint, status),
  ),
  fc.tuple(names, endpoints).map(
    ([upstream, endpoint]) =>
      (seq: number) =>
        breakerChanged(seq, upstream, endpoint, "open"),
  ),
  fc.tuple(names, endpoints).map(
    ([upstream, endpoint]) =>
      (seq: number) =>
        decided(seq, upstream, endpoint, seq),
  ),
  fc.tuple(names, endpoints).map(
    ([upstream, endpoint]) =>
      (seq: number) =>
        executed(seq, upstream, endpoint, seq),
  ),
  names.map((upstream) => (seq: number) => failing(seq, upstream, true)),
  fc.constantFrom("stock", "hasOwnProperty").map((tool) => (seq: number) => rollbackDecided(seq, tool, "legacy")),
  fc.constant((seq: number) => configApplied(seq, seq, shops)),
  fc.constant((seq: number) => configApplied(seq, seq, topologyOf({ docs: ["only", "secondary"], constructor: ["primary"] }))),
  fc.constant((seq: number) => configApplied(seq, seq, { upstreams: "broken" })),
  fc.constant((seq: number) => logStarted(seq, seq)),
);
const anyLog = fc.array(anyEvent, { maxLength: 60, size: "max" }).map((makers) => makers.map((make, index) => make(index + 1)));

test("S1: folding a log twice, or any part of it again, changes nothing", () => {
  fc.assert(
    fc.property(anyLog, fc.nat(60), (log, from) => {
      const model = fold(log);
      assert.deepEqual(fold(log.slice(Math.min(from, log.length)), model), model);
      assert.deepEqual(fold(log, model), model);
    }),
  );
});

test("a log folded in place is what it is folded event by event, wherever folding in place begins, and what it began from stays as it was", () => {
  fc.assert(
    fc.property(anyLog, anyLog, fc.boolean(), (log, more, again) => {
      const from = fold(again ? log : []);
      const asItWas = structuredClone(from);
      const mine = ownReadModel(from);
      for (const placed of more) mine.fold(placed);
      assert.deepEqual(mine.model, fold(more, from));
      assert.deepEqual(from, asItWas);
    }),
  );
});

test("a model that is folded in place drops the same strays as one that is copied", () => {
  const many = strays.entriesMax + 20;
  const log = [configApplied(1, 1, shops), healthChanged(2, "shop", "primary", "healthy")];
  for (let seq = 3; seq < many; seq += 1)
    log.push(healthChanged(seq, `u${seq}`, "e", "unhealthy"), executed(many + seq, `u${seq}`, "e", 1));
  for (let seq = 3 * many; seq < 3 * many + 40; seq += 1) log.push(healthChanged(seq, `v${seq}`, "e", "healthy"));
  const mine = ownReadModel();
  for (const placed of log) mine.fold(placed);
  assert.deepEqual([Object.keys(mine.model.health).length, Object.keys(mine.model.history).length], [1001, strays.historiesMax]);
  assert.deepEqual(mine.model, fold(log));
});

test("an event folded in place touches its own entry alone: none is copied or walked through, known or new, in a fleet of any size", (t) => {
  const upstreams = Array.from({ length: 1000 }, (_, index) => `u${index}`);
  const topology = topologyOf(Object.fromEntries(upstreams.map((name) => [name, ["primary", "secondary"]])));
  const mine = ownReadModel(fold([configApplied(1, 1, topology), healthChanged(2, "u0", "primary", "healthy")]));
  const { health, routes } = mine.model;
  let seq = 2;
  const next = (): number => {
    seq += 1;
    return seq;
  };
  const foldAll = (): void => {
    for (const name of upstreams) {
      for (const endpoint of ["primary", "secondary"]) mine.fold(healthChanged(next(), name, endpoint, "unhealthy"));
      mine.fold(decided(next(), name, "secondary", 1));
    }
  };
  // What is configured is put together once.
  mine.fold(healthChanged(next(), "u1", "primary", "healthy"));
  const walks = (["entries", "keys", "values"] as const).map((name) => t.mock.method(Object, name).mock);
  foldAll();
  foldAll();
  const walked = walks.flatMap(({ calls }) =>
    calls.filter(({ arguments: [what] }) => what === health || what === routes || what === mine.model.topology?.upstreams),
  );
  for (const walk of walks) walk.restore();
  assert.equal(walked.length, 0);
  assert.equal(mine.model.health, health, "not copied");
  assert.equal(mine.model.routes, routes);
  assert.equal(Object.keys(health).length, 2000);
});

test("S1: events of different subjects may come in any order", () => {
  fc.assert(
    fc.property(
      anyLog.chain((log) => fc.tuple(fc.constant(log), fc.shuffledSubarray(log, { minLength: log.length }))),
      ([log, shuffled]) => {
        // Of one subject, a log hands over the older event first.
        const bySubject = Map.groupBy(log, ({ subject }) => subject);
        const ordered = shuffled.map(({ subject }) => bySubject.get(subject)!.shift()!);
        assert.deepEqual(viewStatus(fold(ordered), [], nowMs), viewStatus(fold(log), [], nowMs));
      },
    ),
  );
});

test("S1: an older event of a subject does not overwrite a newer one", () => {
  const model = fold([
    configApplied(1, 1, shops),
    healthChanged(9, "shop", "primary", "healthy"),
    healthChanged(5, "shop", "primary", "unhealthy"),
  ]);
  assert.equal(viewStatus(model, [], nowMs).upstreams[0]?.endpoints[0]?.health, "healthy");
  assert.equal(fold([logStarted(9, 2), logStarted(3, 1)]).generation, 2);
  assert.equal(fold([configApplied(2, 2, topologyOf({ docs: ["only"] }))], fold([configApplied(8, 3, shops)])).configVersion, 3);
});

test("S2: the view shows exactly what is configured, in its pinned shape, whatever else the log holds", () => {
  fc.assert(
    fc.property(anyLog, (log) => {
      const model = fold(log);
      const view = statusView.parse(JSON.parse(JSON.stringify(viewStatus(model, [{ name: "router", instances: 2 }], nowMs))));
      const configured = Object.entries(model.topology?.upstreams ?? {}).map(([name, upstream]) => [
        name,
        upstream.endpoints.map((one) => one.name),
      ]);
      assert.deepEqual(
        view.upstreams.map(({ name, endpoints: shown }) => [name, shown.map((one) => one.name)]),
        configured,
      );
      assert.deepEqual(Object.keys(view.rollback.tools), model.topology?.upstreams["shop"] === undefined ? [] : ["stock"]);
    }),
  );
});

test("S3: without a decision the first write endpoint of the lowest tier is active, at epoch 0, since the configuration", () => {
  const topology = {
    upstreams: {
      shop: {
        kind: "http",
        endpoints: [
          { name: "far", tier: 2, url: "http://127.0.0.1:1/" },
          { name: "replica", tier: 0, role: "read", url: "http://127.0.0.1:2/" },
          { name: "near", tier: 1, url: "http://127.0.0.1:3/" },
          { name: "near-too", tier: 1, url: "http://127.0.0.1:4/" },
        ],
      },
    },
  };
  const [shop] = viewStatus(fold([configApplied(7, 1, topology)]), [], nowMs).upstreams;
  assert.equal(shop?.active, "near");
  assert.equal(shop?.epoch, 0);
  assert.equal(shop?.since, new Date(startMs + 7000).toISOString());
});

test("a hold before the first move is shown until it ends, and does not date the endpoint to 1970", () => {
  const model = fold([configApplied(1, 1, shops), decided(2, "shop", "primary", 1, { sinceMs: 0, heldUntilMs: nowMs })]);
  const [before] = viewStatus(model, [], nowMs - 1).upstreams;
  assert.deepEqual(before?.held, { by: "ann", reason: "a drill", until: new Date(nowMs).toISOString() });
  assert.equal(before?.since, new Date(startMs + 1000).toISOString());
  assert.equal(viewStatus(model, [], nowMs).upstreams[0]?.held, null);
});

test("S4: what is kept is bounded, however long the log and however many names it has", () => {
  const many = strays.entriesMax + 50;
  let model = fold([configApplied(1, 1, shops), healthChanged(2, "shop", "primary", "healthy")]);
  for (let seq = 3; seq < many + 3; seq += 1) model = foldReadModel(model, healthChanged(seq, `u${seq}`, "e", "unhealthy"));
  assert.equal(Object.keys(model.health).length, strays.entriesMax + 1);
  assert.ok(Object.hasOwn(model.health, "shop/primary"), "what is configured stays");
  assert.ok(!Object.hasOwn(model.health, "u3/e"), "the oldest stray went");
  model = foldReadModel(model, healthChanged(4000, "u60", "e", "healthy"));
  for (let seq = 4001; seq < 4030; seq += 1) model = foldReadModel(model, healthChanged(seq, `v${seq}`, "e", "unhealthy"));
  assert.ok(Object.hasOwn(model.health, "u60/e"), "what was said of late stays, however long it is known");
  for (let index = 0; index < strays.historiesMax + 5; index += 1)
    model = foldReadModel(model, executed(5000 + index, `u${index}`, "secondary", 1));
  assert.equal(Object.keys(model.history).length, strays.historiesMax);
  for (let index = 0; index < historyMax + 5; index += 1)
    model = foldReadModel(model, executed(10_000 + index, "shop", "secondary", index));
  assert.equal(model.history["shop"]?.length, historyMax);
  assert.equal(model.history["shop"]?.[0]?.epoch, historyMax + 4, "newest first");
});

test("an upstream that is configured again has what was known of it", () => {
  const known = [configApplied(1, 1, shops), healthChanged(2, "shop", "primary", "unhealthy"), decided(3, "shop", "secondary", 1)];
  const removed = fold([...known, configApplied(4, 2, topologyOf({ docs: ["only"] }))]);
  assert.deepEqual(
    viewStatus(removed, [], nowMs).upstreams.map(({ name }) => name),
    ["docs"],
  );
  const [shop] = viewStatus(fold([configApplied(5, 3, shops)], removed), [], nowMs).upstreams;
  assert.equal(shop?.endpoints[0]?.health, "unhealthy");
  assert.equal(shop?.active, "secondary");
});

test("a configuration that does not parse leaves the last good one in force", () => {
  const model = fold([configApplied(1, 1, shops), configApplied(2, 2, { upstreams: {} })]);
  assert.equal(model.configVersion, 1);
});
