import assert from "node:assert/strict";
import { request as httpRequest, type IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { afterEach, beforeEach, describe, test } from "node:test";
import { eventually } from "@mcp-failover/testkit";
import fc from "fast-check";
import { openGuard } from "../src/identity/guard.ts";
import { anybody } from "../src/identity/principal.ts";
import { createSealer } from "../src/mcp/seal.ts";
import { newHold, type Session } from "../src/mcp/session.ts";
import { createSessionTable, SessionsFullError, type SessionTable } from "../src/mcp/session-table.ts";
import { initializeBody, post, textOf, toolCall } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "./support/mcp-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";

const sealer = createSealer("a key of at least sixteen characters");
const part = {
  upstream: "fake",
  version: "2025-11-25",
  clientParams: {},
  capabilities: [],
  endpoint: "a",
  upstreamSession: "at-a",
  issuedAtMs: 0,
};
const begin = (table: SessionTable, agent: string, key: string): Session => table.start({ ...part, key, principal: agent }, agent);
const reopen = (table: SessionTable, agent: string, id: string): Session | null => table.open(id, "fake", { id: agent, holder: agent });
const keysOf = (table: SessionTable, agent: string): string[] =>
  [...table.all()].flatMap(({ sealed }) => (sealed.principal === agent ? [sealed.key] : []));
const use = (session: Session): void => session.running.set(1, newHold("a", "at-a", 0));

describe("the sessions in a process's memory", () => {
  test("R25: of an agent that has its share give way to its own next one, the longest unused first, and to nobody else's", () => {
    let nowMs = 0;
    const table = createSessionTable({ sealer, sessionsMax: 100, agentSessionsMax: 3, idleMs: 1e9, nowMs: () => nowMs });
    const others = ["x", "y", "z"].map((key) => begin(table, "other", key));
    const [one] = ["1", "2", "3"].map((key) => begin(table, "flood", key));
    nowMs = 5000;
    reopen(table, "flood", (one as Session).id);
    begin(table, "flood", "4");
    assert.deepEqual(keysOf(table, "flood").sort(), ["1", "3", "4"], "the second was unused for longest");
    for (let index = 0; index < 500; index++) begin(table, "flood", `f${index}`);
    assert.equal(keysOf(table, "flood").length, 3);
    assert.deepEqual([...table.all()].slice(0, 3), others, "the others' are the very same as before");
  });

  test("R25: of an agent are all in use: its next one is refused with what to do, an old one's return too, until one of them is free", () => {
    const table = createSessionTable({ sealer, sessionsMax: 100, agentSessionsMax: 2, idleMs: 1e9, nowMs: () => 0 });
    const away = begin(table, "flood", "0");
    const busy = ["1", "2"].map((key) => begin(table, "flood", key));
    assert.doesNotThrow(() => table.admit("flood"), "none is in use yet");
    for (const session of busy) use(session);
    const refused = (error: unknown): boolean =>
      error instanceof SessionsFullError &&
      error.retriable &&
      error.status === 429 &&
      /MCPF_ROUTER_AGENT_SESSIONS_MAX/.test(error.message) &&
      error.headers["retry-after"] === "1";
    assert.throws(() => table.admit("flood"), refused);
    assert.throws(() => reopen(table, "flood", away.id), refused);
    assert.equal(reopen(table, "flood", (busy[0] as Session).id), busy[0], "what is there is found");
    assert.doesNotThrow(() => table.admit("other"));
    // It was asked for before the others were in use; its id holds all of it.
    const late = begin(table, "flood", "late");
    assert.deepEqual(keysOf(table, "flood"), ["1", "2"]);
    (busy[1] as Session).running.delete(1);
    assert.equal(reopen(table, "flood", late.id)?.sealed.key, "late");
    assert.deepEqual(keysOf(table, "flood"), ["1", "late"]);
  });

  test("R25: are never too many, nor one agent's; one in use stays, and an idle one goes only for its own agent or for one that has fewer", () => {
    const agents = ["a", "b", "c"];
    const step = fc.record({
      agent: fc.constantFrom(...agents),
      what: fc.constantFrom("begin", "begin", "begin", "return", "use", "free", "end"),
      pick: fc.nat(),
    });
    fc.assert(
      fc.property(fc.array(step, { minLength: 40, maxLength: 120, size: "max" }), (steps) => {
        let nowMs = 0;
        const table = createSessionTable({ sealer, sessionsMax: 6, agentSessionsMax: 4, idleMs: 1e9, nowMs: () => nowMs });
        const everBegun = new Map<string, string[]>(agents.map((agent) => [agent, []]));
        steps.forEach(({ agent, what, pick }, index) => {
          nowMs += 2000;
          const before = [...table.all()];
          const countOf = (name: string): number => before.filter(({ sealed }) => sealed.principal === name).length;
          const mine = before.filter(({ sealed }) => sealed.principal === agent);
          const one = mine[pick % Math.max(1, mine.length)];
          const ids = everBegun.get(agent) as string[];
          if (what === "begin") ids.push(begin(table, agent, `${index}`).id);
          else if (what === "return" && ids.length > 0) {
            try {
              reopen(table, agent, ids[pick % ids.length] as string);
            } catch (error) {
              assert.ok(error instanceof SessionsFullError);
              assert.ok(
                mine.every(({ busy }) => busy),
                "nobody is refused who has an idle one to give",
              );
            }
          } else if (what === "use" && one !== undefined) use(one);
          else if (what === "free") one?.running.delete(1);
          else if (what === "end" && one !== undefined) {
            one.running.delete(1);
            table.end(one);
          }
          const after = new Set(table.all());
          assert.equal(after.size, table.size);
          assert.ok(table.size <= 6);
          for (const name of agents) assert.ok(keysOf(table, name).length <= 4);
          if (what === "end" || what === "free" || what === "use") return;
          for (const gone of before.filter((session) => !after.has(session))) {
            assert.ok(!gone.busy, "one in use left");
            const owner = gone.sealed.principal as string;
            if (owner !== agent) assert.ok(countOf(owner) > countOf(agent), `${agent} took the place of ${owner}, who had no more than it`);
            for (const other of before) {
              const older = other.sealed.principal === owner && !other.busy && other.lastUsedAtMs < gone.lastUsedAtMs;
              assert.ok(!older || !after.has(other), "one that was unused for longer stayed");
            }
          }
        });
      }),
      { numRuns: 200 },
    );
  });

  test("R25: count by address for those who do not have to say who they are, a network of IPv6 as one", () => {
    const holderAt = (remoteAddress: string | undefined): unknown => {
      const principal = openGuard.identify({}, "mcp", "up", { remoteAddress } as Socket);
      assert.ok(!(principal instanceof Promise));
      assert.equal(principal.id, "", "their sessions are still anybody's who has the id");
      return principal.holder;
    };
    assert.notEqual(holderAt("10.0.0.1"), holderAt("10.0.0.2"));
    assert.equal(holderAt("::ffff:10.0.0.1"), holderAt("10.0.0.1"), "the same address, as a port of both families says it");
    assert.equal(holderAt("2001:db8:1:2:aaaa::1"), holderAt("2001:db8:1:2:bbbb:cccc:dddd:eeee"), "one machine has a whole /64 to itself");
    assert.equal(holderAt("2001:db8:1:2::5"), holderAt("2001:db8:1:2:bbbb:cccc:dddd:eeee"));
    assert.notEqual(holderAt("2001:db8:1:2::1"), holderAt("2001:db8:1:3::1"));
    assert.equal(holderAt("fe80::1%eth0"), holderAt("fe80::2%eth0"));
    assert.notEqual(holderAt("::1"), holderAt("2001:db8::1"));
    assert.equal(holderAt(undefined), anybody.holder);
  });
});

describe("an agent that begins sessions without end", () => {
  let a: TestMcpServer;
  let control: FakeControl;
  let router: TestRouter;
  const streams: AbortController[] = [];
  beforeEach(async () => {
    a = await startMcpServer("a");
    control = fakeControl([a]);
  });
  afterEach(async () => {
    for (const stream of streams.splice(0)) stream.abort();
    await router.close(0);
    await a.kill();
    assert.deepEqual(router.problems, []);
  });
  const start = async (agentSessionsMax: number, front: boolean): Promise<void> => {
    router = await startTestRouter(control, { limits: { agentSessionsMax }, front });
  };
  const initialize = async (): Promise<string> => (await post(router.mcpUrl, initializeBody)).headers.get("mcp-session-id") ?? "";
  const listen = async (id: string): Promise<Response> => {
    const stream = new AbortController();
    streams.push(stream);
    return fetch(router.mcpUrl, { headers: { "mcp-session-id": id, accept: "text/event-stream" }, signal: stream.signal });
  };
  /** Of another machine, as far as the router can see. */
  const initializeFrom = async (localAddress: string): Promise<number> => {
    const answer = await new Promise<IncomingMessage>((resolve, reject) => {
      const headers = { "content-type": "application/json", accept: "application/json, text/event-stream" };
      const request = httpRequest(router.mcpUrl, { method: "POST", headers, localAddress }, resolve);
      request.on("error", reject);
      request.end(JSON.stringify(initializeBody));
    });
    answer.resume();
    return answer.statusCode ?? 0;
  };

  for (const front of [true, false]) {
    test(`R25: has its share of the process's memory and no more, another address has its own (read by ${front ? "the front" : "node:http"})`, async () => {
      await start(2, front);
      assert.equal(await initializeFrom("127.0.0.2"), 200);
      const ids: string[] = [];
      for (let index = 0; index < 6; index++) ids.push(await initialize());
      assert.equal(router.sessionCount, 3, "two of the flood, and the other's");
      for (const id of ids) {
        const answer = await post(router.mcpUrl, toolCall(1, "whoami"), { "mcp-session-id": id });
        assert.equal(textOf(answer.body.result), "a", "one that left comes back by its id");
      }
      assert.equal(router.sessionCount, 3);
    });
  }

  test("R25: and uses them all is told so before anything is sent, with the typed error and when to come again", async () => {
    await start(1, true);
    const [old, used] = [await initialize(), await initialize()];
    assert.equal((await listen(used)).status, 200);
    const sent = a.seen.headers.length;
    for (const [message, headers] of [
      [initializeBody, {}],
      [toolCall(1, "write", { key: "x" }), { "mcp-session-id": old }],
    ] as [object, Record<string, string>][]) {
      const answer = await post(router.mcpUrl, message, headers);
      const { code, data } = answer.body.error ?? {};
      assert.deepEqual([answer.status, code], [200, 1004], answer.text);
      assert.deepEqual([data?.["code"], data?.["retriable"], data?.["retryAfterMs"]], ["overloaded", true, 1000]);
      assert.equal(answer.headers.get("mcpf-operation-id"), data?.["operationId"]);
    }
    const told = await post(router.mcpUrl, { jsonrpc: "2.0", method: "notifications/x" }, { "mcp-session-id": old });
    const stream = await listen(old);
    for (const answer of [told, stream]) assert.deepEqual([answer.status, answer.headers.get("retry-after")], [429, "1"]);
    assert.equal(a.seen.headers.length, sent, "nothing of it was sent");
    assert.equal(await initializeFrom("127.0.0.2"), 200, "who calls from elsewhere is not concerned");
    for (const stream of streams.splice(0)) stream.abort();
    const again = async (): Promise<string> => {
      const answer = await post(router.mcpUrl, toolCall(2, "whoami"), { "mcp-session-id": old });
      return answer.body.error?.message ?? textOf(answer.body.result);
    };
    await eventually(async () => (await again()) === "a");
  });
});
