import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { jetStreamApi } from "@mcp-failover/bus/internal";
import { type ClusterNode, eventually, newestNats, patientMs } from "@mcp-failover/testkit";
import { failuresOf, type Load, startLoad } from "../harness/load.ts";
import { type ClusterWorld, clusterWorld } from "./cluster-world.ts";

const newest = newestNats();
const skip = "missing" in newest ? newest.missing : false;
const slowMs = 90_000;
/** How long two nodes stay away at least. `MCPF_CLUSTER_AWAY_MS` makes it longer. */
const awayMs = Number(process.env["MCPF_CLUSTER_AWAY_MS"] ?? 8000);

/** Issue 5, must show 4. One after another, on one log, which is compared at the end with what was acknowledged. */
describe("three NATS nodes, two of every controller, two routers, three probers", {
  skip,
  concurrency: false,
  timeout: patientMs(900_000),
}, () => {
  let world: ClusterWorld;
  let load: Load;
  before(async () => {
    assert.ok("binary" in newest);
    world = await clusterWorld(newest.binary);
    load = await startLoad({
      url: `${world.routerUrl}/mcp/everything`,
      tool: "echo",
      args: (n) => ({ message: `call ${n}` }),
      check: (result, n) => (JSON.stringify(result).includes(`call ${n}`) ? null : `not the answer to call ${n}`),
      callsPerSecond: 10,
      timeoutMs: patientMs(30_000),
    });
  });
  after(async () => {
    await load?.stop();
    await world?.stop();
  });

  const leading = async (): Promise<ClusterNode> => {
    const name = await eventually(() => world.leader("AUDIT"), { withinMs: slowMs, everyMs: 100, what: "AUDIT has a leader" });
    return world.cluster.nodes.find((node) => node.name === name) ?? assert.fail(`nobody is ${name}`);
  };
  const anotherLeads = (former: ClusterNode) =>
    eventually(async () => ![null, former.name].includes(await world.leader("AUDIT")), {
      withinMs: slowMs,
      everyMs: 100,
      what: `another node than ${former.name} leads AUDIT`,
    });
  const active = async (): Promise<"primary" | "secondary"> =>
    ((await world.active("everything"))?.endpoint ?? "primary") as "primary" | "secondary";
  const epoch = async (): Promise<number> => (await world.active("everything"))?.epoch ?? 0;

  /** The active endpoint dies, and the controllers move away from it by themselves; then it comes back. */
  async function failover(): Promise<void> {
    const before = await eventually(async () => ({ active: await active(), epoch: await epoch() }), { withinMs: slowMs, everyMs: 250 });
    const other = before.active === "primary" ? "secondary" : "primary";
    await eventually(() => world.isFit("everything", other), {
      withinMs: slowMs,
      everyMs: 250,
      what: () => `${other} is fit; ${world.logs()}`,
    });
    await world.killEndpoint(before.active);
    await movedFrom(before);
    await world.startEndpoint(before.active);
  }
  async function movedFrom(before: { active: "primary" | "secondary"; epoch: number }): Promise<void> {
    await eventually(async () => (await epoch()) > before.epoch && (await active()) !== before.active, {
      withinMs: slowMs,
      everyMs: 250,
      what: () => `the controllers moved away from ${before.active}; ${world.logs()}`,
    });
  }
  /** While no endpoint dies: what becomes of calls then is for other tests. */
  const noCallFailedSince = (sinceMs: number): void => {
    const report = load.report();
    const failed = report.failed.filter(({ atMs }) => atMs >= sinceMs);
    assert.deepEqual(failed, [], `calls since ${new Date(sinceMs).toISOString()}; ${failuresOf(report)}; ${world.logs()}`);
  };

  test("the node that leads the log is killed: commands are done, and an endpoint that dies is moved away from", async () => {
    await world.command();
    const node = await leading();
    const killedMs = Date.now();
    await node.kill();
    await world.command();
    noCallFailedSince(killedMs);
    await failover();
    await node.restart();
    await world.whole();
  });

  test("the leader of the log steps down again and again, and each command is done", async () => {
    const leaders = new Set<string>();
    const sinceMs = Date.now();
    for (let round = 0; round < 6; round += 1) {
      leaders.add((await leading()).name);
      const commanding = world.command();
      await jetStreamApi(world.bus, "STREAM.LEADER.STEPDOWN.AUDIT").catch(() => undefined); // An election is on already.
      await commanding;
    }
    assert.ok(leaders.size > 1, "the leader changed");
    noCallFailedSince(sinceMs);
  });

  test("the node that leads the log is cut off from its network: commands are done, and a dead endpoint is moved away from", async () => {
    const node = await leading();
    const cutMs = Date.now();
    node.cutOff();
    await anotherLeads(node);
    await world.command();
    noCallFailedSince(cutMs);
    await failover();
    node.rejoin();
    await world.whole();
  });

  test("two nodes are lost: nothing is decided, traffic goes on; once they are back the move that was due is made", async () => {
    const [first, second] = world.cluster.nodes;
    const before = await eventually(async () => ({ active: await active(), epoch: await epoch() }), { withinMs: slowMs, everyMs: 250 });
    await Promise.all([first.kill(), second.kill()]);
    const lostMs = Date.now();
    const { ok } = load.report();
    // What was stored before that is heard by then.
    await sleep(1000);
    const acknowledged = world.acknowledged.length;
    await sleep(awayMs);
    noCallFailedSince(lostMs);
    assert.ok(load.report().ok > ok, "calls are answered meanwhile");
    // Something has to be decided, and cannot be.
    await world.killEndpoint(before.active);
    await sleep(awayMs);
    assert.equal(world.acknowledged.length, acknowledged, "the log acknowledged nothing without a majority");
    const backMs = Date.now();
    await Promise.all([first.restart(), second.restart()]);
    await movedFrom(before);
    await world.startEndpoint(before.active);
    await world.whole();
    await world.command();
    // A leader that is left alone takes what it is sent for ten seconds and more, acknowledges none of it, and may have it stored, under the time
    // when it came, once the others are back: also a decision, which nobody has acted on before then.
    const meanwhile = (await world.audit()).filter(({ timeMs }) => timeMs > lostMs && timeMs < backMs);
    assert.deepEqual(
      meanwhile.flatMap(({ subject }) => (subject.startsWith("failover.executed.") ? [subject] : [])),
      [],
      "nothing was moved without a majority",
    );
  });

  test("no decision was taken twice, and everything that was acknowledged is in the log, once", async (t) => {
    await world.stopPublishers();
    const report = await load.stop();
    const stored = await world.audit();
    const events = stored.flatMap(({ seq, content }) => (content.kind === "event" ? [{ seq, event: content.event }] : []));
    assert.equal(events.length, stored.length, "nothing in the log is malformed");
    const seqOf = new Map(events.map(({ seq, event }) => [event.id, seq]));
    assert.equal(seqOf.size, events.length, "no event is in the log twice");

    const { acknowledged, commanded } = world;
    assert.ok(acknowledged.length > 100, `${acknowledged.length} notices were acknowledged`);
    const missing = acknowledged.filter(({ id, seq }) => seqOf.get(id) !== seq);
    assert.deepEqual(missing, [], "what was acknowledged is where it was said to be");

    const moves = events.flatMap(({ event }) => (event.type === "failover.decided" ? [event.data] : []));
    for (const id of commanded) assert.equal(moves.filter(({ commandId }) => commandId === id).length, 1, `the command ${id} moved once`);
    for (const name of ["everything", "other"]) {
      const epochs = moves.filter(({ service, action }) => service === name && action === "moved").map(({ state }) => state.epoch);
      assert.deepEqual(
        epochs,
        epochs.map((_, index) => index + 1),
        `the epochs of ${name}`,
      );
    }
    assert.deepEqual((await world.verify()).problems, []);
    t.diagnostic(
      `${stored.length} events, ${moves.length} moves, ${commanded.length} commands, ${acknowledged.length} acknowledged notices, ` +
        `${report.ok} calls answered, ${report.failed.length} failed, longest gap between answers ${Math.round(report.longestGapMs)} ms`,
    );
  });
});
