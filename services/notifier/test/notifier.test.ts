import assert from "node:assert/strict";
import { describe, type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, BusError } from "@mcp-failover/bus";
import { memorySeams } from "@mcp-failover/bus/internal";
import type { IncidentChanged } from "@mcp-failover/contracts";
import { token, until, World } from "./world.ts";

const failedOver = "opened shop failed over from primary to secondary";
const world = async (t: TestContext, channels?: readonly object[]): Promise<World> => {
  const one = await new World().open(t);
  await one.configure(channels);
  await one.healthy();
  return one;
};
const taken = (one: World, count: number): Promise<string[]> =>
  until(
    () => one.taken,
    ({ length }) => length >= count,
  );

/** From now on the log takes no `notify.sent` of this notifier, or not the next `count`. */
const loseRecords = (bus: Bus, count = Number.POSITIVE_INFINITY): void => {
  const append = bus.append.bind(bus);
  let lost = 0;
  bus.append = async (event) => {
    if (event.type !== "notify.sent" || lost >= count) return append(event);
    lost += 1;
    throw new BusError("timeout", "the log does not answer", { retriable: true });
  };
};
const emptied = (one: World): Promise<number> =>
  until(
    async () => (await one.bus.info("OUTBOX")).messages,
    (messages) => messages === 0,
  );

describe("notifier", { concurrency: 8 }, () => {
  test("a failover is exactly one message, with two notifiers that see everything", async (t) => {
    const one = await world(t);
    await one.start(t, "notifier-1");
    await one.start(t, "notifier-2");
    for (let round = 0; round < 5; round += 1) {
      await one.executed("secondary", false);
      await one.executed("primary", false);
    }
    await taken(one, 10);
    await sleep(2500); // Long enough for one to take over what the other has told already.
    assert.equal(one.received.length, 10);
    assert.equal(new Set(one.received.map(({ id }) => id)).size, 10);
    assert.equal((await one.events("notify.sent")).length, 10);
    assert.equal((await one.bus.info("OUTBOX")).messages, 0);
  });

  test("a notifier whose clock is ten minutes slow tells at once, for it counts by the store's", async (t) => {
    const one = await world(t);
    await one.start(t, "notifier-1", -600_000);
    await one.executed("secondary");
    assert.deepEqual(await taken(one, 1), [failedOver]);
  });

  test("a notifier whose clock is two days fast gives up nothing that is new, also where no event told it the time", async (t) => {
    const one = await world(t);
    one.statuses = [503];
    await one.start(t, "notifier-1", 2 * 24 * 3_600_000);
    await one.executed("secondary");
    assert.deepEqual(await taken(one, 1), [failedOver]);

    const waiting = await world(t);
    waiting.statuses = [503];
    const first = await waiting.start(t);
    await waiting.executed("secondary");
    await until(
      () => waiting.received.length,
      (length) => length === 1,
    );
    await first.stop();
    waiting.statuses = [503];
    await waiting.start(t, "notifier-2", 2 * 24 * 3_600_000);
    assert.equal((await taken(waiting, 1))[0], failedOver);
  });

  test("what happened while nobody told it is told by a notifier whose clock is two days fast, while the log is silent, and waits as ever", async (t) => {
    const one = await world(t);
    await (await one.start(t)).stop();
    await one.health("secondary", "unhealthy");
    await one.start(t, "notifier-2", 2 * 24 * 3_600_000);
    await sleep(3000);
    assert.deepEqual(one.received, [], "what joins it may still come");
    assert.deepEqual(await taken(one, 1), ["opened shop: the standby secondary is unhealthy"]);
  });

  test("what a receiver refuses is sent again, once, and first refusal and success are on record", async (t) => {
    const one = await world(t);
    one.statuses = [503];
    await one.start(t);
    await one.executed("secondary");
    assert.deepEqual(await taken(one, 1), [failedOver]);
    await sleep(1500);
    assert.deepEqual(
      one.received.map(({ status }) => status),
      [503, 200],
    );
    const records = await until(
      () => one.events("notify.failed", "notify.sent"),
      ({ length }) => length === 2,
    );
    const said = records.map((event) => (event.type === "notify.failed" || event.type === "notify.sent" ? event.data : null));
    assert.deepEqual(
      said.map((data) => [data?.attempt, data?.willRetry, data?.error]),
      [
        [1, true, "ops answered 503"],
        [2, false, null],
      ],
    );
    assert.equal((await one.bus.info("OUTBOX")).messages, 0);
  });

  test("what a receiver took is not sent again, by nobody, because the log does not take its record", async (t) => {
    const one = await world(t);
    for (const instance of ["notifier-1", "notifier-2"]) loseRecords((await one.start(t, instance)).bus);
    await one.executed("secondary");
    await taken(one, 1);
    await emptied(one);
    assert.equal(one.received.length, 1);
    assert.deepEqual(await one.events("notify.sent"), []);
    assert.ok(one.logged.some((line) => line.startsWith("error") && line.includes("could not be put on record")));
  });

  test("a record that the log does not take at once is put there later", async (t) => {
    const one = await world(t);
    loseRecords((await one.start(t)).bus, 1);
    await one.executed("secondary");
    await taken(one, 1);
    await emptied(one);
    assert.deepEqual([one.received.length, (await one.events("notify.sent")).length], [1, 1]);
  });

  test("a channel that never answers delays no other", async (t) => {
    const one = await new World().open(t);
    await one.configure([one.webhook({ name: "chat", url: `${one.url}/silent` }), one.webhook({ name: "pager" })]);
    await one.healthy();
    await one.start(t);
    for (let round = 0; round < 10; round += 1) {
      await one.executed("secondary", false);
      await one.executed("primary", false);
    }
    await taken(one, 20);
    assert.equal(new Set(one.received.map(({ id }) => id)).size, 20);
    assert.ok(one.unanswered > 0);
    // And what the silent one did not take waits for it.
    const waiting = (await one.bus.info("OUTBOX")).messages;
    assert.ok(waiting >= 20, `${waiting}`);
  });

  test("a receiver that says when it may be asked again is asked nothing before, by whatever waits for it, and then gets all of it", async (t) => {
    const one = await world(t);
    one.limitedUntilMs = performance.now() + 3000;
    await one.start(t);
    await one.executed("secondary", false);
    await until(
      () => one.events("notify.failed"),
      ({ length }) => length === 1,
    );
    for (let round = 0; round < 10; round += 1) {
      await one.executed("primary", false);
      await one.executed("secondary", false);
    }
    assert.equal((await taken(one, 21)).length, 21);
    const tooEarly = one.received.filter(({ status }) => status === 429).length;
    assert.ok(tooEarly <= 1, `${tooEarly} requests while it was limited`);
  });

  test("the end of an incident is told after its beginning, also when the beginning was refused", async (t) => {
    const one = await world(t);
    one.statuses = [503, 503];
    await one.start(t);
    await one.executed("secondary");
    await one.health("primary", "unhealthy");
    await until(
      () => one.received.length,
      (length) => length > 0,
    );
    await one.health("primary", "healthy");
    assert.deepEqual(await taken(one, 2), [failedOver, "resolved Resolved: shop failed over from primary to secondary"]);
    assert.deepEqual(
      one.received.map(({ kind, status }) => [kind, status]),
      [
        ["opened", 503],
        ["opened", 503],
        ["opened", 200],
        ["resolved", 200],
      ],
    );
  });

  test("a sick endpoint and the failover from it are one message", async (t) => {
    const one = await world(t);
    await one.start(t);
    await one.health("primary", "unhealthy");
    await sleep(500);
    await one.executed("secondary");
    await sleep(3000);
    assert.deepEqual(one.taken, [failedOver]);
    assert.match(one.received[0]?.text ?? "", /primary is unhealthy.*\n.*primary to secondary/);
  });

  test("a dead end is one page", async (t) => {
    const one = await world(t);
    await one.start(t);
    await one.health("primary", "unhealthy");
    await one.failing(true);
    await one.health("secondary", "unhealthy");
    await sleep(3000);
    assert.deepEqual(one.taken, ["opened shop has no healthy endpoint to go to"]);
    assert.equal(one.received[0]?.severity, "page");
  });

  test("a notifier that starts anew tells nothing again, and what happened meanwhile once", async (t) => {
    const one = await world(t);
    const first = await one.start(t);
    await one.executed("secondary");
    await taken(one, 1);
    await first.stop();
    const second = await one.start(t, "notifier-2");
    await sleep(2500);
    assert.equal(one.received.length, 1);
    await second.stop();
    await one.health("primary", "unhealthy");
    await one.health("primary", "healthy");
    await one.executed("primary", false);
    await one.start(t, "notifier-3");
    await taken(one, 3);
    await sleep(1000);
    assert.deepEqual(one.taken.slice(1).sort(), [
      "opened shop failed over from secondary to primary",
      "resolved Resolved: shop failed over from primary to secondary",
    ]);
  });

  test("what a notifier decided to tell before it died is told by another one", async (t) => {
    const one = await world(t);
    const at = { atMs: Date.now(), subject: "failover.executed.shop", seq: await one.executed("secondary"), text: "moved" };
    await one.say("incident.changed", ["upstream-shop-4"], {
      id: "upstream-shop-4",
      dedupKey: "upstream/shop",
      upstream: "shop",
      severity: "page",
      status: "open",
      title: "shop failed over from primary to secondary",
      causes: [at],
      openedAtMs: at.atMs,
      changedAtMs: at.atMs,
      notifyAtMs: at.atMs,
      notified: ["opened"],
      acknowledgedBy: null,
      told: { severity: "page", deadEnd: false, atMs: at.atMs, channels: ["ops"], outbox: {} },
      telling: { name: "opened", kind: "opened", channels: ["ops"], sinceMs: at.atMs },
    });
    await one.start(t);
    assert.deepEqual(await taken(one, 1), [failedOver]);
    await sleep(1000);
    assert.equal(one.received.length, 1);
  });

  test("an incident that cannot be written waits for the log, and is told then", async (t) => {
    const one = await world(t);
    const { bus } = await one.start(t);
    memorySeams(bus).cut();
    await one.executed("secondary");
    await sleep(600);
    assert.deepEqual(one.received, []);
    memorySeams(bus).restore();
    assert.deepEqual(await taken(one, 1), [failedOver]);
  });

  test("an incident that the log will never take keeps no other from being told, and is said once a minute", async (t) => {
    const one = await world(t);
    const { bus } = await one.start(t);
    const appendFenced = bus.appendFenced.bind(bus);
    bus.appendFenced = async (event, expected) => {
      const told = event.type === "incident.changed" ? (event.data as IncidentChanged) : null;
      if (told === null || told.notified.length === 0 || told.upstream === "shop") return appendFenced(event, expected);
      throw new BusError("too_large", "the log never takes this one", { retriable: false });
    };
    await one.rolledBack("stock");
    await sleep(600);
    await one.executed("secondary");
    assert.deepEqual(await taken(one, 1), [failedOver]);
    await sleep(1000);
    const errors = one.logged.filter((line) => line.startsWith("error"));
    assert.deepEqual([errors.length, one.logged.length], [1, 1], one.logged.join("\n"));
    assert.match(errors[0] ?? "", /rollback-tool-stock/);
  });

  test("what follows joins the incident that is open, also while an older one of the upstream is still being told", async (t) => {
    const one = await world(t);
    const { bus } = await one.start(t);
    memorySeams(bus).cut();
    await one.executed("secondary", false);
    await one.health("secondary", "unhealthy");
    memorySeams(bus).restore();
    await taken(one, 1);
    await one.executed("primary");
    await sleep(3500);
    assert.deepEqual(one.taken, [failedOver, "opened shop failed over from secondary to primary"]);
  });

  test("before a configuration says whom, nobody is told and nothing is lost", async (t) => {
    const one = await new World().open(t);
    await one.start(t);
    await one.executed("secondary");
    await sleep(600);
    assert.deepEqual(await one.events("notify.sent", "notify.failed"), []);
    await one.configure();
    assert.deepEqual(await taken(one, 1), [failedOver]);
  });

  test("what happened before the newest configuration is judged by that one at a start, not by none: whom it pages", async (t) => {
    const one = await new World().open(t);
    const calm = () => one.configure(undefined, { critical: false });
    await calm();
    await one.healthy();
    await one.executed("secondary");
    await calm();
    await one.start(t);
    await taken(one, 1);
    assert.equal(one.received[0]?.severity, "notify");
  });

  test("what happened before the newest configuration is judged by that one at a start, not by none: planned work", async (t) => {
    const one = await new World().open(t);
    const iso = (fromNowMs: number) => new Date(Date.now() + fromNowMs).toISOString();
    const maintenance = [{ name: "upgrade", upstreams: ["shop"], from: iso(-60_000), until: iso(3_600_000), reason: "new disks" }];
    const planned = () => one.configure(undefined, {}, { maintenance });
    await planned();
    await one.healthy();
    await one.executed("secondary", false);
    await planned();
    await one.start(t);
    await one.executed("primary");
    await taken(one, 1);
    assert.deepEqual(one.taken, ["opened shop failed over from secondary to primary"]);
  });

  test("acknowledgements of incidents that are lost on the way are settled: nothing is told twice", async (t) => {
    const one = await world(t);
    const { bus } = await one.start(t);
    // Stored, but the publisher is not told: incident, decision, outbox and confirmation.
    memorySeams(bus).losePublishes(4, { stored: true });
    await one.executed("secondary");
    await taken(one, 1);
    await sleep(1500);
    assert.equal(one.received.length, 1);
  });

  test("a recovery that is rolled back again is told at once, while its rollback is minutes old", async (t) => {
    const one = await world(t);
    await one.start(t);
    await one.rollback("executed", "stock");
    await taken(one, 1);
    await one.rollback("advanced", "stock");
    await one.rollback("executed", "stock");
    const gone = "the tool stock was rolled back to its legacy implementation";
    assert.deepEqual(await taken(one, 2), [`opened ${gone}`, `escalated ${gone}`]);
    await sleep(600);
    assert.deepEqual(
      one.received.map(({ severity }) => severity),
      ["page", "page"],
    );
  });

  test("a tool that is rolled back while its upstream has nowhere to go is told when it has, if it still is", async (t) => {
    const one = await new World().open(t);
    await one.configure(undefined, { tools: { stock: { legacy: { url: "http://127.0.0.1:9/" } } } });
    await one.healthy();
    await one.start(t);
    await one.failing(true);
    const dead = "shop has no healthy endpoint to go to";
    assert.deepEqual(await taken(one, 1), [`opened ${dead}`]);
    await one.rollback("executed", "stock");
    await sleep(1000);
    assert.equal(one.received.length, 1);
    await one.failing(false);
    const gone = "opened the tool stock was rolled back to its legacy implementation";
    assert.deepEqual((await taken(one, 3)).toSorted(), [`opened ${dead}`, gone, `resolved Resolved: ${dead}`].toSorted());
  });

  test("what is rolled back by itself in planned work is told nobody while that goes on", async (t) => {
    const one = await new World().open(t);
    const until = new Date(Date.now() + 3_600_000).toISOString();
    const maintenance = [{ name: "upgrade", from: new Date(Date.now() - 60_000).toISOString(), until, reason: "planned" }];
    await one.configure(undefined, {}, { maintenance });
    await one.start(t);
    await one.rollback("executed", "stock");
    await sleep(1000);
    assert.deepEqual([one.taken, (await one.events("incident.changed")).length], [[], 1]);
    await one.configure();
    assert.deepEqual(await taken(one, 1), ["opened the tool stock was rolled back to its legacy implementation"]);
  });

  test("a page goes to channels for pages, a notification to those for notifications, and the log can be a channel", async (t) => {
    const one = await new World().open(t);
    await one.configure([
      one.webhook({ name: "pager", url: `${one.url}/page`, severities: ["page"] }),
      one.webhook({ name: "mail", url: `${one.url}/mail`, severities: ["notify"] }),
      { name: "log", type: "log" },
    ]);
    await one.healthy();
    await one.start(t);
    await one.executed("secondary", false);
    await taken(one, 1);
    await one.executed("primary");
    await taken(one, 2);
    assert.deepEqual(
      one.received.map(({ path }) => path),
      ["/mail", "/page"],
    );
    await until(
      () => one.logged.filter((line) => line.includes("NOTIFICATION")).length,
      (count) => count === 2,
    );
  });

  test("a secret reaches its receiver, and no event and no line of the log; nor does the address of a receiver that is gone", async (t) => {
    const one = await world(t);
    await one.start(t);
    await one.executed("secondary", false);
    await taken(one, 1);
    assert.equal(one.received[0]?.authorization, `Bearer ${token}`);
    await one.configure([one.webhook({ name: "nowhere", url: "http://127.0.0.1:9/services/T000/very-secret-path" })]);
    one.shut();
    await one.executed("primary", false);
    await until(
      () => one.events("notify.failed"),
      ({ length }) => length === 1,
    );
    await one.configure([one.webhook({ headers: { "x-key": { secret: "NOT_THERE" } } })]);
    await one.executed("secondary", false);
    const failed = await until(
      () => one.events("notify.failed"),
      ({ length }) => length === 2,
    );
    assert.match(JSON.stringify(failed[1]), /the secret NOT_THERE is missing/);
    for (const stream of ["AUDIT", "OUTBOX"] as const) {
      for await (const { bytes, content } of one.bus.read(stream)) {
        const text = new TextDecoder().decode(bytes);
        assert.ok(!text.includes(token));
        // The configuration has the address itself; nobody else repeats it.
        if (content.kind === "event" && content.event.type !== "config.applied") assert.ok(!text.includes("very-secret-path"), text);
      }
    }
    for (const line of one.logged) assert.ok(!line.includes(token) && !line.includes("very-secret-path"), line);
  });

  test("the address of a webhook may be a secret: it is sent to, and stands in no event and no line of the log", async (t) => {
    const one = await new World().open(t);
    const hidden = "/services/T000/very-secret-path";
    Object.assign(one.secrets, { HOOK_URL: `${one.url}${hidden}`, HOOK_PATH: `${hidden}?2`, HOOK_WRONG: `ftp:/${hidden}` });
    await one.configure([
      one.webhook({ name: "whole", url: { secret: "HOOK_URL" } }),
      one.webhook({ name: "path", url: { secret: "HOOK_PATH", prefix: one.url } }),
      one.webhook({ name: "wrong", url: { secret: "HOOK_WRONG" } }),
      one.webhook({ name: "missing", url: { secret: "NOT_THERE" } }),
    ]);
    await one.healthy();
    await one.start(t);
    await one.executed("secondary", false);
    await taken(one, 2);
    assert.deepEqual(one.received.map(({ path }) => path).sort(), [hidden, `${hidden}?2`]);
    const failed = await until(
      () => one.events("notify.failed"),
      ({ length }) => length === 2,
    );
    const errors = failed.map(({ data }) => String((data as { error?: unknown }).error)).sort();
    assert.match(errors[0] ?? "", /^missing: the secret NOT_THERE is missing/);
    assert.equal(errors[1], "wrong: the secret HOOK_WRONG is no URL that begins with http:// or https://: correct it");
    for (const stream of ["AUDIT", "OUTBOX"] as const)
      for await (const { bytes } of one.bus.read(stream)) assert.doesNotMatch(new TextDecoder().decode(bytes), /very-secret-path/);
    for (const line of one.logged) assert.doesNotMatch(line, /very-secret-path/);
  });

  test("a receiver that takes a message and answers at length is not sent it again", async (t) => {
    const one = await world(t);
    one.answerBytes = 1024 * 1024;
    await one.start(t);
    await one.executed("secondary");
    await taken(one, 1);
    await sleep(2500);
    assert.equal(one.received.length, 1);
  });

  test("a message for a channel that is not configured any more is given up, with the reason on record", async (t) => {
    const one = await world(t);
    one.statuses = Array.from({ length: 50 }, () => 500);
    await one.start(t);
    await one.executed("secondary");
    await until(
      () => one.received.length,
      (length) => length > 0,
    );
    await one.configure([{ name: "log", type: "log" }]);
    const failed = await until(
      () => one.events("notify.failed"),
      ({ length }) => length === 2,
    );
    const last = failed[1];
    assert.ok(last?.type === "notify.failed");
    assert.deepEqual([last.data.willRetry, last.data.error], [false, "no channel ops is configured any more"]);
    await until(
      async () => (await one.bus.info("OUTBOX")).messages,
      (messages) => messages === 0,
    );
  });

  test("an incident is acknowledged once, with who and why on record; an unknown one is refused", async (t) => {
    const one = await world(t);
    await one.start(t);
    await one.executed("secondary");
    await taken(one, 1);
    const ask = (incidentId: string) =>
      one.bus.request("command.acknowledge", { commandId: "c-1", by: { kind: "operator", id: "ann" }, reason: "I have it", incidentId });
    const unknown = await ask("upstream-shop-999");
    assert.equal(unknown.ok ? "ok" : unknown.error.code, "unknown_incident");
    const id = String(one.received[0]?.id).split("/")[0] ?? "";
    const reply = await ask(id);
    assert.deepEqual(reply.ok ? reply.result : reply, { incident: id, status: "acknowledged" });
    assert.equal((await ask(id)).ok, true);
    const [accepted, more] = await one.events("command.accepted");
    assert.ok(accepted?.type === "command.accepted" && more === undefined);
    assert.equal(accepted.data.reason, "I have it");
  });
});
