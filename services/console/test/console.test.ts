import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { request as httpRequest, type IncomingHttpHeaders } from "node:http";
import { connect } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { memoryBroker, RefusedError } from "@mcp-failover/bus";
import { memorySeams } from "@mcp-failover/bus/internal";
import { type Event, healthReport, makeEvent, type RequestOf, type StatusView } from "@mcp-failover/contracts";
import { testKit } from "@mcp-failover/service-kit/testing";
import { patientMs } from "@mcp-failover/testkit";
import { startConsole } from "../src/wiring.ts";

type Command = RequestOf<"command.failover">;
interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  readonly json: { error?: { code: string; message: string } } & Record<string, unknown>;
}

async function world(t: TestContext, hosts = "") {
  const broker = memoryBroker();
  const log = broker.connect();
  const bus = broker.connect();
  const commands: Command[] = [];
  let refuse: RefusedError | null = null;
  await log.serve({
    name: "failover-controller",
    instance: "fc-1",
    version: "0.1.0",
    description: "",
    handlers: {
      "command.failover": async (command) => {
        commands.push(command);
        if (refuse !== null) throw refuse;
        return { epoch: 1 };
      },
    },
  });
  const kit = testKit({
    service: "console",
    bus,
    config: { MCPF_CONSOLE_HOST: "127.0.0.1", MCPF_CONSOLE_PORT: 0, MCPF_CONSOLE_HOSTS: hosts },
  });
  let url = "";
  const info = (details: { url?: string }): void => {
    url = details.url ?? url;
  };
  const running = await startConsole({ ...kit, log: { info, warn: info, error: info, debug: info } as unknown as typeof kit.log });
  t.after(async () => {
    await running.stop?.();
    await bus.close();
    await log.close();
  });
  const { port } = new URL(url);
  const say = async (type: "config.applied" | "health.changed" | "failover.executed", keys: string[], data: object): Promise<number> => {
    const event = makeEvent({ type, keys, data, id: randomUUID(), service: "cli", instance: "test", timeMs: Date.now() } as never) as Event;
    return (await log.append(event)).seq;
  };
  const timestamp = new Date().toISOString();
  const by = { kind: "service", id: "test" };
  const endpoints = ["primary", "secondary"].map((name, tier) => ({ name, tier, url: `http://127.0.0.1:${tier + 1}/` }));
  const topology = { upstreams: { shop: { kind: "http", endpoints } } };
  const config = { version: 1, hash: "h", fileHash: null, timestamp, by, reason: "test", environment: "development", topology };
  await say("config.applied", [], config);
  const moved = (to: string) =>
    say("failover.executed", ["shop"], {
      service: "shop",
      epoch: 1,
      decisionId: "d",
      timestamp,
      reason: "it is dead",
      by,
      previousEndpoint: "primary",
      currentEndpoint: to,
      automatic: true,
      appliedBy: [],
      notAppliedBy: [],
    });
  const ask = (path: string, options: { method?: string; headers?: Record<string, string>; body?: string } = {}): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const { method = "GET", headers = {}, body } = options;
      const request = httpRequest({ host: "127.0.0.1", port, path, method, headers }, (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("end", () => {
          const text = Buffer.concat(chunks).toString();
          const isJson = response.headers["content-type"]?.startsWith("application/json") === true;
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            text,
            json: isJson && text !== "" ? JSON.parse(text) : {},
          });
        });
      });
      request.once("error", reject);
      request.end(body);
    });
  const failover = (body: unknown, headers: Record<string, string> = {}): Promise<Answer> =>
    ask("/api/failover", {
      method: "POST",
      headers: { "content-type": "application/json", origin: url, ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
  const refuseWith = (error: RefusedError): void => {
    refuse = error;
  };
  return { url, port: Number(port), kit, bus, commands, ask, failover, moved, refuseWith };
}

const reason = "a drill";

/** Server-sent events as they come: `[event, data]`. */
async function watch(t: TestContext, url: string) {
  const abort = new AbortController();
  t.after(() => abort.abort());
  const response = await fetch(`${url}/api/events`, { signal: abort.signal });
  const seen: { event: string; data: Record<string, unknown> }[] = [];
  const read = async (): Promise<void> => {
    let text = "";
    for await (const chunk of response.body ?? []) {
      text += Buffer.from(chunk).toString();
      for (let end = text.indexOf("\n\n"); end !== -1; end = text.indexOf("\n\n")) {
        const block = text.slice(0, end);
        text = text.slice(end + 2);
        const event = /^event: (.*)$/m.exec(block)?.[1];
        const data = /^data: (.*)$/m.exec(block)?.[1];
        if (event !== undefined && data !== undefined) seen.push({ event, data: JSON.parse(data) });
      }
    }
  };
  void read().catch(() => undefined); // Ends with the test.
  const until = async (wanted: (one: { event: string; data: Record<string, unknown> }) => boolean) => {
    const endMs = Date.now() + 5000;
    for (;;) {
      const found = seen.find(wanted);
      if (found) return found.data;
      if (Date.now() > endMs) throw new Error(`never came; seen: ${seen.map(({ event }) => event).join()}`);
      await sleep(10);
    }
  };
  return { response, until };
}

test("the page and what it needs are served, held to their own origin, and load nothing from elsewhere", async (t) => {
  const { ask } = await world(t);
  const page = await ask("/");
  assert.equal(page.status, 200);
  assert.match(page.headers["content-type"] ?? "", /^text\/html/);
  assert.match(String(page.headers["content-security-policy"]), /default-src 'self'.*frame-ancestors 'none'/);
  const files = [...page.text.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, path]) => path ?? "");
  assert.ok(files.includes("/app.js") && files.includes("/style.css"));
  for (const path of files) assert.equal((await ask(path)).status, 200, path);
  assert.deepEqual([(await ask("/", { method: "HEAD" })).status, (await ask("/", { method: "HEAD" })).text], [200, ""]);
});

test("the state and every event reach a browser that watches, and a later one gets what was before", async (t) => {
  const { url, moved, ask } = await world(t);
  const first = await watch(t, url);
  assert.match(first.response.headers.get("content-type") ?? "", /^text\/event-stream/);
  await first.until(({ event }) => event === "hello");
  await first.until(({ event, data }) => event === "state" && (data["status"] as StatusView).upstreams[0]?.name === "shop");
  await moved("secondary");
  const item = await first.until(({ event, data }) => event === "item" && data["type"] === "failover.executed");
  assert.equal(item["text"], "shop · primary → secondary · it is dead");
  assert.equal(item["subject"], "failover.executed.shop");
  const second = await watch(t, url);
  const hello = await second.until(({ event }) => event === "hello");
  assert.deepEqual(
    (hello["items"] as { type: string }[]).map(({ type }) => type),
    ["config.applied", "failover.executed"],
  );
  const { json } = await ask("/api/status");
  assert.deepEqual([json["connected"], json["seq"]], [true, 2]);
  assert.equal((json["status"] as StatusView).upstreams[0]?.active, "primary", "a notice decides nothing");
});

test("the health report of the reference is under /api/health, one entry a service", async (t) => {
  const { ask } = await world(t);
  const { status, json } = await ask("/api/health");
  assert.equal(status, 200);
  const report = healthReport.parse(json);
  assert.deepEqual(
    report.services.map(({ service, status: health, critical, endpoint }) => [service, health, critical, endpoint]),
    [["shop", "unknown", true, "primary"]],
  );
  assert.equal((await ask("/api/health", { method: "POST" })).status, 405);
});

test("a failover with a reason is passed on as the operator's command, with the form's id", async (t) => {
  const { failover, commands } = await world(t);
  const answer = await failover({ upstream: "shop", to: "secondary", reason: ` ${reason} `, commandId: "console-12345678" });
  assert.equal(answer.status, 200);
  assert.deepEqual(answer.json["result"], { epoch: 1 });
  const [command] = commands;
  assert.deepEqual(
    [command?.upstream, command?.to, command?.reason, command?.by, command?.commandId, command?.force, command?.dryRun],
    ["shop", "secondary", reason, { kind: "operator", id: "console" }, "console-12345678", false, false],
  );
});

test("what the controller refuses comes back with its code and words; without a controller or NATS it says so", async (t) => {
  const { failover, refuseWith, bus } = await world(t);
  refuseWith(new RefusedError("not_proven", "secondary is not proven healthy"));
  const refused = await failover({ upstream: "shop", reason });
  assert.deepEqual(
    [refused.status, refused.json.error?.code, refused.json.error?.message],
    [409, "not_proven", "secondary is not proven healthy"],
  );
  memorySeams(bus).cut();
  setTimeout(() => bus.close(), 300);
  const away = await failover({ upstream: "shop", reason });
  assert.deepEqual([away.status, away.json.error?.code], [503, "unreachable"]);
});

test("a failover needs JSON and the console's own origin: anything else is 403, and nothing is asked", async (t) => {
  const { failover, commands, port } = await world(t);
  const body = { upstream: "shop", reason };
  const refused: [string, Record<string, string>][] = [
    ["another site", { origin: "https://evil.example" }],
    ["another port", { origin: `http://127.0.0.1:${port + 1}` }],
    ["a sandboxed page", { origin: "null" }],
    ["no origin at all", { origin: "not a url" }],
    ["an empty one", { origin: "" }],
    ["a form", { "content-type": "application/x-www-form-urlencoded" }],
    ["plain text", { "content-type": "text/plain" }],
  ];
  for (const [who, headers] of refused) {
    const answer = await failover(body, headers);
    assert.deepEqual([answer.status, answer.json.error?.code], [403, "origin_not_allowed"], who);
  }
  assert.deepEqual(commands, []);
  assert.equal((await failover(body, { "content-type": "Application/JSON; charset=utf-8" })).status, 200);
});

test("a failover without a reason, with a field too many, or with no JSON in it is 400 and says what is wrong", async (t) => {
  const { failover, commands } = await world(t);
  const wrong: [unknown, RegExp][] = [
    [{ upstream: "shop" }, /reason/],
    [{ upstream: "shop", reason: "   " }, /say why: a change needs a reason/],
    [{ upstream: "", reason }, /upstream/],
    [{ upstream: "shop", reason, wieght: 1 }, /wieght/],
    [{ upstream: "shop", reason, force: "yes" }, /force/],
    ["{", /body/],
    ["null", /body/],
    ["", /body/],
  ];
  for (const [body, words] of wrong) {
    const answer = await failover(body);
    assert.equal(answer.status, 400, JSON.stringify(body));
    assert.equal(answer.json.error?.code, "bad_request");
    assert.match(answer.json.error?.message ?? "", words);
  }
  assert.deepEqual(commands, []);
});

test("a body over the limit is 413, whether it was announced or not, and whether it ends or not", async (t) => {
  const { failover, port, commands } = await world(t);
  const body = JSON.stringify({ upstream: "shop", reason: "x".repeat(1024 * 1024) });
  const announced = await failover(body);
  assert.deepEqual([announced.status, announced.json.error?.code], [413, "too_large"]);
  const chunked = await failover(body, { "transfer-encoding": "chunked" });
  assert.equal(chunked.status, 413);
  const socket = connect(port, "127.0.0.1");
  t.after(() => socket.destroy());
  socket.write(
    `POST /api/failover HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n\r\n{`,
  );
  const words = await new Promise<string>((resolve) => socket.once("data", (chunk: Buffer) => resolve(chunk.toString())));
  assert.match(words, /^HTTP\/1\.1 413 /);
  const startMs = Date.now();
  await new Promise((resolve) => socket.once("close", resolve));
  assert.ok(Date.now() - startMs < patientMs(5000), "what never ends is not waited for");
  assert.deepEqual(commands, []);
});

test("only the console's own host names are answered, whatever the path", async (t) => {
  const { ask, failover, commands, port } = await world(t, "ops.example.com, Console.Internal");
  for (const path of ["/", "/api/status", "/api/events", "/healthz", "/nowhere"]) {
    const answer = await ask(path, { headers: { host: "evil.example" } });
    assert.deepEqual([answer.status, answer.json.error?.code], [403, "host_not_allowed"], path);
  }
  assert.equal((await failover({ upstream: "shop", reason }, { host: "evil.example", origin: "http://evil.example" })).status, 403);
  assert.deepEqual(commands, []);
  for (const host of ["localhost", `LOCALHOST:${port}`, "127.0.0.1:1", "[::1]:7301", "ops.example.com:443", "console.internal"]) {
    assert.equal((await ask("/api/status", { headers: { host } })).status, 200, host);
  }
});

test("an unknown path is 404, a known one with another method 405, a malformed request 400; each in the console's own words", async (t) => {
  const { ask, port } = await world(t);
  for (const path of ["/nowhere", "/api", "/api/failover/", "/../package.json", "/page/app.js", "/constructor", "//"]) {
    assert.deepEqual([(await ask(path)).status, (await ask(path)).json.error?.code], [404, "not_found"], path);
  }
  for (const [path, method, allow] of [
    ["/", "POST", "GET"],
    ["/api/status", "DELETE", "GET"],
    ["/api/events", "POST", "GET"],
    ["/api/failover", "GET", "POST"],
    ["/api/failover", "PUT", "POST"],
  ] as const) {
    const answer = await ask(path, { method });
    assert.deepEqual([answer.status, answer.headers.allow], [405, allow], `${method} ${path}`);
  }
  const socket = connect(port, "127.0.0.1");
  t.after(() => socket.destroy());
  socket.write("GARBAGE\r\n\r\n");
  assert.match(
    await new Promise<string>((resolve) => socket.once("data", (chunk: Buffer) => resolve(chunk.toString()))),
    /^HTTP\/1\.1 400 /,
  );
});

test("health, readiness and metrics are answered on the console's port too", async (t) => {
  const { ask, kit } = await world(t);
  assert.deepEqual([(await ask("/healthz")).status, (await ask("/healthz")).text], [200, '{"status":"alive"}']);
  assert.equal((await ask("/readyz")).status, 200);
  kit.ready("bus", false, "NATS is out of reach", { required: false });
  const degraded = await ask("/readyz");
  assert.deepEqual([degraded.status, degraded.json["status"]], [200, "degraded"]);
  kit.ready("bus", false, "gone for good");
  assert.equal((await ask("/readyz")).status, 503);
  assert.equal((await ask("/metrics")).status, 200);
});

test("a browser that goes away leaves nothing behind, and the others go on", async (t) => {
  const { url, port, moved } = await world(t);
  const socket = connect(port, "127.0.0.1");
  socket.write(`GET /api/events HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\n\r\n`);
  await new Promise((resolve) => socket.once("data", resolve));
  const other = await watch(t, url);
  await other.until(({ event }) => event === "hello");
  socket.resetAndDestroy();
  await moved("secondary");
  await other.until(({ event, data }) => event === "item" && data["type"] === "failover.executed");
});
