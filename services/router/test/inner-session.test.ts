import assert from "node:assert/strict";
import { test } from "node:test";
import { InnerSession } from "../src/aggregate/inner-session.ts";
import type { LocalCall } from "../src/aggregate/local-request.ts";
import { LocalResponse } from "../src/bridge/local-exchange.ts";
import { anybody } from "../src/identity/principal.ts";

type Asked = Parameters<LocalCall>[0];

/** A session with an upstream whose face inside the router is the test's, and a directory of one entry. */
function played(answer: (asked: { method: string; session: string | null; id: unknown }) => Promise<LocalResponse | null>) {
  const heard: string[] = [];
  const told: string[] = [];
  let begun = 0;
  const directory: { id: string | null } = { id: null };
  const whole = (status: number, body: object, headers: Record<string, string> = {}): LocalResponse =>
    LocalResponse.whole(status, { "content-type": "application/json", ...headers }, JSON.stringify(body));
  const call: LocalCall = async ({ method, headers, body }: Asked) => {
    const message = body === null ? {} : (JSON.parse(body.toString("utf8")) as { id?: unknown; method?: string });
    const session = headers["mcp-session-id"] ?? null;
    const asked = { method: message.method ?? method, session, id: message.id };
    heard.push(`${asked.method} ${session ?? "-"}`);
    const own = await answer(asked);
    if (own !== null) return own;
    if (asked.method === "initialize") {
      begun += 1;
      return whole(200, { jsonrpc: "2.0", id: message.id, result: {} }, { "mcp-session-id": `s${begun}` });
    }
    return message.id === undefined ? whole(202, {}) : whole(200, { jsonrpc: "2.0", id: message.id, result: { session } });
  };
  const inner = new InnerSession("u", {
    call,
    principal: () => anybody,
    clientParams: {},
    passed: {},
    known: async () => directory.id,
    learned: async (_upstream, id, lost) => {
      if ((directory.id ?? lost) === lost) directory.id = id;
      return directory.id;
    },
    heard: (_upstream, _message, value) => told.push(String(value["method"])),
    wanted: () => false,
    level: async () => undefined,
    subscriptions: async () => [],
  });
  const ask = (id: number): Promise<void> => inner.request({ jsonrpc: "2.0", id, method: "tools/call" }, {}, () => true);
  const count = (what: string): number => heard.filter((one) => one.startsWith(`${what} `)).length;
  return { ask, heard, told, count, directory, whole };
}

test("I1: requests that learn one after another that their session is lost begin one further session between them", async () => {
  let isLost = false;
  const slow = Promise.withResolvers<void>();
  const { ask, count, heard, whole } = played(async ({ method, session, id }) => {
    if (method !== "tools/call" || session !== "s1" || !isLost) return null;
    if (id === 3) await slow.promise;
    return whole(404, {});
  });
  await ask(1);
  isLost = true;
  const late = ask(3);
  await ask(2);
  slow.resolve();
  await late;
  assert.equal(count("initialize"), 2, heard.join(", "));
});

test("I1: a session that is lost and could not be begun again is not taken up once more as that of another process", async () => {
  let isLost = false;
  let isAway = false;
  const { ask, heard, whole } = played(async ({ method, session }) => {
    if (method === "initialize" && isAway)
      return whole(503, { jsonrpc: "2.0", id: "mcpa-initialize", error: { code: 1002, message: "away" } });
    return isLost && session === "s1" ? whole(404, {}) : null;
  });
  await ask(1);
  isLost = true;
  isAway = true;
  await assert.rejects(ask(2), /away/);
  heard.length = 0;
  isAway = false;
  await ask(3);
  assert.deepEqual(heard, ["initialize -", "notifications/initialized s2", "tools/call s2"]);
});
