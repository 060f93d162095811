import assert from "node:assert/strict";
import dns from "node:dns";
import { syncBuiltinESMExports } from "node:module";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { eventually } from "@mcp-failover/testkit";
import { type LookUp, openNames } from "../src/probes/names.ts";
import { reach } from "../src/reference.ts";
import { resultOf, runnerFor, targetOf } from "./probe-kit.ts";
import { answers, fakeServer } from "./servers.ts";

/** Names by how long their name server takes; one that is silent answers when the test says so. */
function resolver(clock: { ms: number }) {
  const silent = new Map<string, () => void>();
  const asked: string[] = [];
  let most = 0;
  const lookUp: LookUp = (hostname, _options, told) => {
    asked.push(hostname);
    if (!hostname.startsWith("silent")) return queueMicrotask(() => told(null, "127.0.0.1", 4));
    silent.set(hostname, () => {
      clock.ms += 10_000;
      silent.delete(hostname);
      told(Object.assign(new Error("EAI_AGAIN"), { code: "EAI_AGAIN" }), "");
    });
    most = Math.max(most, silent.size);
  };
  const givesUp = () => {
    for (const end of [...silent.values()]) end();
  };
  return { lookUp, asked, silent, givesUp, most: () => most };
}

const askOf = (names: LookUp, hostname: string) =>
  new Promise<string>((resolve) => {
    names(hostname, { all: true }, (error, address) => resolve(error?.code ?? String(address)));
  });

test("N1 a name is looked up once at a time, and who asks meanwhile hears the same", async () => {
  const { lookUp, asked, givesUp } = resolver({ ms: 0 });
  const names = openNames({ lookUp, places: 2 });
  const many = Array.from({ length: 500 }, () => askOf(names, "silent.test"));
  await sleep(0);
  assert.deepEqual(asked, ["silent.test"]);
  givesUp();
  assert.deepEqual(new Set(await Promise.all(many)), new Set(["EAI_AGAIN"]));
  assert.equal(await askOf(names, "well.test"), "127.0.0.1");
  await askOf(names, "well.test");
  assert.deepEqual(asked, ["silent.test", "well.test", "well.test"]);
});

test("N2 however many names are silent, those that were answered at once are looked up, and in the end all are", async () => {
  const clock = { ms: 0 };
  const { lookUp, silent, givesUp, most } = resolver(clock);
  const names = openNames({ lookUp, places: 2, clockMs: () => clock.ms });
  assert.equal(await askOf(names, "well.test"), "127.0.0.1");
  const heard: string[] = [];
  for (let n = 0; n < 20; n += 1) void askOf(names, `silent${n}.test`).then(() => heard.push(`silent${n}.test`));
  const unknown = askOf(names, "new.test");
  for (let n = 0; n < 50; n += 1) assert.equal(await askOf(names, "well.test"), "127.0.0.1");
  assert.equal(silent.size, 1);
  for (let n = 0; n < 20; n += 1) {
    givesUp();
    await sleep(0);
    assert.equal(await askOf(names, "well.test"), "127.0.0.1");
  }
  assert.equal(await unknown, "127.0.0.1");
  assert.equal(heard.length, 20);
  assert.equal(most(), 1);
});

test("N2 a name that is silent of a sudden is no prompt one from then on", async () => {
  const clock = { ms: 0 };
  const { lookUp, silent, givesUp } = resolver(clock);
  const turned: { is: boolean } = { is: false };
  const turning: LookUp = (hostname, options, told) =>
    lookUp(turned.is && hostname !== "well.test" ? `silent-${hostname}` : hostname, options, told);
  const names = openNames({ lookUp: turning, places: 2, clockMs: () => clock.ms });
  for (const name of ["a.test", "b.test", "well.test"]) await askOf(names, name);
  turned.is = true;
  void askOf(names, "a.test");
  void askOf(names, "b.test");
  await sleep(0);
  assert.equal(silent.size, 2, "they were prompt until now");
  givesUp();
  await sleep(0);
  void askOf(names, "a.test");
  void askOf(names, "b.test");
  await sleep(0);
  assert.equal(silent.size, 1);
  assert.equal(await askOf(names, "well.test"), "127.0.0.1");
});

/** The system's resolver, with names of `.silent.test` that it never answers. */
function silentNames(t: TestContext): string[] {
  const asked: string[] = [];
  const silent: (() => void)[] = [];
  const real = dns.lookup;
  const mocked = (hostname: string, options: dns.LookupOptions, told: Parameters<LookUp>[2]) => {
    asked.push(hostname);
    if (hostname.endsWith(".silent.test")) {
      silent.push(() => told(Object.assign(new Error("EAI_AGAIN"), { code: "EAI_AGAIN" }), ""));
      return;
    }
    if (hostname.endsWith(".well.test")) real("127.0.0.1", options, told);
    else real(hostname, options, told);
  };
  dns.lookup = mocked as typeof dns.lookup;
  syncBuiltinESMExports();
  t.after(() => {
    // Those of the line come in turn.
    while (silent.length > 0) silent.shift()?.();
    dns.lookup = real;
    syncBuiltinESMExports();
  });
  return asked;
}

test("whatever is connected to, a name that is not answered is looked up once, and its probes end in time", async (t) => {
  const asked = silentNames(t);
  const runner = runnerFor(t);
  const tls = { upstream: { kind: "http" }, endpoint: { tls: { server_name: "other.test" } } };
  const of: Record<string, ReturnType<typeof targetOf>> = {
    http: targetOf({ type: "http" }, "http://http.silent.test"),
    https: targetOf({ type: "http" }, "https://https.silent.test"),
    tcp: targetOf({ type: "tcp", url: "tcp://tcp.silent.test:1" }),
    tls: targetOf({ type: "tls" }, "https://tls.silent.test"),
    websocket: targetOf({ type: "websocket", path: "/" }, "http://websocket.silent.test"),
    redis: targetOf({ type: "redis", url: "redis://redis.silent.test" }),
    bolt: targetOf({ type: "bolt", url: "bolt://bolt.silent.test" }),
    mcp: targetOf({ type: "mcp" }, "http://mcp.silent.test/mcp", { upstream: { kind: "mcp" } }),
    secured: targetOf({ type: "mcp" }, "https://secured.silent.test/mcp", { ...tls, upstream: { kind: "mcp" } }),
  };
  const results = await Promise.all(
    Object.values(of).flatMap((target) => [true, false, true].map((fresh) => resultOf(runner, target, { fresh, timeoutMs: 300 }))),
  );
  for (const result of results) assert.equal(result.code, "timeout", result.error ?? "");
  await Promise.all([1, 2].map(() => reach("tcp://reference.silent.test:1", 100)));
  const expected = [...Object.keys(of), "reference"].map((name) => `${name}.silent.test`);
  // The places that are left to them are taken at once; whoever waits for one is in the line, once.
  for (const name of asked) assert.equal(asked.filter((one) => one === name).length, 1, `${name} was looked up ${asked.length} times`);
  assert.ok(asked.length > 0 && asked.every((name) => expected.includes(name)), asked.join());
});

test("an endpoint whose name is answered is probed while the names of a hundred others are not", async (t) => {
  silentNames(t);
  const fake = await fakeServer(answers.status(200));
  t.after(() => fake.kill());
  const runner = runnerFor(t);
  const well = targetOf({ type: "http" }, `http://api.well.test:${fake.port}`);
  await eventually(async () => (await resultOf(runner, well, { fresh: true, timeoutMs: 500 })).outcome === "ok", {
    what: "its name is known",
  });
  const others = Array.from({ length: 100 }, (_, n) => targetOf({ type: "tcp", url: `tcp://other${n}.silent.test:1` }));
  const silent = others.map((target) => resultOf(runner, target, { fresh: true, timeoutMs: 1000 }));
  for (let n = 0; n < 5; n += 1) assert.equal((await resultOf(runner, well, { fresh: true, timeoutMs: 500 })).outcome, "ok");
  await Promise.all(silent);
});
