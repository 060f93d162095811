import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { BusError } from "@mcp-failover/bus";
import { requestFixOf } from "@mcp-failover/contracts";
import { healthAnswer, type Kit } from "@mcp-failover/service-kit";
import { z } from "zod";
import { type Access, type Refusal, sessionMs } from "./access.ts";
import type { ConsoleConfig } from "./config.ts";
import { type Feed, feedHeaders } from "./feed.ts";

const bodyBytesMax = 16 * 1024;
const commandTimeoutMs = 15_000;
/** A request has to be here whole within this time; answers may take as long as they want. */
const requestMsMax = 15_000;
const connectionsMax = 1000;
/** What a client goes on sending after it was told that it is too much is thrown away for so long. */
const drainMs = 1000;

const pages: Readonly<Record<string, { file: string; type: string }>> = {
  "/": { file: "index.html", type: "text/html; charset=utf-8" },
  "/app.js": { file: "app.js", type: "text/javascript; charset=utf-8" },
  "/icon.svg": { file: "icon.svg", type: "image/svg+xml" },
  "/style.css": { file: "style.css", type: "text/css; charset=utf-8" },
};

const failoverBody = z.strictObject({
  upstream: z.string().min(1).max(64),
  to: z.string().min(1).max(64).nullable().default(null),
  reason: z.string().trim().min(1, "say why: a change needs a reason").max(1000),
  force: z.boolean().default(false),
  /** Made by the page once an order, so that a double click, or asking again where no answer came, acts once. */
  commandId: z.string().min(8).max(64).optional(),
  /** The last event that whoever asks had seen: nothing that an operator did after it is undone. Without it, the last one there is. */
  givenAtSeq: z.number().int().nonnegative().optional(),
});

const sessionBody = z.strictObject({ token: z.string().trim().min(1, "give the console's token").max(512) });

/** What each path of the API takes; HEAD as GET. All others take GET. */
const methods: Readonly<Record<string, readonly string[]>> = { "/api/failover": ["POST"], "/api/session": ["GET", "POST"] };

interface Parts {
  readonly feed: Feed;
  readonly access: Access;
  readonly view: () => unknown;
  /** The reference's health report. */
  readonly report: () => unknown;
}

/** The console's web server. Only answers to its own host names, so that no other site's page can act through a browser (DNS rebinding). */
export async function serveConsole(kit: Kit<ConsoleConfig>, parts: Parts): Promise<{ url: string; close(): Promise<void> }> {
  const hosts = new Set([
    "localhost",
    "127.0.0.1",
    "[::1]",
    ...kit.config.MCPF_CONSOLE_HOSTS.split(",")
      .map((host) => host.trim().toLowerCase())
      .filter(Boolean),
  ]);
  const server = createServer((request, response) => {
    answer(kit, parts, hosts, request, response).catch((error: unknown) => {
      kit.log.error({ err: error, path: pathOf(request) }, "a request of the console failed");
      if (!response.headersSent) sendJson(response, 500, { error: { code: "internal", message: "the console failed; its log says why" } });
      else response.destroy();
    });
  });
  server.requestTimeout = requestMsMax;
  server.maxConnections = connectionsMax;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(kit.config.MCPF_CONSOLE_PORT, kit.config.MCPF_CONSOLE_HOST, resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${kit.config.MCPF_CONSOLE_HOST}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function answer(
  kit: Kit<ConsoleConfig>,
  parts: Parts,
  hosts: ReadonlySet<string>,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const path = pathOf(request);
  if (!hosts.has((request.headers.host ?? "").replace(/:\d+$/, "").toLowerCase())) {
    return sendJson(response, 403, {
      error: { code: "host_not_allowed", message: "this host name is not the console's; add it to MCPF_CONSOLE_HOSTS" },
    });
  }
  const wanted = (Object.hasOwn(methods, path) ? methods[path] : undefined) ?? ["GET"];
  const isWanted = wanted.includes(request.method === "HEAD" ? "GET" : (request.method ?? ""));
  const refuseMethod = (): void => {
    response.setHeader("allow", wanted.join(", "));
    sendJson(response, 405, { error: { code: "method_not_allowed", message: `use ${wanted.join(" or ")}` } });
  };
  const health = await healthAnswer(path, kit.readiness, kit.registry);
  if (health) return void response.writeHead(health.status, { "content-type": health.type }).end(health.body);
  const page = Object.hasOwn(pages, path) ? pages[path] : undefined;
  if (page) {
    if (!isWanted) return refuseMethod();
    const text = await readFile(new URL(`page/${page.file}`, import.meta.url));
    response.writeHead(200, {
      "content-type": page.type,
      "cache-control": "no-cache",
      "content-security-policy": "default-src 'self'; frame-ancestors 'none'",
      "x-content-type-options": "nosniff",
    });
    return void response.end(text);
  }
  switch (path) {
    case "/api/status":
      return isWanted ? sendJson(response, 200, parts.view()) : refuseMethod();
    case "/api/health":
      return isWanted ? sendJson(response, 200, parts.report()) : refuseMethod();
    case "/api/events":
      if (!isWanted) return refuseMethod();
      // The stream has no end to wait for.
      if (request.method === "HEAD") return void response.writeHead(200, feedHeaders).end();
      if (!parts.feed.join(response)) {
        sendJson(response, 503, { error: { code: "too_many_watchers", message: "too many browsers watch already; close one" } });
      }
      return;
    case "/api/failover":
      return isWanted ? failover(kit, parts.access, request, response) : refuseMethod();
    case "/api/session":
      if (!isWanted) return refuseMethod();
      if (request.method === "POST") return beginSession(parts.access, request, response);
      return sendJson(response, 200, { signedIn: parts.access.isOpen(sessionOf(request)), closed: parts.access.closed()?.message ?? null });
    default:
      sendJson(response, 404, { error: { code: "not_found", message: "try / or /api/status" } });
  }
}

async function failover(kit: Kit<ConsoleConfig>, access: Access, request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (!isOwnJson(request)) return refuseOrigin(response);
  const { authorization, origin } = request.headers;
  // A browser names its origin in every POST. Who names none has no cookie of ours to show.
  const session = origin === undefined ? undefined : sessionOf(request);
  const refusal = access.check({ authorization, session, from: addressOf(request) });
  if (refusal !== null) return refuse(response, refusal);
  const body = await readBodyAs(failoverBody, request, response);
  if (body === null) return;
  const { upstream, to, reason, force, commandId, givenAtSeq } = body;
  try {
    const seenSeq = givenAtSeq ?? (await kit.bus.info("AUDIT")).lastSeq;
    const by = { kind: "operator", id: "console" } as const;
    const reply = await kit.bus.request(
      "command.failover",
      { commandId: commandId ?? randomUUID(), by, reason, givenAtSeq: seenSeq, upstream, to, force, dryRun: false },
      { timeoutMs: commandTimeoutMs },
    );
    return sendJson(response, reply.ok ? 200 : 409, reply);
  } catch (error) {
    if (!(error instanceof BusError)) throw error;
    return sendJson(response, 503, { error: { code: error.code, message: error.message } });
  }
}

/** A token for a cookie, so that the page need not keep the token. */
async function beginSession(access: Access, request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (!isOwnJson(request)) return refuseOrigin(response);
  const body = await readBodyAs(sessionBody, request, response);
  if (body === null) return;
  const begun = access.begin(body.token, addressOf(request));
  if ("status" in begun) return refuse(response, begun);
  const { origin } = request.headers;
  const secure = origin !== undefined && new URL(origin).protocol === "https:" ? "; Secure" : "";
  const lasts = `Max-Age=${sessionMs / 1000}; Path=/; HttpOnly; SameSite=Strict${secure}`;
  response.setHeader("set-cookie", `${cookieOf(request)}=${begun.session}; ${lasts}`);
  sendJson(response, 200, { signedIn: true, expiresAt: new Date(begun.expiresAtMs).toISOString() });
}

/** A form of another site can send a POST, but neither this content type nor our own origin. A sandboxed page's origin is "null". */
function isOwnJson({ headers }: IncomingMessage): boolean {
  const { origin, host } = headers;
  const isOwn = origin === undefined || (URL.canParse(origin) && new URL(origin).host === host?.toLowerCase());
  return isOwn && headers["content-type"]?.split(";")[0]?.trim().toLowerCase() === "application/json";
}

function refuseOrigin(response: ServerResponse): void {
  sendJson(response, 403, { error: { code: "origin_not_allowed", message: "send JSON from the console's own page" } });
}

function refuse(response: ServerResponse, { status, code, message, headers }: Refusal): void {
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  sendJson(response, status, { error: { code, message } });
}

/** Browsers keep one jar for all ports of a host: two consoles must not take each other's session for theirs. */
function cookieOf({ headers }: IncomingMessage): string {
  const port = /:(\d+)$/.exec(headers.host ?? "")?.[1];
  return port === undefined ? "mcpf-console" : `mcpf-console-${port}`;
}

function sessionOf(request: IncomingMessage): string | undefined {
  const name = `${cookieOf(request)}=`;
  const cookies = (request.headers.cookie ?? "").split(";").map((cookie) => cookie.trim());
  return cookies.find((cookie) => cookie.startsWith(name))?.slice(name.length);
}

function addressOf(request: IncomingMessage): string {
  return request.socket.remoteAddress ?? "";
}

/** Without the query: people put there what no log should have. */
function pathOf(request: IncomingMessage): string {
  return (request.url ?? "/").split("?")[0] ?? "/";
}

/** The body by its schema; null: it was refused, and the answer has been given. */
async function readBodyAs<S extends z.ZodType>(schema: S, request: IncomingMessage, response: ServerResponse): Promise<z.infer<S> | null> {
  const text = await readBody(request);
  if (text === "gone") response.destroy();
  else if (text === "too_large") {
    // Closing at once would reset the connection under the answer.
    setTimeout(() => {
      if (!request.complete) request.destroy();
    }, drainMs).unref();
    sendJson(response, 413, { error: { code: "too_large", message: `at most ${bodyBytesMax} bytes` } });
  } else {
    const body = schema.safeParse(parseJson(text.body), { error: requestFixOf });
    if (body.success) return body.data;
    const message = body.error.issues.map((issue) => `${issue.path.join(".") || "body"}: ${issue.message}`).join("; ");
    sendJson(response, 400, { error: { code: "bad_request", message } });
  }
  return null;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** The whole body; what is beyond the limit is read and thrown away, so that the sender gets to see the answer. */
function readBody(request: IncomingMessage): Promise<{ readonly body: string } | "too_large" | "gone"> {
  return new Promise((resolve) => {
    let chunks: Buffer[] = [];
    let size = 0;
    if (Number(request.headers["content-length"] ?? 0) > bodyBytesMax) resolve("too_large");
    request.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size <= bodyBytesMax) return void chunks.push(chunk);
      chunks = [];
      resolve("too_large");
    });
    request.once("end", () => resolve({ body: Buffer.concat(chunks).toString("utf8") }));
    request.once("error", () => resolve("gone"));
    request.once("close", () => resolve("gone"));
  });
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" }).end(JSON.stringify(body));
}
