import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { describe, test } from "node:test";
import { eventually } from "@mcp-failover/testkit";
import { memoryOf } from "../src/stdio/memory.ts";
import { probeAnswer } from "../src/stdio/probe-answer.ts";
import { initializeBody, openSession, post, toolCall, until } from "./support/clients.ts";
import { dead, StdioWorld, stdio } from "./support/stdio-world.ts";

describe("processes of stdio servers", () => {
  const world = new StdioWorld();

  test("an answer that is nested without end harms its call alone, of either era", async () => {
    await world.start([stdio("one", { command: "hostile" })]);
    const session = { "mcp-session-id": await openSession(world.url), "mcpf-timeout-ms": "700" };
    assert.ok((await post(world.url, toolCall(2, "deep"), session)).body.error);
    assert.match((await post(world.url, toolCall(3, "whoami"), session)).text, /hostile/);
    const call = (name: string): object => ({
      jsonrpc: "2.0",
      id: 1,
      method: "tools/call",
      params: { name, _meta: { "io.modelcontextprotocol/protocolVersion": "2026-07-28" } },
    });
    const headers = (name: string) => ({ "mcp-method": "tools/call", "mcp-name": name, "mcpf-timeout-ms": "700" });
    assert.ok((await post(world.url, call("deep"), headers("deep"))).body.error);
    assert.match((await post(world.url, call("whoami"), headers("whoami"))).text, /hostile/);
  });

  test("a process that ends and leaves another one behind, which has its standard error, has ended", async () => {
    await world.start([stdio("one", { command: "hostile", env: { WRITES: world.writesFile } })]);
    const session = { "mcp-session-id": await openSession(world.url), "mcpf-timeout-ms": "6000" };
    await post(world.url, toolCall(2, "leave"), session);
    process.kill(Number(world.writes), "SIGKILL");
    const told = world.control.told.find(({ tool }) => tool === "leave")?.result;
    assert.ok(told?.outcome === "hard" && /exited with 1/.test(told.message), JSON.stringify(told));
  });

  test("a session whose beginning is not answered leaves no process behind", async () => {
    await world.start([stdio("one", { command: "hostile", env: { MUTE: "1" } })]);
    const answer = await post(world.url, initializeBody, { "mcpf-timeout-ms": "500" });
    assert.ok(answer.body.error);
    // The one that stands by is there, or will be.
    await until(() => world.bridge.pids().length <= 1);
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.equal(world.bridge.pids().length, 1);
  });

  test("standard error and what is no protocol goes to the log, and disturbs nothing", async () => {
    await world.start([stdio("one")]);
    await openSession(world.url);
    const said = world.lines.map(({ details }) => details["stderr"]);
    assert.ok(said.includes("a line on standard error") && said.includes("(on standard output) starting"));
  });

  test("a process that ends at its start rests longer each time, and calls are refused with proof meanwhile", async () => {
    await world.start([stdio("one", { args: ["crash"] })], { restMsMin: 40, spareAfterMs: 1 });
    await until(() => world.lines.filter(({ message }) => /ended by itself/.test(message)).length >= 3);
    const refused = await post(world.url, { jsonrpc: "2.0", id: 1, method: "initialize", params: {} });
    assert.equal(refused.body.error?.data?.["code"], "no_endpoint");
    const { body, status } = (await probeAnswer("/probe/fake/one", world.control, world.bridge)) ?? { body: "", status: 0 };
    assert.equal(status, 503);
    assert.match(body, /rests before|does not answer|ended/);
  });

  test("what the processes of an endpoint use is told, of the largest and of all, with what they started", async () => {
    await world.start([stdio("one")]);
    const memory = async () => JSON.parse((await probeAnswer("/probe/fake/one/memory", world.control, world.bridge))?.body ?? "{}");
    await until(() => world.bridge.pids().length === 1);
    await openSession(world.url);
    await until(() => world.bridge.pids().length === 2);
    const { upstream, endpoint, processes, largestBytes, allBytes } = await memory();
    assert.deepEqual([upstream, endpoint, processes], ["fake", "one", 2]);
    assert.ok(largestBytes > 5e6 && allBytes > largestBytes && allBytes <= 2 * largestBytes, `${largestBytes} of ${allBytes}`);
    for (const path of ["/probe/fake/two/memory", "/probe/fake/one/memory/more"])
      assert.equal(await probeAnswer(path, world.control, world.bridge), null, path);
  });

  test("what a wrapper started counts as the server, and one that has ended for nothing", async (t) => {
    const wrapper = spawn("sh", ["-c", `"${process.execPath}" -e 'setInterval(() => {}, 1000)'; true`], {
      stdio: "ignore",
      detached: true,
    });
    t.after(() => process.kill(-(wrapper.pid as number), "SIGKILL"));
    await eventually(async () => ((await memoryOf([wrapper.pid as number])).largestBytes ?? 0) > 2e7);
    const ended = spawn(process.execPath, ["-e", ""]);
    await once(ended, "exit");
    assert.deepEqual(await memoryOf([ended.pid as number]), { processes: 0, largestBytes: 0, allBytes: 0 });
  });

  test("probes are answered by a process itself, and by nothing that is none of this router", async () => {
    await world.start([stdio("one")]);
    assert.equal((await probeAnswer("/probe/fake/one", world.control, world.bridge))?.status, 200);
    for (const path of ["/probe/fake/two", "/probe/nobody/one", "/probe/fake", "/probe/fake/one/more", "/healthz"]) {
      assert.equal(await probeAnswer(path, world.control, world.bridge), null, path);
    }
    const [pid] = world.bridge.pids();
    process.kill(-(pid as number), "SIGSTOP");
    try {
      assert.equal((await world.bridge.probe("stdio://one/server", 200))?.ok, false);
    } finally {
      process.kill(-(pid as number), "SIGCONT");
    }
  });

  test("a hung process is told from one that thinks: a look answers only while the process reads", async () => {
    await world.start([stdio("one")]);
    const session = await openSession(world.url);
    assert.equal(await world.bridge.look("stdio://one/server", 500), "unclear");
    const slow = post(world.url, toolCall(2, "slow", { steps: 20 }), { "mcp-session-id": session });
    await until(() => world.control.calls.some(({ tool }) => tool === "slow"));
    assert.equal(await world.bridge.look("stdio://one/server", 2000), "answers");
    await slow;
    const muted = post(world.url, toolCall(3, "mute"), { "mcp-session-id": session, "mcpf-timeout-ms": "1500" });
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(await world.bridge.look("stdio://one/server", 300), "silent");
    assert.equal((await muted).body.error?.data?.["code"], "outcome_unknown");
  });

  test("T3: one that answers and ends while it stands by is followed by the next after longer pauses each time", async () => {
    await world.start([stdio("one", { command: "hostile", env: { BRIEF: "1" } })], { restMsMin: 500, spareAfterMs: 1 });
    await until(() => world.lines.some(({ message }) => /ended by itself/.test(message)));
    await new Promise((resolve) => setTimeout(resolve, 3000));
    const ends = world.lines.filter(({ message }) => /ended by itself/.test(message)).length;
    assert.ok(ends >= 2 && ends <= 4, `it ended ${ends} times`);
    // Who needs one now gets one all the same.
    assert.ok((await post(world.url, initializeBody)).body.result);
  });

  const meta = { _meta: { "io.modelcontextprotocol/protocolVersion": "2026-07-28" } };
  const modernCall = (name: string, args: object = {}) => {
    const call = toolCall(1, name, args) as { params: object };
    const headers = { "mcp-method": "tools/call", "mcp-name": name, "mcpf-timeout-ms": "3000" };
    return post(world.url, { ...call, params: { ...call.params, ...meta } }, headers);
  };
  const impatient = { hungMs: 400, spareHungMs: 400, hungAskMs: 300, sweepMs: 100 };

  test("T5: one that hangs is ended and followed by another: that which clients of the modern era share, that of a session, and that which stands by", async () => {
    await world.start([stdio("one", { command: "hostile" })], impatient);
    const pidOf = async (answer: ReturnType<typeof post>): Promise<number> => Number(/hostile (\d+)/.exec((await answer).text)?.[1] ?? 0);
    const shared = await pidOf(modernCall("whoami"));
    const session = { "mcp-session-id": await openSession(world.url), "mcpf-timeout-ms": "3000" };
    const own = await pidOf(post(world.url, toolCall(2, "whoami"), session));
    await until(() => world.bridge.pids().length === 3);
    assert.equal((await world.bridge.probe("stdio://one/hostile", 5000))?.ok, true);
    const hung = world.bridge.pids();
    assert.ok(hung.includes(shared) && hung.includes(own));
    for (const pid of hung) process.kill(-pid, "SIGSTOP");
    assert.ok((await modernCall("whoami")).body.error);
    assert.ok((await post(world.url, toolCall(3, "whoami"), session)).body.error);
    await world.bridge.probe("stdio://one/hostile", 200);
    await until(() => hung.every(dead), 10_000);
    assert.ok(!hung.includes(await pidOf(modernCall("whoami"))));
    assert.ok(!hung.includes(await pidOf(post(world.url, toolCall(4, "whoami"), session))));
    assert.equal((await world.bridge.probe("stdio://one/hostile", 5000))?.ok, true);
  });

  test("T5: one that thinks longer than any hang is left alone while somebody waits for it", async () => {
    await world.start([stdio("one", { command: "hostile" })], impatient);
    const session = { "mcp-session-id": await openSession(world.url) };
    const thought = post(world.url, toolCall(2, "think", { ms: 2000 }), session);
    const [answer, modern] = await Promise.all([thought, modernCall("think", { ms: 2000 })]);
    assert.match(answer.text, /hostile/);
    assert.match(modern.text, /hostile/);
  });

  test("one whose output waits for a client that reads slowly is not taken for one that hangs", async () => {
    await world.start([stdio("one")], impatient);
    const id = await openSession(world.url);
    const call = toolCall(2, "slow", { steps: 3000 }) as { params: object };
    const body = JSON.stringify({ ...call, params: { ...call.params, _meta: { progressToken: "p".repeat(60_000) } } });
    const client = connect(Number(world.url.port), "127.0.0.1");
    try {
      const head = ["content-type: application/json", "accept: application/json, text/event-stream", `mcp-session-id: ${id}`];
      client.write(
        `POST ${world.url.pathname} HTTP/1.1\r\nhost: 127.0.0.1\r\n${head.join("\r\n")}\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
      );
      const look = (): Promise<string> => world.bridge.look("stdio://one/server", 2000);
      // Before it begins there is nothing to look at, and while sockets between them take something it comes and goes.
      await once(client, "data");
      client.pause();
      const pids = world.bridge.pids();
      const seen = new Set<string>();
      const isHeldForLong = async (): Promise<boolean> => {
        for (let looked = 0; looked < 10; looked += 1) {
          const found = await look();
          seen.add(found);
          if (found !== "unclear") return false;
          await new Promise((resolve) => setTimeout(resolve, 100));
        }
        return true;
      };
      await eventually(isHeldForLong, { withinMs: 30_000 });
      assert.ok(!seen.has("silent"));
      assert.deepEqual(world.bridge.pids(), pids);
    } finally {
      client.destroy();
    }
  });

  test("a session that rests gives its process to a new one, and comes back by itself", async () => {
    await world.start([stdio("one", { sessionsMax: 1 })], { roomIdleMs: 0 });
    const first = await openSession(world.url);
    await new Promise((resolve) => setTimeout(resolve, 1700)); // its stream, opened ahead, is given up when no client comes for it
    const second = await openSession(world.url);
    const answer = await post(world.url, toolCall(2, "whoami"), { "mcp-session-id": second });
    assert.ok(answer.body.result);
    await new Promise((resolve) => setTimeout(resolve, 1700));
    assert.ok((await post(world.url, toolCall(2, "whoami"), { "mcp-session-id": first })).body.result);
  });

  test("a process that ignores the end of its input and SIGTERM is killed, and a new configuration drops no call", async () => {
    await world.start([stdio("one", { args: ["stubborn"] })]);
    const session = await openSession(world.url);
    const slow = post(world.url, toolCall(2, "slow", { steps: 20 }), { "mcp-session-id": session });
    await until(() => world.control.calls.some(({ tool }) => tool === "slow"));
    const old = world.bridge.pids();
    world.bridge.configure([]);
    assert.equal((await slow).body.result?.content?.[0]?.text, "done");
    await until(() => old.every(dead));
  });
});
