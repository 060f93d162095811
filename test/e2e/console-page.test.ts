import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { after, type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { memoryBroker, RefusedError } from "@mcp-failover/bus";
import { type Event, makeEvent, type RequestOf } from "@mcp-failover/contracts";
import { testKit } from "@mcp-failover/service-kit/testing";
import { patientMs } from "@mcp-failover/testkit";
import { type Browser, chromium, type Page } from "playwright-core";
import { startConsole } from "../../services/console/src/wiring.ts";

// The console itself, on the bus in memory, in a real browser: what a person sees when something on the way to them fails.
const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => existsSync(path));
const skip = executablePath === undefined && "no Chromium is installed (Debian: apt-get install chromium)";
const token = "the-token-of-those-who-may-act";
const elsewhere = "console.internal";
let chrome: Promise<Browser> | null = null;
after(async () => (await chrome)?.close());

async function openPage(t: TestContext, url: string, { ownClock = false } = {}): Promise<Page> {
  chrome ??= chromium.launch({
    executablePath: executablePath as string,
    args: ["--no-sandbox", `--host-resolver-rules=MAP ${elsewhere} 127.0.0.1`],
  });
  const context = await (await chrome).newContext();
  t.after(() => context.close());
  const page = await context.newPage();
  if (ownClock) await page.clock.install();
  await page.goto(url);
  return page;
}

type Command = RequestOf<"command.failover">;

async function startWorld(
  t: TestContext,
  { upstreams = ["shop"], endpoints = ["primary", "secondary", "tertiary"], port = 0, empty = false } = {},
) {
  const broker = memoryBroker();
  const log = broker.connect();
  const bus = broker.connect();
  const commands: Command[] = [];
  let refusal: RefusedError | null = null;
  const failover = async (command: Command) => {
    commands.push(command);
    if (refusal !== null) throw refusal;
    return { epoch: 1 };
  };
  const described = { name: "failover-controller", instance: "fc-1", version: "0.1.0", description: "" };
  const serve = () => log.serve({ ...described, handlers: { "command.failover": failover } });
  let served = await serve();
  const leave = (): Promise<void> => served.stop();
  const comeBack = async (): Promise<void> => {
    served = await serve();
  };
  const kit = testKit({
    service: "console",
    bus,
    config: { MCPF_CONSOLE_HOST: "127.0.0.1", MCPF_CONSOLE_PORT: port, MCPF_CONSOLE_HOSTS: elsewhere, MCPF_CREDENTIALS_DIR: undefined },
    secrets: { MCPF_CONSOLE_TOKEN: token },
  });
  let url = "";
  const info = (details: { url?: string }): void => {
    url = details.url ?? url;
  };
  const running = await startConsole({
    ...kit,
    log: { ...kit.log, info, warn: info, error: info, debug: info } as unknown as typeof kit.log,
  });
  let stopped = false;
  const stop = async (): Promise<void> => {
    if (stopped) return;
    stopped = true;
    await running.stop?.();
    await bus.close();
    await log.close();
  };
  t.after(stop);
  const say = async (type: string, keys: string[], data: object): Promise<void> => {
    const event = makeEvent({ type, keys, data, id: randomUUID(), service: "cli", instance: "test", timeMs: Date.now() } as never) as Event;
    await log.append(event);
  };
  const timestamp = new Date().toISOString();
  const by = { kind: "service", id: "test" };
  const certificate = {
    decider: "d",
    rule: "r",
    policyHash: "h",
    nowMs: 1,
    folded: { AUDIT: null, SIGNALS: null },
    input: {},
    rejected: [],
  };
  const topology = {
    upstreams: Object.fromEntries(
      upstreams.map((name) => [
        name,
        {
          kind: "http",
          endpoints: endpoints.map((endpoint, tier) => ({ name: endpoint, tier, url: `http://127.0.0.1:${tier + 1}/${name}` })),
        },
      ]),
    ),
  };
  const config = { version: 1, hash: "h", fileHash: null, timestamp, by, reason: "test", environment: "development", topology };
  if (!empty) await say("config.applied", [], config);
  const health = (service: string, endpoint: string, status: string): Promise<void> => {
    const counts = { okRun: 1, failRun: 0, changesAtMs: [], heldDownUntilMs: null, lastObservedAtMs: null };
    const state = { status, score: 1, sinceMs: 1, ...counts };
    const told = {
      responseTime: 3,
      error: null,
      timestamp,
      critical: true,
      previousStatus: null,
      reason: "probed",
      prober: "p",
      votes: [],
    };
    return say("health.changed", [service, endpoint], { service, endpoint, status, ...told, state, certificate });
  };
  const breaker = (service: string, endpoint: string, status: string): Promise<void> => {
    const state = { status, generation: 1, sinceMs: 1, openUntilMs: null, openings: 1, permits: [] };
    const told = { previousStatus: "closed", timestamp, reason: "an operator's", by };
    return say("breaker.changed", [service, endpoint], { service, endpoint, status, ...told, state, certificate });
  };
  const refuseWith = (error: RefusedError | null): void => {
    refusal = error;
  };
  return { url, port: Number(new URL(url).port), commands, say, health, breaker, refuseWith, leave, comeBack, stop };
}

const shows = (page: Page, id: string, text: string | RegExp, timeout = 10_000): Promise<void> =>
  page.locator(`#${id}`, { hasText: text }).waitFor({ timeout: patientMs(timeout) });
const served = "1 upstreams, all served by a healthy endpoint";

async function fillForm(page: Page, upstream: string, to: string, reason: string): Promise<void> {
  await page.locator(`article[data-upstream="${upstream}"] button`).click();
  await page.locator("#to").selectOption(to);
  await page.locator("#reason").fill(reason);
}
/** Answers of sign-ins come so much later. */
const slowSignIn = (page: Page, ms: number) =>
  page.route("**/api/session", async (route) => {
    if (route.request().method() === "POST") await sleep(ms);
    await route.continue();
  });
const ordersOf = (commands: readonly Command[]) => commands.map(({ upstream, to, reason }) => [upstream, to, reason]);

test("a log in which nothing is configured is not called healthy, nor is an endpoint whose breaker lets nothing through", {
  skip,
}, async (t) => {
  const nothing = await startWorld(t, { empty: true });
  await shows(await openPage(t, nothing.url), "summary", /^no upstreams are known$/);
  const { url, health, breaker } = await startWorld(t);
  const page = await openPage(t, url);
  await health("shop", "primary", "healthy");
  await shows(page, "summary", served);
  await breaker("shop", "primary", "forced_open");
  await shows(page, "summary", "not well: shop");
  await breaker("shop", "primary", "disabled");
  await shows(page, "summary", served);
});

test("a page whose connection has gone silent says so within a quarter of a minute, and shows the truth once it is heard again", {
  skip,
}, async (t) => {
  const { port, health } = await startWorld(t);
  await health("shop", "primary", "healthy");
  let frozen = false;
  const sockets = new Set<Socket>();
  const proxy = createServer((near) => {
    const far = connect(port, "127.0.0.1");
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(from);
      from.on("data", (chunk) => frozen || to.write(chunk));
      from.on("error", () => to.destroy());
      from.on("close", () => to.destroy());
    }
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    proxy.close();
    for (const socket of sockets) socket.destroy();
  });
  const page = await openPage(t, `http://127.0.0.1:${(proxy.address() as AddressInfo).port}/`, { ownClock: true });
  await shows(page, "connection", /^live$/);
  await page.clock.fastForward(11_000);
  await shows(page, "connection", /^live$/);
  frozen = true;
  await health("shop", "primary", "unhealthy");
  await page.clock.fastForward(13_000);
  await shows(page, "connection", "says nothing any more: showing what was last known");
  await shows(page, "summary", /^not known now; at .*: 1 upstreams, all served/);
  frozen = false;
  await page.clock.fastForward(13_000);
  await shows(page, "summary", /^not well: shop$/);
  await shows(page, "connection", /^live$/);
});

test("a page that a proxy has answered with an error while the console was away finds it again by itself", { skip }, async (t) => {
  const before = await startWorld(t);
  await before.health("shop", "primary", "healthy");
  const page = await openPage(t, before.url);
  await shows(page, "summary", served);
  await before.stop();
  const refused = createHttpServer((_request, response) => void response.writeHead(502).end("<html>"));
  await new Promise<void>((resolve) => refused.listen(before.port, "127.0.0.1", resolve));
  await shows(page, "connection", "out of reach: showing what was last known");
  await sleep(2500);
  refused.closeAllConnections();
  await new Promise((resolve) => refused.close(resolve));
  const now = await startWorld(t, { port: before.port });
  await now.health("shop", "primary", "unhealthy");
  await shows(page, "summary", /^not well: shop$/);
});

test("an order that was cancelled while its sign-in was under way is not given, neither by itself nor with the words of the next form", {
  skip,
}, async (t) => {
  const { url, commands } = await startWorld(t, { upstreams: ["shop", "stock"] });
  const page = await openPage(t, url);
  await slowSignIn(page, 800);
  await fillForm(page, "shop", "secondary", "the first form");
  await page.locator("#token").fill(token);
  await page.locator("#confirm").click();
  await page.locator("#cancel").click();
  await fillForm(page, "stock", "tertiary", "the second form");
  await sleep(1500);
  assert.deepEqual(ordersOf(commands), []);
  assert.equal(await page.locator("#dialog").isVisible(), true, "the form that is open stays open");
  if (await page.locator("#token").isVisible()) await page.locator("#token").fill(token);
  await page.locator("#confirm").click();
  await page.locator("#dialog").waitFor({ state: "hidden" });
  assert.deepEqual(ordersOf(commands), [["stock", "tertiary", "the second form"]]);
});

test("another order after a refusal is another one, and the same one asked again where no answer came is the same", { skip }, async (t) => {
  const { url, commands, refuseWith } = await startWorld(t);
  const page = await openPage(t, url);
  await fillForm(page, "shop", "secondary", "it is slow");
  await page.locator("#token").fill(token);
  refuseWith(new RefusedError("not_proven", "secondary is not proven healthy"));
  await page.locator("#confirm").click();
  await shows(page, "dialog-error", "secondary is not proven healthy");
  await page.locator("#confirm").click();
  await page.locator("#confirm:not([disabled])").waitFor();
  refuseWith(null);
  let lost = 0;
  await page.route("**/api/failover", async (route) => {
    await route.fetch();
    lost += 1;
    if (lost < 2) return route.abort();
    return route.fulfill({ status: 503, body: "<html>from a proxy</html>" });
  });
  await page.locator("#to").selectOption("tertiary");
  for (const words of ["did not answer", "answered 503"]) {
    await page.locator("#confirm").click();
    await shows(page, "dialog-error", new RegExp(`${words}.*not known.*done once at most`));
  }
  assert.deepEqual(
    commands.map(({ to }) => to),
    ["secondary", "secondary", "tertiary", "tertiary"],
  );
  const ids = commands.map(({ commandId }) => commandId);
  assert.equal(new Set(ids.slice(0, 3)).size, 3, "each was answered, or is another one");
  assert.equal(ids[3], ids[2], "nobody knows of the third whether it was done");
});

test("an order that reached nobody is told as not done, and one of which nobody knows is not, whatever the tries after it came to", {
  skip,
}, async (t) => {
  const { url, commands, leave, comeBack } = await startWorld(t);
  const page = await openPage(t, url);
  await leave();
  await fillForm(page, "shop", "secondary", "it is slow");
  await page.locator("#token").fill(token);
  await page.locator("#confirm").click();
  await shows(page, "dialog-error", "failover-controller");
  await page.locator("#confirm:not([disabled])").waitFor();
  assert.doesNotMatch((await page.locator("#dialog-error").textContent()) ?? "", /not known/);
  await comeBack();
  let lost = 0;
  await page.route("**/api/failover", async (route) => {
    if (lost > 0) return route.continue();
    lost += 1;
    await route.fetch();
    return route.abort();
  });
  await page.locator("#confirm").click();
  await shows(page, "dialog-error", /did not answer.*not known.*done once at most/);
  await leave();
  await page.locator("#confirm").click();
  await shows(page, "dialog-error", /failover-controller.*not known.*done once at most/);
  await comeBack();
  await page.locator("#confirm").click();
  await page.locator("#dialog").waitFor({ state: "hidden" });
  assert.equal(commands.length, 2);
  assert.equal(commands[1]?.commandId, commands[0]?.commandId, "it is one order");
});

test("an order says which event its form had seen, so that it undoes nothing that another operator did meanwhile", { skip }, async (t) => {
  const { url, commands, health } = await startWorld(t);
  const page = await openPage(t, url);
  await shows(page, "summary", "not well: shop");
  await fillForm(page, "shop", "secondary", "it is slow");
  await health("shop", "primary", "healthy");
  await shows(page, "summary", served);
  await page.locator("#token").fill(token);
  await page.locator("#confirm").click();
  await page.locator("#dialog").waitFor({ state: "hidden" });
  assert.deepEqual(
    commands.map(({ givenAtSeq }) => givenAtSeq),
    [1],
  );
});

test("the page acts under a name of the console's own without TLS, too, where browsers offer less", { skip }, async (t) => {
  const { port, commands } = await startWorld(t);
  const page = await openPage(t, `http://${elsewhere}:${port}/`);
  assert.equal(await page.evaluate("isSecureContext"), false);
  await fillForm(page, "shop", "secondary", "from another machine");
  await page.locator("#token").fill(token);
  await page.locator("#confirm").click();
  await page.locator("#dialog").waitFor({ state: "hidden" });
  assert.deepEqual(ordersOf(commands), [["shop", "secondary", "from another machine"]]);
});

test("pages that nobody looks at keep none from opening, and are live again as soon as somebody does", { skip }, async (t) => {
  const { url, health } = await startWorld(t);
  const first = await openPage(t, url);
  await shows(first, "connection", /^live$/);
  const context = first.context();
  const look = (page: Page, isLooking: boolean) =>
    page.evaluate(`Object.defineProperty(document, "hidden", { value: ${!isLooking}, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"))`);
  await look(first, false);
  for (let count = 2; count <= 8; count += 1) {
    const page = await context.newPage();
    await page.goto(url, { timeout: patientMs(10_000) });
    await shows(page, "connection", /^live$/);
    await look(page, false);
    await shows(page, "connection", /^nobody looks at this page: showing what was last known$/);
  }
  await health("shop", "primary", "healthy");
  await look(first, true);
  await shows(first, "summary", served);
  await shows(first, "connection", /^live$/);
});

test("an event leaves the keyboard's focus where it is, and a press of the mouse that it falls into counts", { skip }, async (t) => {
  const { url, health } = await startWorld(t, { upstreams: ["shop", "stock"] });
  const page = await openPage(t, url);
  const button = page.locator('article[data-upstream="shop"] button');
  await button.focus();
  await health("shop", "primary", "healthy");
  await page.locator('article[data-upstream="shop"] .healthy').waitFor();
  assert.equal(await page.evaluate("document.activeElement.getAttribute('aria-label')"), "Fail over shop…");
  const { x, y } = (await button.boundingBox()) ?? assert.fail("no button");
  await page.mouse.move(x + 4, y + 4);
  await page.mouse.down();
  await health("shop", "primary", "degraded");
  await page.locator('article[data-upstream="shop"] .degraded').waitFor();
  await page.mouse.up();
  await page.locator("#dialog").waitFor({ timeout: patientMs(5000) });
  assert.equal(await page.evaluate("document.activeElement.id"), "reason");
});

test("what names and reasons hold is text on the page, and an upstream with one endpoint offers no failover", { skip }, async (t) => {
  const { url, say } = await startWorld(t, { endpoints: ["primary"] });
  const page = await openPage(t, url);
  const bad = '<img src=x onerror="document.title=1"><script>document.title=2</script>';
  await say("notify.failed", ["pager"], {
    notificationId: "n",
    channel: "pager",
    incidentId: bad,
    kind: "opened",
    attempt: 1,
    timestamp: new Date().toISOString(),
    error: bad,
    willRetry: false,
  });
  await shows(page, "events", bad);
  assert.equal(await page.locator("#events img, #events script").count(), 0);
  assert.equal(await page.title(), "mcp-failover");
  assert.equal(await page.locator('article[data-upstream="shop"] button').isDisabled(), true);
});

test("on a phone nothing is wider than the screen, the form and its buttons neither, and why an endpoint is as it is can be read", {
  skip,
}, async (t) => {
  const { url } = await startWorld(t, { upstreams: ["shop", `an-upstream-of-a-long-name-${"x".repeat(30)}`] });
  const page = await openPage(t, url);
  await page.locator("article tbody tr").first().waitFor();
  for (const [width, scheme] of [
    [390, "light"],
    [320, "dark"],
  ] as const) {
    await page.setViewportSize({ width, height: 844 });
    await page.emulateMedia({ colorScheme: scheme });
    const button = page.getByRole("button", { name: "Fail over shop…" });
    await button.focus();
    await page.keyboard.press("Enter");
    await page.locator("#dialog[open]").waitFor();
    const all = '[...document.querySelectorAll("article *, #dialog, #dialog button, header *")]';
    const widest = await page.evaluate<number>(`Math.max(...${all}.map((e) => e.getBoundingClientRect().right))`);
    assert.ok(widest <= width, `${widest} of ${width} px`);
    assert.ok((await page.evaluate<number>("document.documentElement.scrollWidth")) <= width, `the page scrolls sideways at ${width} px`);
    const why = await page.locator("tbody td:last-child").first().boundingBox();
    assert.ok((why?.width ?? 0) > width / 2, "the last column has a row of its own");
    await page.keyboard.press("Escape");
    await page.locator("#dialog:not([open])").waitFor({ state: "hidden" });
  }
});

test("a thousand upstreams, one of which changes ten times a second, leave the page free for whoever uses it", { skip }, async (t) => {
  const upstreams = Array.from({ length: 1000 }, (_, index) => `shop-${index}`);
  const { url, health } = await startWorld(t, { upstreams });
  for (const name of upstreams) for (const endpoint of ["primary", "secondary"]) await health(name, endpoint, "healthy");
  const page = await openPage(t, url);
  await shows(page, "summary", "1000 upstreams, all served by a healthy endpoint", 60_000);
  let going = true;
  const changing = (async () => {
    for (let count = 0; going; count += 1) {
      await health("shop-0", "primary", count % 2 === 0 ? "degraded" : "healthy");
      await sleep(100);
    }
  })();
  const busy = await page.evaluate(async () => {
    const untilMs = performance.now() + 5000;
    const waits: number[] = [];
    for (let lastMs = performance.now(); lastMs < untilMs; ) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      waits.push(performance.now() - lastMs);
      lastMs = performance.now();
    }
    return waits.filter((ms) => ms > 50).reduce((sum, ms) => sum + ms, 0) / 5000;
  });
  going = false;
  await changing;
  assert.ok(busy < 0.5, `its thread was taken for ${Math.round(busy * 100)} % of the time`);
});
