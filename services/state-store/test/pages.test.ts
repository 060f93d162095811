import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type Bus, connectBus, RefusedError, readFleetStatus } from "@mcp-failover/bus";
import { type StatusPage, type StatusView, statusLimits, statusView, streams } from "@mcp-failover/contracts";
import { startNats } from "@mcp-failover/testkit";
import { Log, redisForTests, startStore, until } from "./world.ts";

const { store: redisOfStore } = redisForTests("open");

/** So many endpoints of each of these upstreams. */
function topologyOf(names: readonly string[], endpoints: number): { upstreams: Record<string, object>; agents: object } {
  const endpointsOf = Array.from({ length: endpoints }, (_, index) => ({
    name: index === 0 ? "primary" : index === 1 ? "secondary" : `endpoint-${index}`,
    url: `http://127.0.0.1:9/${index}`,
    tier: index,
  }));
  const upstreams = names.map((name) => [name, { kind: "http", endpoints: endpointsOf }]);
  return { upstreams: Object.fromEntries(upstreams), agents: { planner: { tools: [] } } };
}

/** A nats-server with a state-store that answers there, and who asks it. */
async function world(t: TestContext): Promise<{ log: Log; asker: Bus }> {
  const nats = await startNats();
  const ends = [() => nats.stop()];
  t.after(async () => {
    for (const end of ends) await end();
  });
  const asker = connectBus({ servers: nats.url, name: "asker", instance: "asker" });
  ends.unshift(() => asker.close());
  await until(
    () => asker.status.kind,
    (kind) => kind === "connected",
  );
  await asker.ensureStreams(streams, { replicas: 1 });
  const log = new Log(asker);
  await log.begin();
  const store = await startStore({ bus: connectBus({ servers: nats.url, name: "s", instance: "s" }), redis: redisOfStore() });
  ends.unshift(() => store.stop());
  await store.serve();
  return { log, asker };
}
type Page = StatusView & { page: StatusPage };
/** A page as it came, with its size in bytes. */
async function ask(bus: Bus, page: { after?: string; limit?: number }): Promise<Page & { bytes: number }> {
  const reply = await bus.request("state.status", { page });
  assert.ok(reply.ok, JSON.stringify(reply));
  const view = statusView.parse(reply.result);
  assert.ok(view.page !== undefined);
  return { ...view, page: view.page, bytes: Buffer.byteLength(JSON.stringify(reply)) };
}
/** The state-store has folded so far. */
const folded = (bus: Bus, seq: number) =>
  until(
    async () => {
      const reply = await bus.request("state.status", { page: { limit: 1 } });
      return reply.ok ? (statusView.parse(reply.result).page?.seq ?? 0) : 0;
    },
    (known) => known >= seq,
    20_000,
  );
const numbered = (index: number): string => `upstream-${String(index).padStart(3, "0")}`;

test("10,000 endpoints: by page all of them come, nothing twice, whatever is added, removed or moved between two pages", async (t) => {
  const { log, asker } = await world(t);
  // Not in the order of the names.
  const names = Array.from({ length: 500 }, (_, index) => numbered((index * 7) % 500));
  await folded(asker, await log.apply(topologyOf(names, 20)));

  const old = await asker.request("state.status", {});
  assert.ok(
    !old.ok && old.error.code === "reply_too_large" && /ask for it by page/.test(old.error.message),
    JSON.stringify(old).slice(0, 300),
  );

  const { status, pages } = await readFleetStatus(asker);
  assert.deepEqual(
    status.upstreams.map(({ name }) => name),
    names,
    "in the order of the configuration",
  );
  assert.equal(status.upstreams.flatMap(({ endpoints }) => endpoints).length, 10_000);
  assert.deepEqual([status.rollback.agents, "page" in status, pages.length > 1], [{ planner: "mcp" }, false, true]);

  const first = await ask(asker, {});
  const [gone, movedEarly, movedLate, goneLate] = [numbered(3), numbered(4), numbered(498), numbered(497)] as const;
  const kept = names.filter((name) => name !== gone && name !== goneLate);
  await log.apply(topologyOf(["added-early", ...kept, "upstream-998"], 20));
  await log.move(movedEarly, "secondary");
  const changedSeq = await log.move(movedLate, "secondary");
  await folded(asker, changedSeq);
  const read = [first];
  for (let next = first.page.next; next !== null; ) {
    const page = await ask(asker, { after: next });
    read.push(page);
    next = page.page.next;
  }
  for (const page of read) assert.ok(page.bytes <= statusLimits.pageBytesMax, `${page.bytes} bytes`);
  assert.deepEqual([read[0]?.page.seq === changedSeq, read[1]?.page.seq], [false, changedSeq], "each page says its own moment");
  const shown = read.flatMap(({ upstreams }) => upstreams);
  const shownNames = shown.map(({ name }) => name);
  assert.equal(new Set(shownNames).size, shownNames.length, "nothing twice");
  assert.deepEqual(
    kept.filter((name) => !shownNames.includes(name)),
    [],
    "nothing that was there all the time is skipped",
  );
  assert.deepEqual(
    [gone, goneLate, "added-early", "upstream-998"].map((name) => shownNames.includes(name)),
    [true, false, false, true],
    "the rest is as it was at the moment of its page",
  );
  const activeOf = (name: string) => shown.find((upstream) => upstream.name === name)?.active;
  assert.deepEqual([movedEarly, movedLate].map(activeOf), ["primary", "secondary"]);
});

test("one upstream of which no message takes all is refused with its name, and the others can be had", async (t) => {
  const { log, asker } = await world(t);
  const { upstreams } = topologyOf(["a", "huge", "z"], 2);
  // A thousand endpoints, the most that one may have, fit; tools have no such limit.
  const legacy = { url: "http://127.0.0.1:9/" };
  const tools = Object.fromEntries(Array.from({ length: 8000 }, (_, index) => [`${"tool-".repeat(22)}${index}`, { legacy }]));
  await folded(asker, await log.apply({ upstreams: { ...upstreams, huge: { ...upstreams["huge"], tools } } }));
  const refused = await asker.request("state.status", { page: { after: "a" } });
  assert.ok(!refused.ok, JSON.stringify(refused).slice(0, 500));
  assert.equal(refused.error.code, "upstream_too_large");
  assert.match(refused.error.message, /^of huge alone there are \d+ bytes/);
  await assert.rejects(readFleetStatus(asker), (error) => error instanceof RefusedError && error.code === "upstream_too_large");
  const after = await ask(asker, { after: "huge" });
  assert.deepEqual([after.upstreams.map(({ name }) => name), after.page.next], [["z"], null]);
});
