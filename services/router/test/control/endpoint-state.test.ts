import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultPolicy } from "@mcp-failover/domain";
import { type AttemptEnd, EndpointState } from "../../src/control/endpoint-state.ts";

const policy = defaultPolicy.localBreaker;
const config = { name: "primary", tier: 0, role: "write", weight: 1, url: "http://127.0.0.1:1/mcp" } as ConstructorParameters<
  typeof EndpointState
>[0];
const viewAt = (url: string) => ({ name: "primary", url, role: "write", headers: {} }) as const;
const endpoint = (): EndpointState => new EndpointState(config, viewAt("http://127.0.0.1:1/mcp"), null);
const end = (given: Partial<AttemptEnd>): AttemptEnd => ({ outcome: "ok", code: null, latencyMs: 10, retryAfterMs: null, ...given });

test("a time-out is no sign of life of an endpoint that hangs; whatever else comes of a call is one", () => {
  for (const [code, hears] of [
    ["timeout", false],
    ["reset", true],
    ["http_5xx", true],
    [null, true],
  ] as const) {
    const state = endpoint();
    state.hang(1000, policy);
    state.record(state.acquire(1100), end({ outcome: code === null ? "ok" : "hard", code }), 1200, policy);
    assert.deepEqual([state.hung, state.heardAtMs], hears ? [false, 1200] : [true, null], String(code));
  }
});

test("an endpoint with another address begins anew: nothing of the old one's failures, rest or usual times is held against it", () => {
  const state = endpoint();
  const learn = (): void => {
    for (let call = 0; call < 50; call++) state.learnUsual("tools/call x", 10, 1000);
  };
  for (let call = 0; call < 50; call++) state.record(state.acquire(1000), end({}), 1000, policy);
  learn();
  state.learnElsewhere([0, 0, 50], 1000);
  state.record(state.acquire(1000), end({ outcome: "hard", code: "refused", retryAfterMs: 60_000 }), 1000, policy);
  state.hang(1000, policy);
  const known = () => [
    state.ejected,
    state.hung,
    state.lastFailedAtMs !== null,
    state.heardAtMs !== null,
    state.restMs(1001) !== null,
    state.ewmaMs !== null,
    state.usualP95Ms(1001, 20) !== null,
    state.usualP95MsOf("tools/call x", 1001, 20) !== null,
  ];
  assert.deepEqual(
    known(),
    known().map(() => true),
    "what there is to forget",
  );
  state.reconfigure(config, viewAt("http://127.0.0.1:1/mcp"), null);
  assert.deepEqual(
    known(),
    known().map(() => true),
    "of the same address all is kept",
  );
  state.reconfigure(config, viewAt("http://127.0.0.1:2/mcp"), null);
  assert.deepEqual(
    known(),
    known().map(() => false),
  );
});

test("C3: the usual times of so many tools are kept as may be, and of no more", () => {
  const state = endpoint();
  for (let tool = 0; tool < 500; tool++) for (let call = 0; call < 20; call++) state.learnUsual(`tool ${tool}`, 10, 1000);
  const kept = Array.from({ length: 500 }, (_, tool) => state.usualP95MsOf(`tool ${tool}`, 1001, 20)).filter((ms) => ms !== null);
  assert.equal(kept.length, 200);
});

test("a longer rest that was asked for is not cut short by a later, shorter one", () => {
  const state = endpoint();
  state.record(state.acquire(1000), end({ outcome: "soft", retryAfterMs: 20_000 }), 1000, policy);
  state.record(state.acquire(2000), end({ outcome: "soft", retryAfterMs: 1000 }), 2000, policy);
  assert.equal(state.restMs(2000), 19_000);
});

test("the end of each call is counted once, recorded or given back, so that none stays in flight", () => {
  const state = endpoint();
  const permits = [state.acquire(1000), state.acquire(1000)];
  state.record(permits[0] as ReturnType<EndpointState["acquire"]>, end({}), 1001, policy);
  state.release(permits[1] as ReturnType<EndpointState["acquire"]>);
  assert.equal(state.inFlight, 0);
});
