import assert from "node:assert/strict";
import { createServer } from "node:http";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { type TestContext, test } from "node:test";
import type { TrafficObserved } from "@mcp-failover/contracts";
import type { ControlOptions, RunningControl } from "../../src/control/control.ts";
import type { Attempt } from "../../src/control/port.ts";
import { answers, type Look } from "../../src/control/reach.ts";
import { attemptOf, describe, type Fixture, ok, play, settled, start, until, warehouse } from "./fixture.ts";

const timedOut = { outcome: "hard", code: "timeout", executed: "unknown", message: "hangs" } as const;

/** A control whose looks get the answers that the test sets, and that knows what is usual at the primary. */
async function usual(t: TestContext, more: ControlOptions = {}): Promise<Fixture & { looks: Record<string, Look>; looked: string[] }> {
  const looks: Record<string, Look> = {};
  const looked: string[] = [];
  const fixture = await start(t, {
    ...more,
    answers: async (url) => {
      looked.push(url);
      return looks[url] ?? "answers";
    },
  });
  for (let call = 0; call < 25; call += 1) assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["primary"]);
  return { ...fixture, clock: fixture.clock, looks, looked };
}
const primaryUrl = "http://127.0.0.1:1/mcp";
const givenUp = (attempt: Attempt): boolean => attempt.givenUp?.aborted === true;

test("R26: reads that wait for an endpoint that hangs are given up after a second and run elsewhere, as the next ones do at once", async (t) => {
  const fixture = await usual(t);
  fixture.looks[primaryUrl] = "silent";
  const calls = [1, 2, 3].map(() => fixture.control.begin(describe(fixture)));
  const attempts = await Promise.all(calls.map(attemptOf));
  assert.deepEqual([...new Set(attempts.map(({ endpoint }) => endpoint.name))], ["primary"]);
  fixture.clock.nowMs += 600;
  await settled(120);
  assert.deepEqual(attempts.map(givenUp), [false, false, false], "not before their time");
  fixture.clock.nowMs += 400;
  await until("all are given up", () => attempts.every(givenUp));
  for (const [index, call] of calls.entries()) {
    assert.deepEqual(attempts[index]?.done(timedOut), { retry: true });
    assert.equal((await attemptOf(call)).endpoint.name, "secondary");
    call.end("ok");
  }
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["secondary"]);
});

test("what late is, a router without calls of its own learns from the calls of others, but not from those that failed", async (t) => {
  const looks: Record<string, Look> = { [primaryUrl]: "silent" };
  const options = { answers: async (url: string) => looks[url] ?? ("answers" as const) };
  const fixture = await start(t, options);
  const quiet = await fixture.again({ ...options, instance: "quiet" });
  const isGivenUpAfterASecond = async (control: RunningControl): Promise<boolean> => {
    const call = control.begin(describe(fixture));
    const attempt = await attemptOf(call);
    assert.equal(attempt.endpoint.name, "primary");
    fixture.clock.nowMs += 1100;
    await settled(200);
    const left = givenUp(attempt);
    attempt.done({ outcome: "aborted" });
    call.end("error");
    return left;
  };
  assert.equal(await isGivenUpAfterASecond(quiet), false, "nobody knows");

  for (let call = 0; call < 25; call += 1) await play(fixture.control.begin(describe(fixture)), () => ok);
  const ended = () => fixture.traffic.find(({ router, endpoints }) => router === "router-1" && endpoints.some((seen) => seen.ok >= 20));
  await until("it is said", () => ended() !== undefined);
  const said = ended() as TrafficObserved;
  const failed = said.endpoints.map((seen) => ({ ...seen, ok: 0, hard: 25 }));
  const late = await fixture.again({ ...options, instance: "late" });
  assert.equal(await isGivenUpAfterASecond(quiet), true);

  await fixture.say("traffic.observed", ["router-2"], { ...said, router: "router-2", endpoints: failed });
  assert.equal(await isGivenUpAfterASecond(late), false, "it only heard of failures");
});

test("a slow tool is waited for as long as its server answers a look, which are asked further and further apart", async (t) => {
  const fixture = await usual(t);
  const attempt = await attemptOf(fixture.control.begin(describe(fixture)));
  for (let passed = 0; passed < 20; passed += 1) {
    fixture.clock.nowMs += 1000;
    await settled(60);
  }
  assert.equal(givenUp(attempt), false);
  assert.ok(fixture.looked.length >= 3 && fixture.looked.length <= 7, `${fixture.looked.length} looks`);
  assert.deepEqual(await play(fixture.control.begin(describe(fixture)), () => ok), ["primary"]);
});

test("an endpoint that got another address while it was looked at is not watched for ever: with no call out nothing ticks", async (t) => {
  const look = Promise.withResolvers<Look>();
  let looks = 0;
  const fixture = await start(t, {
    answers: () => {
      looks += 1;
      return look.promise;
    },
  });
  const attempt = await attemptOf(fixture.control.begin(describe(fixture)));
  fixture.clock.nowMs += 10_000;
  await until("it is looked at", () => looks === 1);
  await fixture.configure(warehouse.replace("127.0.0.1:1/", "127.0.0.1:9/"));
  attempt.done(ok);
  const clear = t.mock.method(globalThis, "clearInterval");
  look.resolve("answers");
  await until("the watch rests", () => clear.mock.callCount() === 1);
});

test("what may write is never given up, and nothing is where there is nowhere better to go", async (t) => {
  const fixture = await usual(t);
  fixture.looks[primaryUrl] = "silent";
  const write = await attemptOf(fixture.control.begin(describe(fixture, { tool: "ship_order" })));
  assert.equal(write.givenUp, null);
  await fixture.health("warehouse", "secondary", { status: "unhealthy", score: 0 });
  const read = await attemptOf(fixture.control.begin(describe(fixture)));
  fixture.clock.nowMs += 3000;
  await settled(200);
  assert.equal(givenUp(read), false);
  await fixture.health("warehouse", "secondary", { status: "healthy" });
  await until("the read is given up once there is somewhere to go", () => givenUp(read));
});

test("a read that has nowhere to go costs nothing at each look at its endpoint, however many there are", async (t) => {
  let plans = 0;
  const random = () => {
    plans += 1;
    return 0.5;
  };
  const fixture = await usual(t, { random });
  fixture.looks[primaryUrl] = "silent";
  await fixture.health("warehouse", "secondary", { status: "unhealthy", score: 0 });
  const reads = await Promise.all(Array.from({ length: 20 }, () => attemptOf(fixture.control.begin(describe(fixture)))));
  fixture.clock.nowMs += 3000;
  await until("it is found to hang", () => fixture.looked.includes(primaryUrl));
  plans = 0;
  await settled(300);
  assert.equal(plans, 0, "calls that were planned anew");
  await fixture.health("warehouse", "secondary", { status: "healthy" });
  await until("all are given up once there is somewhere to go", () => reads.every(givenUp));
});

test("an idempotent write that waits for an endpoint that hangs runs again once the fleet has moved the upstream, and not before", async (t) => {
  const fixture = await usual(t);
  fixture.looks[primaryUrl] = "silent";
  const call = fixture.control.begin(describe(fixture, { tool: "set_stock" }));
  const attempt = await attemptOf(call);
  const unsafe = await attemptOf(fixture.control.begin(describe(fixture, { tool: "ship_order" })));
  fixture.clock.nowMs += 3000;
  await settled(200);
  assert.equal(givenUp(attempt), false, "only the active endpoint takes writes");
  await fixture.move("warehouse", "secondary", 2);
  await until("it is given up", () => givenUp(attempt));
  assert.equal(unsafe.givenUp, null, "what may have run is never sent again");
  assert.deepEqual(attempt.done(timedOut), { retry: true });
  assert.equal((await attemptOf(call)).endpoint.name, "secondary");
  call.end("ok");
});

test("reads that are overdue at an endpoint that the fleet has judged dead are given up, though it answers looks", async (t) => {
  const fixture = await usual(t);
  const old = await attemptOf(fixture.control.begin(describe(fixture)));
  fixture.clock.nowMs += 1100;
  const young = await attemptOf(fixture.control.begin(describe(fixture)));
  await fixture.health("warehouse", "primary", { status: "unhealthy", score: 0 });
  await until("the overdue one is given up", () => givenUp(old));
  assert.equal(givenUp(young), false);
});

test("giving up is paid from the retry budget: no more reads are given up than may be sent again", async (t) => {
  const fixture = await usual(t);
  fixture.looks[primaryUrl] = "silent";
  const attempts = await Promise.all(Array.from({ length: 300 }, () => attemptOf(fixture.control.begin(describe(fixture)))));
  fixture.clock.nowMs += 1000;
  await until("some are given up", () => attempts.some(givenUp));
  const left = attempts.filter(givenUp);
  // The reserve of 100, a fifth of 325 calls, and what a second adds.
  assert.ok(left.length >= 100 && left.length <= 200, `${left.length} were given up`);
  for (const attempt of left) assert.deepEqual(attempt.done(timedOut), { retry: true });
});

test("a router that stood still itself condemns nobody for what it did not hear meanwhile", async (t) => {
  const fixture = await usual(t);
  fixture.looks[primaryUrl] = "silent";
  const attempt = await attemptOf(fixture.control.begin(describe(fixture)));
  await settled(60);
  const endMs = performance.now() + 1300;
  while (performance.now() < endMs);
  await settled(300);
  assert.equal(givenUp(attempt), false);
  await until("it is given up a whole second later", () => givenUp(attempt), 2000);
});

test("an answer that has begun to stream is not given up", async (t) => {
  const fixture = await usual(t);
  fixture.looks[primaryUrl] = "silent";
  const attempt = await attemptOf(fixture.control.begin(describe(fixture)));
  attempt.answering();
  fixture.clock.nowMs += 5000;
  await settled(200);
  assert.equal(givenUp(attempt), false);
});

test("a look tells a server that answers anything from one that accepts and says nothing, or is gone", async (t) => {
  const server = createServer((_, response) => response.writeHead(405).end()).listen(0, "127.0.0.1");
  const mute = createTcpServer((socket) => socket.on("error", () => undefined).resume()).listen(0, "127.0.0.1");
  const urlOf = (one: { address(): unknown }) => `http://127.0.0.1:${(one.address() as AddressInfo).port}/mcp`;
  await settled(20);
  const muteUrl = urlOf(mute);
  t.after(() => {
    server.close();
    mute.close();
  });
  assert.equal(await answers(urlOf(server), 2000), "answers");
  assert.equal(await answers(muteUrl, 150), "silent");
  const late = answers(urlOf(server), 50);
  const endMs = performance.now() + 200;
  while (performance.now() < endMs);
  assert.equal(await late, "unclear", "a process that stood still itself did not hear the answer");
  mute.close();
  assert.equal(await answers(muteUrl, 2000), "silent");
});
