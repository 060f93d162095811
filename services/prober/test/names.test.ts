import assert from "node:assert/strict";
import dns from "node:dns";
import { syncBuiltinESMExports } from "node:module";
import { type TestContext, test } from "node:test";
import type { LookUp } from "@mcp-failover/service-kit";
import { eventually } from "@mcp-failover/testkit";
import { reach } from "../src/reference.ts";
import { resultOf, runnerFor, targetOf } from "./probe-kit.ts";
import { answers, fakeServer } from "./servers.ts";

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
