import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { publishRaw } from "@mcp-failover/bus/internal";
import { node24 } from "../../scripts/lib/repo.mjs";
import { connectClient } from "../harness/load.ts";
import { type RunningStack, run, startStack } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";

describe("bad input", { concurrency: false }, () => {
  let stack: RunningStack;
  before(async () => {
    stack = await startStack();
  });
  after(async () => {
    await stack?.stop();
  });

  const valid = {
    upstreams: {
      a: {
        kind: "mcp",
        endpoints: [
          { name: "p", tier: 0, url: "http://127.0.0.1:1/mcp" },
          { name: "s", tier: 1, url: "http://127.0.0.1:2/mcp" },
        ],
        tools: { get: { legacy: { url: "http://127.0.0.1:3/get" } } },
      },
    },
  };
  // biome-ignore lint/suspicious/noExplicitAny: each case breaks the plain data somewhere else.
  const cases: [string, (config: any) => void, RegExp][] = [
    ["unknown key", (config) => (config.upstreams.a.endpionts = []), /upstreams\.a\.endpionts.*did you mean "endpoints"/],
    [
      "missing secret",
      (config) => (config.upstreams.a.endpoints[0].headers = { "Api-Key": { secret: "NOT_THERE_KEY" } }),
      /upstreams\.a\.endpoints\.0\.headers\.Api-Key.*NOT_THERE_KEY.*set the environment variable/,
    ],
    [
      "duplicate endpoint",
      (config) => (config.upstreams.a.endpoints[1].name = "p"),
      /upstreams\.a\.endpoints\.1\.name.*duplicate endpoint "p".*own name/,
    ],
    [
      "bad URL",
      (config) => (config.upstreams.a.endpoints[0].url = "not a url"),
      /upstreams\.a\.endpoints\.0\.url.*http:\/\/ or https:\/\/.*"not a url"/,
    ],
    [
      "legacy loop",
      (config) => (config.upstreams.a.tools.get.legacy.url = `http://localhost:${stack.portBase}/mcp/a`),
      /upstreams\.a\.tools\.get\.legacy\.url.*points back at the router/,
    ],
  ];

  for (const [name, breakIt, expected] of cases) {
    test(`a configuration with this fault is refused with path and fix, by mcpf and by npm start, with 2: ${name}`, async () => {
      const config = structuredClone(valid);
      breakIt(config);
      const file = join(stack.dataDir, "broken.yaml");
      await writeFile(file, JSON.stringify(config, null, 2));
      const validated = await stack.mcpf(["config", "validate", file]);
      assert.deepEqual([validated.code, expected.test(validated.stderr)], [2, true], validated.stderr);
      const applied = await stack.mcpf(["config", "apply", file, "--reason", "r", "--yes"]);
      assert.equal(applied.code, 2, applied.stderr);
      if (name === "legacy loop") return; // The other stack would have another router.
      const started = await run(
        node24(),
        [
          "packages/launcher/src/main.ts",
          "--config",
          file,
          "--data-dir",
          join(stack.dataDir, "other"),
          "--port-base",
          String(stack.portBase + 300),
        ],
        process.env,
        20_000,
      );
      assert.equal(started.code, 2, started.stderr);
      assert.match(started.stderr, expected);
    });
  }

  test("an unknown upstream or scenario is wrong usage, and the known ones are named", async () => {
    const upstream = await stack.mcpf(["failover", "nope", "--reason", "r", "--yes"]);
    assert.equal(upstream.code, 2, upstream.stderr);
    assert.match(upstream.stderr, /everything.*warehouse/);
    const scenario = await stack.mcpf(["chaos", "run", "meteor", "everything", "--yes"]);
    assert.equal(scenario.code, 2);
    assert.match(scenario.stderr, /killService, slowResponse/);
    await assert.rejects(connectClient(`${stack.routerUrl}/mcp/nope`), /nope|404/);
  });

  test("a malformed event on any subject lands in QUARANTINE, and no service stops", async () => {
    const pids = Object.fromEntries((await stack.processes()).map(({ name, pid }) => [name, pid]));
    const subjects = [
      "health.changed.everything.primary",
      "breaker.changed.everything.primary",
      "failover.decided.everything",
      "failover.executed.everything",
      "rollback.decided.tool.get_inventory",
      "config.applied",
      "fleet.reserved",
      "incident.changed.x",
      "probe.observed.prober-1",
      "traffic.observed.router-1",
    ];
    const payloads = [
      "{",
      '{"specversion":"1.0"}',
      "\u0000\u0001",
      JSON.stringify({
        specversion: "1.0",
        id: "x",
        source: "x",
        type: "health.changed",
        time: new Date().toISOString(),
        datacontenttype: "application/json",
        dataschema: "x",
        data: { status: "fine" },
      }),
    ];
    for (const subject of subjects) for (const payload of payloads) await publishRaw(stack.bus, subject, payload);
    await publishRaw(stack.bus, "prober.heartbeat", "not an event");
    await publishRaw(stack.bus, "probe.requested", "{}");
    const expected = subjects.length * payloads.length;
    await until(async () => (await stack.bus.info("QUARANTINE")).messages >= expected, 15_000, `${expected} messages in QUARANTINE`);
    const client = await connectClient(`${stack.routerUrl}/mcp/everything`);
    assert.match(JSON.stringify(await client.callTool({ name: "echo", arguments: { message: "well" } })), /well/);
    await client.close();
    const after = Object.fromEntries((await stack.processes()).map(({ name, pid }) => [name, pid]));
    assert.deepEqual(after, pids, "no process was started anew");
    assert.equal((await stack.status()).upstreams.length, 2);
    // It still decides: an operator's move goes through the same subjects.
    const moved = await stack.mcpf(["failover", "everything", "--to", "secondary", "--reason", "after the garbage", "--yes"]);
    assert.equal(moved.code, 0, moved.stderr);
  });

  test("an oversized or malformed HTTP body gets a proper 4xx, and the router goes on", async () => {
    const post = (path: string, body: string | Buffer, headers: Record<string, string> = {}): Promise<number> =>
      new Promise((resolve, reject) => {
        const outgoing = request(
          `${stack.routerUrl}${path}`,
          { method: "POST", headers: { "content-type": "application/json", accept: "application/json, text/event-stream", ...headers } },
          (response) => {
            response.resume();
            response.on("end", () => resolve(response.statusCode ?? 0));
          },
        );
        let status = 0;
        outgoing.on("response", (response) => {
          status = response.statusCode ?? 0;
        });
        // The router may answer and close before it has read all of a body that is too large.
        outgoing.on("error", (error) => (status > 0 ? resolve(status) : reject(error)));
        outgoing.end(body);
      });
    assert.equal(await post("/mcp/everything", "{"), 400);
    assert.equal(await post("/mcp/everything", "[]"), 400);
    assert.equal(await post("/mcp/everything", '"text"'), 400);
    assert.equal(await post("/mcp/everything", Buffer.alloc(5 * 1024 * 1024, 0x20)), 413);
    assert.equal(await post("/mcp/everything", "<xml/>", { "content-type": "text/xml" }), 415);
    assert.equal(await post("/mcp/nope", "{}"), 404);
    const client = await connectClient(`${stack.routerUrl}/mcp/everything`);
    await client.close();
  });
});
