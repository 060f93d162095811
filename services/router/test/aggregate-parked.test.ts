import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, test } from "node:test";
import { listenToEnd } from "../src/aggregate/parked.ts";
import { LocalResponse } from "../src/bridge/local-exchange.ts";
import { Ending } from "../src/ending.ts";
import { initializeBody, type Posted, post, toolCall, until } from "./support/clients.ts";
import { fakeControl } from "./support/fake-control.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";
import { controlOf } from "./support/several.ts";

const waitMs = 30_000;

/** What a GET for the rest of the call gets: progress with a new event id, nothing, no stream, one that stays open, or the answer. */
type Piece = "progress" | "nothing" | "refused" | "open" | "answer";

/** A server that parks its calls: it closes the stream after an event id, and gives what comes then piece by piece, a stream each. */
class ParkingServer {
  readonly #pieces: readonly Piece[];
  readonly #http: Server;
  #call: { readonly id: unknown; readonly token: unknown } = { id: null, token: null };
  calls = 0;
  gets = 0;
  /** Open streams whose reader has left. */
  left = 0;

  constructor(pieces: readonly Piece[]) {
    this.#pieces = pieces;
    this.#http = createServer((request, response) => {
      this.#serve(request, response).catch(() => response.destroy());
    });
  }
  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#http.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(this.#http.address() as AddressInfo).port}/mcp`;
  }
  async kill(): Promise<void> {
    this.#http.closeAllConnections();
    await new Promise((resolve) => this.#http.close(resolve));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = "";
    for await (const chunk of request) body += String(chunk);
    if (request.method === "DELETE") return void response.writeHead(200).end();
    if (request.method === "GET") return this.#more(request, response);
    const { id, method, params } = JSON.parse(body) as { id?: unknown; method: string; params?: Record<string, unknown> };
    if (id === undefined) return void response.writeHead(202).end();
    if (method === "initialize") {
      const result = { protocolVersion: params?.["protocolVersion"], capabilities: { tools: {} }, serverInfo: { name: "p", version: "1" } };
      response.writeHead(200, { "content-type": "application/json", "mcp-session-id": "parking" });
      return void response.end(JSON.stringify({ jsonrpc: "2.0", id, result }));
    }
    this.calls += 1;
    this.#call = { id, token: (params?.["_meta"] as Record<string, unknown> | undefined)?.["progressToken"] };
    response.writeHead(200, { "content-type": "text/event-stream" }).end("retry: 10\nid: 0\ndata: \n\n");
  }

  #more(request: IncomingMessage, response: ServerResponse): void {
    if (request.headers["last-event-id"] === undefined) return void response.writeHead(405).end();
    const piece = this.#pieces[this.gets] ?? this.#pieces.at(-1);
    this.gets += 1;
    if (piece === "refused") return void response.writeHead(405).end();
    response.writeHead(200, { "content-type": "text/event-stream" });
    const { id, token } = this.#call;
    const params = { progressToken: token, progress: this.gets };
    const said = { jsonrpc: "2.0", method: "notifications/progress", params };
    const answer = { jsonrpc: "2.0", id, result: { content: [{ type: "text", text: "done" }] } };
    if (piece === "progress") response.end(`id: ${this.gets}\ndata: ${JSON.stringify(said)}\n\n`);
    else if (piece === "answer") response.end(`id: ${this.gets}\ndata: ${JSON.stringify(answer)}\n\n`);
    else if (piece === "nothing") response.end();
    else {
      response.flushHeaders();
      response.once("close", () => {
        this.left += 1;
      });
    }
  }
}

describe("a call to /mcp whose upstream parks it", () => {
  let server: ParkingServer;
  let router: TestRouter;

  afterEach(async () => {
    await router.close(0);
    await server.kill();
    assert.deepEqual(router.problems, []);
  });

  const begin = async (pieces: readonly Piece[], protocolVersion = "2025-11-25"): Promise<Record<string, string>> => {
    server = new ParkingServer(pieces);
    const control = controlOf({ p: fakeControl([{ name: "only", url: await server.start() }]) });
    router = await startTestRouter(control, { limits: { awayMsMax: 1000 } });
    const begun = await post(`${router.url}/mcp`, { ...initializeBody, params: { ...initializeBody.params, protocolVersion } });
    return { "mcp-session-id": begun.headers.get("mcp-session-id") ?? "" };
  };
  const call = (session: Record<string, string>): Promise<Posted> => post(`${router.url}/mcp`, toolCall(5, "p__poll"), session);

  for (const version of ["2025-11-25", "2025-06-18"]) {
    for (const between of ["progress", "nothing"] as const) {
      test(`gets its answer after six more streams with ${between} (${version})`, async () => {
        const pieces: Piece[] = ["progress", ...Array.from({ length: 5 }, () => between), "answer"];
        const answer = await call(await begin(pieces, version));
        assert.match(answer.text, /"done"/);
        assert.doesNotMatch(answer.text, /outcome_unknown/);
        assert.deepEqual([server.calls, server.gets], [1, 7]);
      });
    }
  }

  test("ends as one that may have run, where the upstream gives no more of it", async () => {
    const answer = await call(await begin(["progress", "refused"]));
    const last = JSON.parse(
      answer.text
        .trim()
        .split("\n")
        .at(-1)
        ?.replace(/^data: /, "") ?? "{}",
    ) as Posted["body"];
    assert.equal(last.error?.data?.["code"], "outcome_unknown");
    assert.equal(server.calls, 1);
  });

  for (const rest of ["open", "nothing"] as const) {
    test(`R10: has its answer by the deadline that the client names, where the upstream never gives one (${rest})`, async () => {
      const answer = await call({ ...(await begin([rest])), "mcpf-timeout-ms": "1000" });
      assert.equal(answer.body.error?.data?.["code"], "outcome_unknown", answer.text);
      assert.equal(server.calls, 1);
    });
  }

  test("is given up when the upstream has said nothing of it for too long, and not while it says anything", async () => {
    await begin(["nothing"]);
    const parked = (): LocalResponse => LocalResponse.whole(200, { "content-type": "text/event-stream" }, "id: 1\nretry: 1\ndata: \n\n");
    const progress = (): Buffer =>
      Buffer.from(`data: ${JSON.stringify({ jsonrpc: "2.0", method: "notifications/progress", params: {} })}\n\n`);
    let heard = 0;
    let left = 0;
    const listening = listenToEnd(
      parked(),
      {
        upstream: "p",
        id: 5,
        listen: () => {
          heard += 1;
          return true;
        },
        waited: new Ending(),
        silentMsMax: 400,
      },
      async (_lastEventId, signal) => {
        const open = new LocalResponse(200, { "content-type": "text/event-stream" });
        const saying = setInterval(() => {
          if (heard < 20) open.push(progress());
        }, 50);
        signal.addEventListener("abort", () => {
          left += 1;
          clearInterval(saying);
          open.cancel("nobody waits");
        });
        return open;
      },
    );
    await assert.rejects(listening, /may have run/);
    assert.deepEqual([heard, left], [20, 1]);
  });

  for (const [version, who] of [
    ["2025-06-18", "cannot come back for it"],
    ["2025-11-25", "does not come back for it in time"],
  ] as const)
    test(`is fetched no more when its client has left and ${who} (${version})`, async () => {
      const session = await begin(["open"], version);
      const abort = new AbortController();
      const asked = fetch(`${router.url}/mcp`, {
        method: "POST",
        headers: { "content-type": "application/json", accept: "application/json, text/event-stream", ...session },
        body: JSON.stringify(toolCall(5, "p__poll")),
        signal: abort.signal,
      }).catch(() => null);
      await until(() => server.gets === 1, waitMs);
      await new Promise((resolve) => setTimeout(resolve, 200));
      abort.abort();
      const leftAtMs = performance.now();
      await asked;
      await until(() => server.left === 1, waitMs);
      if (version === "2025-11-25") assert.ok(performance.now() - leftAtMs > 800, "it may come back at first");
    });
});
