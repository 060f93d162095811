import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { request as httpRequest, type IncomingHttpHeaders } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, type FollowOptions, memoryBroker, RefusedError } from "@mcp-failover/bus";
import { memorySeams } from "@mcp-failover/bus/internal";
import { type Event, healthReport, makeEvent, type RequestOf, type StatusView } from "@mcp-failover/contracts";
import { consoleTokenFile } from "@mcp-failover/service-kit";
import { testKit } from "@mcp-failover/service-kit/testing";
import { patientMs, tempDir } from "@mcp-failover/testkit";
import { failuresMax, sessionMs, windowMs } from "../src/access.ts";
import { startConsole } from "../src/wiring.ts";

type Command = RequestOf<"command.failover">;
interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  readonly json: { error?: { code: string; message: string } } & Record<string, unknown>;
}

const token = "the-token-of-those-who-may-act";

interface WorldOptions {
  readonly hosts?: string;
  /** The secret MCPF_CONSOLE_TOKEN; null: there is none. */
  readonly secret?: string | null;
  readonly credentialsDir?: string;
}

async function world(t: TestContext, { hosts = "", secret = token, credentialsDir }: WorldOptions = {}) {
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
  let aheadMs = 0;
  const kit = testKit({
    service: "console",
    bus,
    config: { MCPF_CONSOLE_HOST: "127.0.0.1", MCPF_CONSOLE_PORT: 0, MCPF_CONSOLE_HOSTS: hosts, MCPF_CREDENTIALS_DIR: credentialsDir },
    secrets: secret === null ? {} : { MCPF_CONSOLE_TOKEN: secret },
    nowMs: () => Date.now() + aheadMs,
  });
  let url = "";
  const logged: string[] = [];
  const info = (details: { url?: string }, message: string): void => {
    logged.push(`${message} ${JSON.stringify(details)}`);
    url = details.url ?? url;
  };
  let followed: FollowOptions | undefined;
  const follow: Bus["follow"] = (stream, options, handler) => {
    followed = options;
    return bus.follow(stream, options, handler);
  };
  const listened = {
    ...bus,
    follow,
    get status() {
      return bus.status;
    },
  };
  const running = await startConsole({
    ...kit,
    bus: listened,
    log: { info, warn: info, error: info, debug: info } as unknown as typeof kit.log,
  });
  t.after(async () => {
    await running.stop?.();
    await bus.close();
    await log.close();
  });
  const { port } = new URL(url);
  const say = async (
    type: "config.applied" | "failover.decided" | "failover.executed" | "incident.changed" | "notify.failed" | "notify.sent",
    keys: string[],
    data: object,
  ): Promise<number> => {
    const event = makeEvent({ type, keys, data, id: randomUUID(), service: "cli", instance: "test", timeMs: Date.now() } as never) as Event;
    return (await log.append(event)).seq;
  };
  const timestamp = new Date().toISOString();
  const by = { kind: "service", id: "test" };
  const endpoints = ["primary", "secondary"].map((name, tier) => ({ name, tier, url: `http://127.0.0.1:${tier + 1}/` }));
  const topology = { upstreams: { shop: { kind: "http", endpoints } } };
  const applied = { hash: "h", fileHash: null, timestamp, by, reason: "test", environment: "development", topology };
  const configOf = (version: number) => ({ ...applied, version });
  await say("config.applied", [], configOf(1));
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
  const post = (path: string, body: unknown, headers: Record<string, string>): Promise<Answer> =>
    ask(path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
  /** From a page of the console, by somebody with the token. */
  const failover = (body: unknown, headers: Record<string, string> = {}): Promise<Answer> =>
    post("/api/failover", body, { origin: url, authorization: `Bearer ${token}`, ...headers });
  const signIn = (shown: string, headers: Record<string, string> = {}): Promise<Answer> =>
    post("/api/session", { token: shown }, { origin: url, ...headers });
  const wait = (ms: number): void => {
    aheadMs += ms;
  };
  const refuseWith = (error: RefusedError): void => {
    refuse = error;
  };
  return {
    url,
    port: Number(port),
    kit,
    bus,
    commands,
    logged,
    ask,
    post,
    failover,
    signIn,
    wait,
    moved,
    refuseWith,
    say,
    configOf,
    followed: () => followed,
  };
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
  const until = async (wanted: (one: { event: string; data: Record<string, unknown> }) => boolean, withinMs = 5000) => {
    const endMs = Date.now() + patientMs(withinMs);
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
  for (const path of ["/", "/api/events"]) {
    const head = await ask(path, { method: "HEAD" });
    assert.deepEqual([head.status, head.text], [200, ""], path);
  }
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

test("state and report say why they may not be how things are: NATS is away, the log is not read, or is another one", async (t) => {
  const { url, ask, bus, kit, moved, followed } = await world(t);
  await moved("secondary");
  const stale = async () => [(await ask("/api/status")).json["stale"], (await ask("/api/health")).json["stale"]];
  const browser = await watch(t, url);
  await browser.until(({ event, data }) => event === "hello" && data["stale"] === null && (data["items"] as unknown[]).length === 2);
  assert.deepEqual(await stale(), [null, undefined]);
  kit.ready("reading", false, "nothing is read of AUDIT", { required: false });
  assert.deepEqual(await stale(), Array(2).fill("nothing is read of AUDIT"));
  await browser.until(({ event, data }) => event === "state" && data["stale"] === "nothing is read of AUDIT");
  assert.equal((await ask("/api/health")).json["overall"], "unknown");
  kit.ready("reading", true, "", { required: false });
  followed()?.onAnotherLog?.();
  assert.match(String((await stale())[0]), /^the log is another one/);
  assert.deepEqual(((await ask("/api/status")).json["status"] as StatusView).upstreams, []);
  await browser.until(({ event, data }) => event === "hello" && (data["items"] as unknown[]).length === 0);
  followed()?.onCaughtUp?.();
  assert.deepEqual(await stale(), [null, undefined]);
  memorySeams(bus).cut();
  assert.deepEqual(await stale(), Array(2).fill("NATS is out of reach"));
});

test("a configuration of a newer version, which this console cannot read, is said instead of the one before being called live", async (t) => {
  const { ask, say, configOf } = await world(t);
  await say("config.applied", [], { ...configOf(2), topology: { upstreams: { shop: { kind: "http", newer: true, endpoints: [] } } } });
  assert.match(String((await ask("/api/status")).json["stale"]), /^version 2 of the configuration .* shows version 1 \(update it\)$/);
  assert.equal((await ask("/api/health")).json["overall"], "unknown");
  await say("config.applied", [], configOf(3));
  assert.equal((await ask("/api/status")).json["stale"], null);
});

test("the live list says what an incident is and which id acknowledges it, and to whom what was told", async (t) => {
  const { url, say } = await world(t);
  const nowMs = Date.now();
  const incident = {
    ...{ id: "upstream-shop-7", dedupKey: "upstream:shop", upstream: "shop", severity: "page", status: "open" },
    ...{ title: "shop has no healthy endpoint to go to", causes: [], openedAtMs: nowMs, changedAtMs: nowMs },
    ...{ notifyAtMs: null, notified: [], acknowledgedBy: null },
  };
  await say("incident.changed", [incident.id], incident);
  const told = { notificationId: "n", channel: "pager", incidentId: incident.id, kind: "opened", attempt: 1, error: "", willRetry: false };
  await say("notify.sent", ["pager"], { ...told, timestamp: new Date(nowMs).toISOString() });
  const browser = await watch(t, url);
  const hello = await browser.until(({ event }) => event === "hello");
  assert.deepEqual(
    (hello["items"] as { text: string }[]).slice(-2).map(({ text }) => text),
    ["open · shop has no healthy endpoint to go to · upstream-shop-7", "pager · opened · upstream-shop-7"],
  );
});

test("what one event says at length is cut short in the live list, for every browser and for the memory", async (t) => {
  const { url, say } = await world(t);
  const told = { notificationId: "n", channel: "pager", incidentId: "i", kind: "opened", attempt: 1, willRetry: false };
  await say("notify.failed", ["pager"], { ...told, timestamp: new Date().toISOString(), error: "x".repeat(900_000) });
  const browser = await watch(t, url);
  const hello = await browser.until(({ event }) => event === "hello");
  const text = (hello["items"] as { text: string }[]).at(-1)?.text ?? "";
  assert.deepEqual([text.length, text.at(-1)], [1001, "…"]);
});

test("a page hears from the console within five seconds although nothing is said, and a hold that has ended meanwhile is gone from it", async (t) => {
  const { url, say, wait } = await world(t);
  const browser = await watch(t, url);
  const heldIn = (data: Record<string, unknown>) => (data["status"] as StatusView | undefined)?.upstreams[0]?.held;
  const fixture = JSON.parse(
    await readFile(new URL("../../../packages/contracts/fixtures/v1/failover.decided.json", import.meta.url), "utf8"),
  );
  const held = { by: { kind: "operator", id: "ann" }, reason: "work", sinceMs: Date.now(), untilMs: Date.now() + 60_000 };
  await say("failover.decided", ["shop"], { ...fixture.data, service: "shop", state: { ...fixture.data.state, held } });
  await browser.until(({ event, data }) => event === "state" && heldIn(data)?.by === "ann");
  wait(60_000);
  await browser.until(({ event, data }) => event === "state" && heldIn(data) === null && data["seq"] === 2, 10_000);
  await browser.until(({ event }) => event === "beat", 10_000);
});

test("a browser that reads slowly gets the newest state of a fleet of any size, and is not sent all that lay between", async (t) => {
  const { port, say, configOf } = await world(t);
  const upstreams = Object.fromEntries(
    Array.from({ length: 5000 }, (_, index) => [
      `shop-${index}`,
      { kind: "http", endpoints: [{ name: "a", tier: 0, url: "http://127.0.0.1:1/" }] },
    ]),
  );
  const applied = (version: number) => ({ ...configOf(version), topology: { upstreams } });
  await say("config.applied", [], applied(2));
  const socket = connect(port, "127.0.0.1");
  t.after(() => socket.destroy());
  let closed = false;
  socket.once("close", () => {
    closed = true;
  });
  socket.pause();
  socket.write(`GET /api/events HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\n\r\n`);
  for (let version = 3; version < 13; version += 1) {
    await say("config.applied", [], applied(version));
    await sleep(300);
  }
  let text = "";
  socket.on("data", (chunk: Buffer) => {
    text += chunk.toString("latin1");
  });
  socket.resume();
  const endMs = Date.now() + patientMs(10_000);
  while (!text.includes('"seq":12,') && Date.now() < endMs) await sleep(20);
  assert.ok(text.includes('"seq":12,'), `the newest state never came: ${text.length} bytes did`);
  assert.equal(closed, false);
  const states = [...text.matchAll(/event: (?:state|hello)/g)].length;
  assert.ok(states < 8, `${states} states`);
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

const body = { upstream: "shop", reason };
/** What a browser sends back of what it was given. */
const cookieIn = ({ headers }: Answer): string => headers["set-cookie"]?.[0]?.split(";")[0] ?? assert.fail("no cookie");

test("nobody acts without the token: none is 401 with what to do, a wrong one is 401, and nothing is asked", async (t) => {
  const { post, failover, commands, logged, url } = await world(t);
  const without = await post("/api/failover", body, { origin: url });
  assert.deepEqual([without.status, without.json.error?.code], [401, "token_missing"]);
  assert.match(without.json.error?.message ?? "", /Authorization: Bearer.*console\.token.*MCPF_CONSOLE_TOKEN/);
  assert.equal(without.headers["www-authenticate"], 'Bearer realm="mcp-failover console"');
  for (const wrong of [`${token}x`, token.slice(1), token.toUpperCase(), "null"]) {
    const answer = await failover(body, { authorization: `Bearer ${wrong}` });
    assert.deepEqual([answer.status, answer.json.error?.code], [401, "token_wrong"], wrong);
    assert.match(answer.json.error?.message ?? "", /console\.token/);
  }
  for (const other of [`Basic ${btoa(`:${token}`)}`, token, "Bearer", ""])
    assert.equal((await failover(body, { authorization: other })).json.error?.code, "token_missing", other);
  assert.equal((await post("/api/failover?token=x", { ...body, token }, { origin: url })).status, 401);
  assert.deepEqual(commands, []);
  assert.equal((await post("/api/failover", body, { authorization: `bearer ${token}` })).status, 200, "a script without an origin");
  assert.equal(commands.length, 1);
  assert.ok(logged.some((line) => line.startsWith("somebody showed a token that is not the console's")));
  assert.ok(!logged.join().includes(token.slice(1)));
});

test("who gives the page the token gets a session in a cookie, which scripts cannot read and which is not the token", async (t) => {
  const { ask, post, signIn, commands, url, port } = await world(t);
  const session = async (cookie: string) => (await ask("/api/session", { headers: { cookie } })).json;
  assert.deepEqual(await session(""), { signedIn: false, closed: null });
  const begun = await signIn(token);
  assert.equal(begun.status, 200);
  const [cookie = ""] = begun.headers["set-cookie"] ?? [];
  assert.match(cookie, new RegExp(`^mcpf-console-${port}=[\\d.\\w-]+; Max-Age=43200; Path=/; HttpOnly; SameSite=Strict$`));
  assert.ok(!`${cookie}${begun.text}`.includes(token));
  assert.deepEqual(await session(cookieIn(begun)), { signedIn: true, closed: null });
  assert.equal((await post("/api/failover", body, { origin: url, cookie: `other=1; ${cookieIn(begun)}` })).status, 200);
  assert.equal(commands.length, 1);
  const wrong = await signIn("nothing-that-anybody-knows");
  assert.deepEqual([wrong.status, wrong.json.error?.code, wrong.headers["set-cookie"]], [401, "token_wrong", undefined]);
  for (const nothing of ["", "   "]) assert.equal((await signIn(nothing)).status, 400);
});

test("a session is taken from a page of the console alone, and a forged one from nobody", async (t) => {
  const { ask, post, signIn, commands, url, port } = await world(t);
  const cookie = cookieIn(await signIn(token));
  for (const origin of ["https://evil.example", `http://127.0.0.1:${port + 1}`, "null"]) {
    assert.deepEqual((await post("/api/failover", body, { origin, cookie })).json.error?.code, "origin_not_allowed", origin);
    assert.deepEqual((await signIn(token, { origin })).json.error?.code, "origin_not_allowed", origin);
  }
  assert.deepEqual((await post("/api/failover", body, { cookie })).json.error?.code, "token_missing", "no browser leaves its origin out");
  const [name = "", value = ""] = cookie.split("=");
  const [expires = "", proof = ""] = value.split(".");
  const other = await world(t);
  const foreign = cookieIn(await other.signIn(token)).split("=")[1] ?? "";
  for (const forged of [
    `${Number(expires) + 1}.${proof}`,
    `${expires}.${proof.slice(1)}x`,
    `${expires}.`,
    `.${proof}`,
    token,
    "",
    foreign,
  ]) {
    const headers = { origin: url, cookie: `${name}=${forged}` };
    assert.equal((await post("/api/failover", body, headers)).json.error?.code, "token_missing", forged);
    assert.equal((await ask("/api/session", { headers })).json["signedIn"], false, forged);
  }
  assert.equal((await post("/api/failover", body, { origin: url, cookie: `mcpf-console-1=${value}` })).status, 401, "that of another port");
  assert.deepEqual(commands, []);
});

test("a session behind TLS goes over TLS alone", async (t) => {
  const { signIn } = await world(t, { hosts: "ops.example.com" });
  const begun = await signIn(token, { host: "ops.example.com", origin: "https://ops.example.com" });
  assert.match(begun.headers["set-cookie"]?.[0] ?? "", /^mcpf-console=.*; SameSite=Strict; Secure$/);
});

test("a session ends after twelve hours, and with the token that it was begun with", async (t) => {
  const { path: credentialsDir, remove } = await tempDir();
  t.after(remove);
  const file = join(credentialsDir, consoleTokenFile);
  const [first, second] = ["a".repeat(43), "b".repeat(43)];
  await writeFile(file, `${first}\n`);
  const { post, signIn, wait, url } = await world(t, { secret: null, credentialsDir });
  const acts = async (cookie: string): Promise<number> => (await post("/api/failover", body, { origin: url, cookie })).status;
  const early = cookieIn(await signIn(first));
  wait(sessionMs - 60_000);
  assert.equal(await acts(early), 200);
  const late = cookieIn(await signIn(first));
  wait(60_000);
  assert.deepEqual([await acts(early), await acts(late)], [401, 200]);
  await writeFile(file, `${second}\n${first}\n`);
  assert.deepEqual([await acts(late), (await signIn(second)).status], [200, 200], "a new token cuts nobody off");
  await writeFile(file, `${second}\n`);
  assert.deepEqual([await acts(late), (await signIn(first)).status], [401, 401], "the one before is retired");
});

test("without a token the console shows everything and does nothing, says what to set, and acts once there is one", async (t) => {
  const { path: credentialsDir, remove } = await tempDir();
  t.after(remove);
  const { ask, post, signIn, failover, commands, logged, url } = await world(t, { secret: null, credentialsDir });
  const answers = [await failover(body), await post("/api/failover", body, { origin: url }), await signIn(token)];
  for (const { status, json } of answers) {
    assert.deepEqual([status, json.error?.code], [503, "no_token"]);
    assert.match(json.error?.message ?? "", /npm run dev:credentials.*MCPF_CONSOLE_TOKEN/);
  }
  const { json } = await ask("/api/session");
  assert.deepEqual([json["signedIn"], json["closed"]], [false, answers[0]?.json.error?.message]);
  for (const path of ["/", "/api/status", "/api/health", "/readyz"]) assert.equal((await ask(path)).status, 200, path);
  assert.ok(logged.some((line) => line.startsWith("nobody can act in the console")));
  const file = join(credentialsDir, consoleTokenFile);
  await mkdir(file);
  assert.match((await failover(body)).json.error?.message ?? "", /console\.token cannot be read \(EISDIR\).*so it only shows/);
  await rm(file, { recursive: true });
  await writeFile(file, "short\n");
  const invalid = await failover(body, { authorization: "Bearer short" });
  assert.deepEqual([invalid.status, invalid.json.error?.code], [503, "no_token"]);
  assert.ok(!invalid.text.includes('"short"'));
  assert.deepEqual(commands, []);
  await writeFile(file, `${token}\n`);
  assert.equal((await failover(body)).status, 200);
});

test("who showed ten wrong tokens waits for a minute, by whatever way, and whoever has a session goes on meanwhile", async (t) => {
  const { post, failover, signIn, wait, commands, url } = await world(t);
  const cookie = cookieIn(await signIn(token));
  for (let count = 0; count < failuresMax; count += 1) {
    const wrong = `wrong-${count}`;
    assert.equal((await (count % 2 === 0 ? signIn(wrong) : failover(body, { authorization: `Bearer ${wrong}` }))).status, 401);
  }
  for (const answer of [await signIn(token), await failover(body), await signIn("wrong")]) {
    assert.deepEqual([answer.status, answer.json.error?.code], [429, "too_many_tries"]);
    const seconds = Number(answer.headers["retry-after"]);
    assert.ok(seconds > 50 && seconds <= windowMs / 1000, String(seconds));
    assert.match(answer.json.error?.message ?? "", /try again in \d+ s/);
  }
  assert.deepEqual(commands, []);
  assert.equal((await post("/api/failover", body, { origin: url, cookie })).status, 200);
  wait(windowMs);
  assert.equal((await failover(body)).status, 200);
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
    `POST /api/failover HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\ncontent-type: application/json\r\nauthorization: Bearer ${token}\r\ncontent-length: 1000000000\r\n\r\n{`,
  );
  const words = await new Promise<string>((resolve) => socket.once("data", (chunk: Buffer) => resolve(chunk.toString())));
  assert.match(words, /^HTTP\/1\.1 413 /);
  const startMs = Date.now();
  await new Promise((resolve) => socket.once("close", resolve));
  assert.ok(Date.now() - startMs < patientMs(5000), "what never ends is not waited for");
  assert.deepEqual(commands, []);
});

test("only the console's own host names are answered, whatever the path", async (t) => {
  const { ask, failover, commands, port } = await world(t, { hosts: "ops.example.com, Console.Internal" });
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
    ["/api/session", "DELETE", "GET, POST"],
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
