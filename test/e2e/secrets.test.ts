import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { StreamName } from "@mcp-failover/contracts";
import { type RunningStack, startStack } from "../harness/stack.ts";
import { until } from "../harness/wait.ts";
import { startWebhook, type WebhookReceiver } from "../harness/webhook.ts";

/** Planted: one secret for each place that a configuration can name one. */
const secrets = {
  PLANTED_PRIMARY_KEY: "pk-5f3c19d2a7e84b60",
  PLANTED_SECONDARY_KEY: "sk-c81e07b44d9a4f12",
  PLANTED_PASSWORD: 'pw-"quoted"-77aa21bc',
  PLANTED_WEBHOOK_TOKEN: "wh-9b1d6f0e2c3a4855",
  PLANTED_LEGACY_TOKEN: "lt-3e5a7c9b1d2f4061",
};

let stack: RunningStack;
let webhook: WebhookReceiver;
const seen: Record<string, IncomingHttpHeaders[]> = { primary: [], secondary: [], legacy: [] };
const servers = Object.keys(seen).map((name) =>
  createServer((request, response) => {
    seen[name]?.push(request.headers);
    if (name === "primary" && failing) {
      response.writeHead(500, { "content-type": "application/json" }).end(JSON.stringify({ echoed: request.headers }));
      return;
    }
    response.writeHead(200, { "content-type": "application/json" }).end('{"ok":true}');
  }),
);
let failing = false;

before(async () => {
  webhook = await startWebhook({ refuseFirst: 1 });
  const urls: string[] = [];
  for (const server of servers) {
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    urls.push(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  }
  stack = await startStack({
    env: secrets,
    edit: (config) => {
      config.upstreams.api = {
        kind: "http",
        probe: { type: "http", path: "/health", interval_ms: 1000 },
        endpoints: [
          {
            name: "primary",
            tier: 0,
            url: urls[0],
            headers: { "Api-Key": { secret: "PLANTED_PRIMARY_KEY" } },
            auth: { username: "user", password: { secret: "PLANTED_PASSWORD" } },
          },
          { name: "secondary", tier: 1, url: urls[1], headers: { Authorization: { secret: "PLANTED_SECONDARY_KEY", prefix: "Bearer " } } },
        ],
      };
      config.upstreams.warehouse.tools.get_inventory.legacy.headers = { "X-Token": { secret: "PLANTED_LEGACY_TOKEN" } };
      config.notifications.channels.push({
        name: "hook",
        type: "webhook",
        url: webhook.url,
        headers: { Authorization: { secret: "PLANTED_WEBHOOK_TOKEN", prefix: "Bearer " } },
      });
    },
  });
});
after(async () => {
  await stack?.stop();
  await webhook?.close();
  for (const server of servers) {
    server.close();
    server.closeAllConnections();
  }
});

test("no planted secret is in any event, log line, error or output, and each goes to the one place that names it", async () => {
  const get = (path: string) => fetch(`${stack.routerUrl}${path}`, { signal: AbortSignal.timeout(10_000) });
  assert.equal((await get("/http/api/things")).status, 200);
  failing = true;
  await until(
    async () => (await stack.status()).upstreams.find(({ name }) => name === "api")?.active === "secondary",
    20_000,
    "the failover of api",
  );
  assert.equal((await get("/http/api/things")).status, 200);
  await until(() => webhook.accepted().length > 0, 15_000, "the notification that was refused once");
  const consoleToken = (await readFile(join(stack.dataDir, "credentials", "cli", "console.token"), "utf8")).trim();
  const act = (token: string) =>
    fetch(`${stack.consoleUrl}/api/failover?token=${token}`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
      body: JSON.stringify({ upstream: "warehouse", to: "secondary", reason: "a test" }),
      signal: AbortSignal.timeout(20_000),
    });
  const tried = `${consoleToken.slice(1)}x`;
  assert.deepEqual([(await act(tried)).status, (await act(consoleToken)).status], [401, 200]);
  const outputs = await Promise.all(
    [
      ["status"],
      ["status", "-o", "json"],
      ["why", "api"],
      ["why", "api", "-o", "json"],
      ["events", "tail", "-o", "json"],
      ["doctor"],
      ["state", "get", "api"],
      ["config", "validate", join(stack.dataDir, "failover.yaml")],
    ].map((args) => stack.mcpf(args)),
  );

  assert.ok(
    seen["primary"]?.some((headers) => headers["api-key"] === secrets.PLANTED_PRIMARY_KEY),
    "the primary gets its own key",
  );
  assert.ok(
    seen["secondary"]?.some((headers) => headers.authorization === `Bearer ${secrets.PLANTED_SECONDARY_KEY}`),
    "the secondary gets its own key",
  );
  assert.ok(webhook.received.every(({ headers }) => headers.authorization === `Bearer ${secrets.PLANTED_WEBHOOK_TOKEN}`));
  const elsewhere = (name: string): string => JSON.stringify(seen[name]);
  assert.ok(!elsewhere("secondary").includes(secrets.PLANTED_PRIMARY_KEY), "no endpoint gets the key of another");
  assert.ok(!elsewhere("primary").includes(secrets.PLANTED_SECONDARY_KEY));

  const places: [string, string][] = outputs.map(({ stdout, stderr }, index) => [`output ${index}`, stdout + stderr]);
  for (const stream of ["AUDIT", "SIGNALS", "OUTBOX", "QUARANTINE"] satisfies StreamName[]) {
    for await (const stored of stack.bus.read(stream))
      places.push([
        `${stream} #${stored.seq} ${stored.subject}`,
        `${JSON.stringify(stored.headers)}${Buffer.from(stored.bytes).toString("utf8")}`,
      ]);
  }
  const logs = await readdir(join(stack.dataDir, "logs"));
  for (const file of logs) places.push([`log ${file}`, await readFile(join(stack.dataDir, "logs", file), "utf8")]);
  for (const { body } of webhook.received) places.push(["webhook body", JSON.stringify(body)]);
  places.push(
    ["launcher", stack.output()],
    ["console", await (await fetch(`${stack.consoleUrl}/api/status`)).text()],
    ["metrics", await (await get("/metrics")).text()],
  );
  assert.ok(places.length > 50, `only ${places.length} places were searched`);
  const found = places.flatMap(([place, text]) =>
    Object.entries({ ...secrets, "the console's token": consoleToken, "what was tried": tried }).flatMap(([name, value]) =>
      [value, JSON.stringify(value).slice(1, -1), Buffer.from(`user:${value}`).toString("base64")].some((form) => text.includes(form))
        ? [`${name} in ${place}`]
        : [],
    ),
  );
  assert.deepEqual(found, []);
});
