import assert from "node:assert/strict";
import { createHash, X509Certificate } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { request as httpsRequest, type RequestOptions } from "node:https";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { connect } from "node:tls";
import { type Topology, topology } from "@mcp-failover/contracts";
import { eventually, patientMs, selfSigned, tempDir } from "@mcp-failover/testkit";
import { createKeySets } from "../../src/identity/key-sets.ts";
import { createTokenGuard } from "../../src/identity/token-guard.ts";
import { namesOf } from "../../src/tls/peer.ts";
import { watchServerTls } from "../../src/tls/server-tls.ts";
import { initializeBody, toolCall } from "../support/clients.ts";
import { type FakeControl, fakeControl } from "../support/fake-control.ts";
import { startMcpServer, type TestMcpServer } from "../support/mcp-server.ts";
import { startTestRouter } from "../support/router.ts";

const stop: (() => Promise<unknown>)[] = [];
let a: TestMcpServer;
let control: FakeControl;
let nowMs = 0;
beforeEach(async () => {
  a = await startMcpServer("a", { json: true });
  stop.push(a.kill);
  control = fakeControl([{ name: "a", url: a.url }]);
  nowMs = Date.now();
});
afterEach(async () => {
  for (const end of stop.splice(0).reverse()) await end();
});

const made = (name: string) => selfSigned({ untilMs: Date.now() + 86_400_000, name });
const certificates = {
  server: made("localhost"),
  planner: made("planner.example"),
  clerk: made("clerk.example"),
  other: made("other.example"),
};
type Client = keyof typeof certificates;
const fingerprintOf = (cert: string): string => createHash("sha256").update(new X509Certificate(cert).raw).digest("hex");

/** A router whose port asks clients for a certificate, each of which is its own authority. Returns how to ask it, and to configure it anew. */
async function routerFor(agents: object) {
  const dir = await tempDir();
  stop.push(() => dir.remove());
  const put = async (name: string, text: string): Promise<string> => {
    await writeFile(join(dir.path, name), text);
    return join(dir.path, name);
  };
  const parsed = (given: object): Topology =>
    topology.parse({ upstreams: { fake: { kind: "mcp", endpoints: [{ name: "a", url: a.url, tier: 0 }] } }, agents: given });
  let now = parsed(agents);
  const guard = createTokenGuard({
    configuration: () => now,
    secrets: { resolve: String },
    keys: createKeySets({ monotonicMs: () => nowMs, store: null, onTrouble: () => undefined }),
    nowMs: () => nowMs,
    onProblem: () => undefined,
  });
  const tls = await watchServerTls(
    {
      certFile: await put("cert.pem", certificates.server.cert),
      keyFile: await put("key.pem", certificates.server.key),
      clientCaFile: await put("ca.pem", [certificates.planner, certificates.clerk, certificates.other].map(({ cert }) => cert).join("")),
    },
    () => undefined,
  );
  const router = await startTestRouter(control, { guard, tls });
  stop.push(async () => {
    tls.stop();
    await router.close(0);
    assert.deepEqual(router.problems, []);
  });
  const ask = (client: Client, body: object, headers: Record<string, string> = {}, options: RequestOptions = {}): Promise<Answer> =>
    asked(router.mcpUrl, { ca: certificates.server.cert, ...certificates[client], agent: false, ...options }, body, headers);
  const configure = (given: object): void => {
    now = parsed(given);
  };
  return { router, ask, configure };
}

interface Answer {
  readonly status: number;
  readonly session: string;
  readonly authenticate: string;
  readonly text: string;
}
function asked(url: URL, options: RequestOptions, body: object, headers: Record<string, string>): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const all = { "content-type": "application/json", accept: "application/json, text/event-stream", ...headers };
    const asking = httpsRequest(url, { ...options, method: "POST", headers: all }, (response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => {
        text += chunk.toString();
      });
      response.on("end", () => {
        const { "mcp-session-id": session = "", "www-authenticate": authenticate = "" } = response.headers;
        resolve({ status: response.statusCode ?? 0, session: String(session), authenticate, text });
      });
    });
    asking.on("error", reject);
    asking.end(JSON.stringify(body));
  });
}

test("I5: a client's certificate names its agent, by a name in it or by its whole, and the agent's limits hold", async () => {
  const agents = {
    planner: { certificates: [{ dns: "planner.example" }], allow: { tools: ["whoami"] } },
    clerk: { certificates: [{ sha256: fingerprintOf(certificates.clerk.cert) }] },
  };
  const { ask } = await routerFor(agents);
  for (const client of ["planner", "clerk"] as const) {
    const begun = await ask(client, initializeBody);
    assert.equal(begun.status, 200, begun.text);
    const session = { "mcp-session-id": begun.session };
    assert.match((await ask(client, toolCall(1, "whoami"), session)).text, /"a"/);
    const written = await ask(client, toolCall(2, "write", { key: client }), session);
    assert.equal(written.text.includes("1010"), client === "planner", written.text);
    assert.equal(
      (await ask(client === "planner" ? "clerk" : "planner", toolCall(3, "whoami"), session)).status,
      404,
      "a session is its own agent's",
    );
  }
  assert.deepEqual(a.writes, ["clerk"]);
  assert.deepEqual(new Set(control.calls.flatMap(({ tool, agent }) => (tool === null ? [] : [agent]))), new Set(["planner", "clerk"]));
});

test("I5: one that names nobody, or two agents, lets nobody in; nor does any beside a token that is refused", async () => {
  const agents = {
    planner: { certificates: [{ dns: "planner.example" }], tokens: [{ sha256: createHash("sha256").update("good").digest("hex") }] },
    twin: { certificates: [{ common_name: "clerk.example" }] },
    second: { certificates: [{ dns: "clerk.example" }] },
  };
  const { ask } = await routerFor(agents);
  const before = a.seen.headers.length;
  assert.match((await ask("other", initializeBody)).text, /or a certificate that names an agent/);
  for (const [client, headers] of [
    ["other", {}],
    ["clerk", {}],
    ["planner", { authorization: "Bearer bad" }],
    ["planner", { authorization: "Basic eDp5" }],
  ] as const) {
    const answer = await ask(client, initializeBody, headers);
    assert.equal(answer.status, 401, `${client} ${JSON.stringify(headers)}`);
    assert.match(answer.authenticate, /^Bearer realm="mcp-failover"/);
  }
  assert.equal(a.seen.headers.length, before, "nothing was sent on");
  assert.equal((await ask("other", initializeBody, { authorization: "Bearer good" })).status, 200, "a token is enough by itself");
});

test("I5: it counts on a connection that was resumed, and on an open one only until it expires or is withdrawn", async () => {
  const agents = { planner: { certificates: [{ common_name: "planner.example" }] } };
  const { router, ask, configure } = await routerFor(agents);
  const options = { host: "127.0.0.1", port: router.port, ca: certificates.server.cert, ...certificates.planner };
  const session = await new Promise<Buffer>((resolve, reject) => {
    const socket = connect(options, () => socket.write("GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"));
    socket.on("error", reject);
    socket.once("session", (given: Buffer) => {
      resolve(given);
      socket.destroy();
    });
  });
  const resumed = { ca: certificates.server.cert, agent: false, session } as const;
  const answer = await asked(router.mcpUrl, { ...resumed, ...certificates.planner }, initializeBody, {});
  assert.equal(answer.status, 200, answer.text);

  const headers = { "mcp-session-id": (await ask("planner", initializeBody)).session };
  let ended = false;
  const opened = new Promise<void>((resolve, reject) => {
    const stream = httpsRequest(
      router.mcpUrl,
      { ca: certificates.server.cert, ...certificates.planner, agent: false, headers: { ...headers, accept: "text/event-stream" } },
      (response) => {
        assert.equal(response.statusCode, 200);
        response.resume().on("close", () => {
          ended = true;
        });
        resolve();
      },
    );
    stream.on("error", (error) => {
      ended = true;
      reject(error);
    });
    stream.end();
  });
  await opened;
  configure({ planner: { certificates: [{ common_name: "someone-else.example" }] } });
  assert.equal((await ask("planner", initializeBody)).status, 401);
  await eventually(() => ended, { what: "the stream of who may not come in any more is closed", withinMs: patientMs(5000) });

  configure(agents);
  assert.equal((await ask("planner", initializeBody)).status, 200);
  nowMs += 2 * 86_400_000;
  assert.match((await ask("planner", initializeBody)).authenticate, /has expired/);
});

test("the names of a certificate are read as Node writes them, and none of a text that somebody made to look like several", () => {
  assert.deepEqual(namesOf("DNS:a.example, IP Address:127.0.0.1, URI:spiffe://mesh/a"), [
    ["DNS", "a.example"],
    ["IP Address", "127.0.0.1"],
    ["URI", "spiffe://mesh/a"],
  ]);
  assert.deepEqual(namesOf('URI:"http://x/, DNS:admin.example", DNS:b'), [
    ["URI", "http://x/, DNS:admin.example"],
    ["DNS", "b"],
  ]);
  for (const text of ['DNS:a"b, DNS:c', 'DNS:"a, DNS:c', "DNS", "DNS:a,DNS:b"]) assert.deepEqual(namesOf(text), [], text);
  assert.deepEqual(namesOf(""), []);
});
