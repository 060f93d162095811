import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { buckets, objectStream, streams } from "@mcp-failover/contracts";
import { type ClusterNode, eventually, type NatsCluster, newestNats, patientMs, startNatsCluster } from "@mcp-failover/testkit";
import { appendFenced } from "../src/append.ts";
import type { ClaimCheck } from "../src/claim-check.ts";
import { type Bus, BusError, connectBus, type Fenced } from "../src/index.ts";
import { jetStreamApi } from "../src/internal.ts";
import type { LogPort, PublishOutcome } from "../src/log-port.ts";
import { NatsLink } from "../src/nats/link.ts";
import { NatsLog } from "../src/nats/log.ts";
import { note, numberOf } from "./behaviour/world.ts";

const newest = newestNats();
const skip = "missing" in newest ? newest.missing : false;
/** `MCPF_RACE_ROUNDS=300` is the whole of issue 5, must show 6. */
const rounds = Number(process.env["MCPF_RACE_ROUNDS"] ?? 24);
const publishersANode = 3;
const audit = streams.filter(({ name }) => name === "AUDIT");
/** Notices are small: nothing of them lies in the object store. */
const claims: ClaimCheck = { checkIn: async (event) => event, collect: (stored) => stored };

interface Publisher {
  readonly name: string;
  readonly link: NatsLink;
  readonly log: LogPort;
  /** Outcomes of single tries since the round began. */
  tries: PublishOutcome["kind"][];
}

/** The log as production has it, and a note of how each try ended. */
function publisher(node: ClusterNode, index: number): Publisher {
  const name = `${node.name}-${index}`;
  const link = new NatsLink({ servers: node.url, name, log: { debug: () => undefined, warn: () => undefined } });
  const log = new NatsLog(link);
  const made: Publisher = {
    name,
    link,
    tries: [],
    log: {
      nowMs: log.nowMs,
      sleep: (ms) => log.sleep(ms),
      lastOf: (...question) => log.lastOf(...question),
      at: (...question) => log.at(...question),
      async publish(...message) {
        const outcome = await log.publish(...message);
        made.tries.push(outcome.kind);
        return outcome;
      },
    },
  };
  return made;
}

describe("a replicated log on three nodes of the newest nats-server", { skip }, () => {
  let cluster: NatsCluster;
  let bus: Bus;
  let publishers: Publisher[];
  before(async () => {
    assert.ok("binary" in newest);
    cluster = await startNatsCluster(newest.binary);
    bus = connectBus({ servers: cluster.url, name: "race", instance: "race" });
    const made = () => bus.ensureStreams(audit, { replicas: 3 }).then(() => true);
    await eventually(made, { withinMs: 60_000, everyMs: 200, what: "the cluster makes a replicated AUDIT" });
    // Each knows one node alone: the races go through all three.
    publishers = cluster.nodes.flatMap((node) => Array.from({ length: publishersANode }, (_, index) => publisher(node, index)));
  });
  after(async () => {
    await Promise.all((publishers ?? []).map(({ link }) => link.close()));
    await bus?.close();
    await cluster?.stop();
  });

  const leader = async (): Promise<string | null> =>
    (await jetStreamApi<{ cluster?: { leader?: string } }>(bus, "STREAM.INFO.AUDIT")).cluster?.leader ?? null;

  /** Sequence and `n` of all that the subject holds. */
  async function held(): Promise<{ seq: number; id: string; n: number }[]> {
    const found: { seq: number; id: string; n: number }[] = [];
    for await (const stored of bus.read("AUDIT", { filter: "notify.sent.race" })) {
      assert.ok(stored.content.kind === "event");
      found.push({ seq: stored.seq, id: stored.content.event.id, n: numberOf(stored) });
    }
    return found;
  }

  test("of nine publishers on one fenced subject one wins each round, and all believe what the stream holds, while its leader steps down", {
    timeout: patientMs(60_000 + rounds * 15_000),
  }, async (t) => {
    const winners: { seq: number; id: string; n: number }[] = [];
    const leaders = new Set<string | null>();
    let stepDowns = 0;
    let disturbed = 0;
    const settledAfterUnknown = { won: 0, lost: 0 };
    let expected = 0;
    const startedMs = performance.now();
    // Without a publish whose answer was lost nothing would be proven: then it goes on for a while.
    for (let round = 0; round < rounds || (disturbed === 0 && round < 5 * rounds); round += 1) {
      for (const one of publishers) one.tries = [];
      const steppingDown = (async () => {
        if (round % 2 === 0) return;
        leaders.add(await leader().catch(() => null));
        await jetStreamApi(bus, "STREAM.LEADER.STEPDOWN.AUDIT").then(
          () => (stepDowns += 1),
          () => undefined, // An election is on already.
        );
      })();
      const outcomes = await Promise.all(
        publishers.map(async (one, index): Promise<Fenced> => {
          // Some before the leader steps down, some while, some after.
          await sleep(round % 2 === 0 ? 0 : (index * round) % 13);
          return appendFenced(one.log, claims, note("race", round, `${round}/${one.name}`), expected, patientMs(60_000));
        }),
      );
      await steppingDown;

      const beliefs = outcomes.map((outcome, index) => ({ outcome, by: publishers[index] as Publisher }));
      const won = beliefs.flatMap(({ outcome, by }) =>
        outcome.outcome === "won" ? [{ seq: outcome.seq, id: `${round}/${by.name}` }] : [],
      );
      assert.equal(won.length, 1, `round ${round}: ${JSON.stringify(won)} of ${JSON.stringify(beliefs.map(({ by }) => by.tries))}`);
      const [winner] = won as [{ seq: number; id: string }];
      for (const { outcome, by } of beliefs) {
        if (outcome.outcome !== "lost") continue;
        const { last } = outcome;
        assert.ok(last?.content.kind === "event", `round ${round}: ${by.name} lost to nobody`);
        assert.deepEqual([last.seq, last.content.event.id], [winner.seq, winner.id], `round ${round}: whom ${by.name} lost to`);
      }
      const uncertain = beliefs.filter(({ by }) => by.tries.includes("unknown"));
      if (uncertain.length > 0) disturbed += 1;
      for (const { outcome } of uncertain) settledAfterUnknown[outcome.outcome] += 1;
      winners.push({ ...winner, n: round });
      expected = winner.seq;
    }
    t.diagnostic(
      `${winners.length} rounds in ${Math.round((performance.now() - startedMs) / 1000)} s, ${stepDowns} step-downs; unknown outcomes in ` +
        `${disturbed} rounds, of them ${settledAfterUnknown.won} turned out won and ${settledAfterUnknown.lost} lost`,
    );
    leaders.delete(null);
    assert.ok(leaders.size > 1, `the leader was only ever ${[...leaders].join()}: nothing was disturbed`);
    assert.ok(disturbed > 0, "no outcome was unknown: the step-downs disturbed nothing, and the test proves nothing");

    assert.deepEqual(await held(), winners, "the stream holds the winners, and nothing else");
    // Each copy is that of a leader once.
    for (const { name } of cluster.nodes) {
      await eventually(
        async () => {
          if ((await leader()) === name) return true;
          await jetStreamApi(bus, "STREAM.LEADER.STEPDOWN.AUDIT", { placement: { preferred: name } });
          return false;
        },
        { withinMs: 60_000, everyMs: 500, what: `${name} leads` },
      );
      assert.deepEqual(await held(), winners, `what ${name} holds`);
    }
  });

  test("all that is kept has three copies, also what was made with one", { timeout: patientMs(120_000) }, async () => {
    await jetStreamApi(bus, "STREAM.DELETE.KV_router-sessions");
    const sessions = await bus.bucket("router-sessions", buckets["router-sessions"]);
    await eventually(() => sessions.put("session", "kept"), { withinMs: 30_000 });
    const copiesOf = async (name: string) =>
      (await jetStreamApi<{ config: { num_replicas: number } }>(bus, `STREAM.INFO.${name}`)).config.num_replicas;
    assert.equal(await copiesOf("KV_router-sessions"), 1);
    await bus.ensureStreams(streams, { replicas: 3 });
    for (const name of [...streams.map((stream) => stream.name), ...Object.keys(buckets).map((bucket) => `KV_${bucket}`), objectStream]) {
      assert.equal(await copiesOf(name), 3, name);
    }
    assert.equal((await eventually(() => sessions.get("session"), { withinMs: 30_000 })).value, "kept");
  });

  test("a publisher on a node that was cut off does not believe to have won, and what it sent is in the log at most once", {
    timeout: patientMs(180_000),
  }, async () => {
    const [node] = cluster.nodes;
    const cut = publishers.find(({ name }) => name.startsWith(node.name)) as Publisher;
    const other = publishers.find(({ name }) => !name.startsWith(node.name)) as Publisher;
    const expected = (await bus.lastOf("AUDIT", "notify.sent.race"))?.seq ?? 0;
    await cut.link.reach(patientMs(10_000));
    node.cutOff();
    try {
      const lonely = appendFenced(cut.log, claims, note("race", -1, "cut off"), expected, 5000).then(
        () => null,
        (error: unknown) => error,
      );
      const meanwhile = await appendFenced(other.log, claims, note("race", -2, "in the majority"), expected, patientMs(60_000));
      assert.equal(meanwhile.outcome, "won");
      const error = await lonely;
      assert.ok(error instanceof BusError && error.retriable, `it ends without knowing: ${error}`);
    } finally {
      node.rejoin();
    }
    const again = await appendFenced(cut.log, claims, note("race", -1, "cut off"), expected, patientMs(60_000));
    assert.ok(again.outcome === "lost" && again.last?.content.kind === "event" && again.last.content.event.id === "in the majority");
    assert.deepEqual(
      (await held()).filter(({ n }) => n < 0).map(({ id }) => id),
      ["in the majority"],
    );
  });
});
