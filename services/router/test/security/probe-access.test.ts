import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";
import { RefusedRequest } from "../../src/errors.ts";
import { checkProber } from "../../src/stdio/probe-access.ts";
import { fakeControl } from "../support/fake-control.ts";
import { startTestRouter, type TestRouter } from "../support/router.ts";

const token = "a-token-of-probers-that-is-long-enough";
const before = "the-token-that-was-before-it-and-is-not-retired";

describe("a look at a process of the router", () => {
  let router: TestRouter;
  afterEach(async () => {
    await router.close(0);
    assert.deepEqual(router.problems, []);
  });
  const asked: string[] = [];
  const start = async (tokens?: () => readonly string[]): Promise<void> => {
    asked.length = 0;
    router = await startTestRouter(fakeControl([{ name: "a", url: "stdio://a/x" }]), {
      ...(tokens === undefined ? {} : { probeTokens: tokens }),
      health: async (path) => {
        asked.push(path);
        return { status: 200, type: "application/json", body: "{}" };
      },
    });
  };
  const look = (authorization?: string, path = "/probe/fake/a"): Promise<Response> =>
    fetch(new URL(path, router.url), { headers: authorization === undefined ? {} : { authorization } });

  test("is made for who shows the token and for nobody else, and no process is asked before", async () => {
    await start(() => [token, before]);
    const wrong = [
      undefined,
      "",
      token,
      `Bearer ${token}x`,
      `Bearer ${token.slice(1)}`,
      "Bearer",
      `Basic ${token}`,
      `Bearer ${token} ${before}`,
    ];
    for (const authorization of wrong) {
      const answer = await look(authorization);
      assert.equal(answer.status, 401, String(authorization));
      assert.match(answer.headers.get("www-authenticate") ?? "", /^Bearer /);
      const text = await answer.text();
      assert.match(text, /MCPF_PROBE_TOKEN/);
      for (const secret of [token, before]) assert.ok(!text.includes(secret));
      assert.equal((await look(authorization, "/probe/nobody/x")).status, 401, "nor is it told what there is");
    }
    assert.deepEqual(asked, []);
    for (const good of [`Bearer ${token}`, `bearer ${before}`]) assert.equal((await look(good)).status, 200);
    assert.deepEqual(asked, ["/probe/fake/a", "/probe/fake/a"]);
    for (const open of ["/healthz", "/metrics"])
      assert.equal((await look(undefined, open)).status, 200, `${open} is nothing of a prober's`);
  });

  test("is made for a new token at once, and for the one before until it is retired", async () => {
    let tokens = [before];
    await start(() => tokens);
    assert.equal((await look(`Bearer ${token}`)).status, 401);
    tokens = [token, before];
    for (const good of [token, before]) assert.equal((await look(`Bearer ${good}`)).status, 200);
    tokens = [token];
    assert.equal((await look(`Bearer ${before}`)).status, 401);
  });

  test("is made without a token for this machine alone, where none is configured", async () => {
    await start();
    assert.equal((await look()).status, 200);
    for (const address of ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
      assert.doesNotThrow(() => checkProber(undefined, address, []));
    for (const address of ["10.0.0.7", "::ffff:10.0.0.7", "172.18.0.4", "fe80::1", "2001:db8::1", "1127.0.0.1", "", undefined]) {
      const refused = (error: unknown): boolean =>
        error instanceof RefusedRequest && error.status === 403 && /MCPF_PROBE_TOKEN/.test(error.message);
      assert.throws(() => checkProber(undefined, address, []), refused, String(address));
      assert.throws(() => checkProber(`Bearer ${token}`, address, []), refused, "whatever it shows");
    }
    assert.throws(() => checkProber(undefined, "127.0.0.1", [token]), RefusedRequest, "where there is a token this machine shows it too");
  });
});
