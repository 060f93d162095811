import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { type RequestOf, type StatusView, statusLimits } from "@mcp-failover/contracts";
import { type Bus, BusError, memoryBroker, RefusedError, readFleetStatus } from "../src/index.ts";

type Asked = RequestOf<"state.status">["page"];

/** A state-store until the test is over; `answers` are given in turn, the last for ever. */
async function answering(t: TestContext, ...answers: (() => unknown)[]): Promise<{ bus: Bus; asked: Asked[] }> {
  const bus = memoryBroker().connect();
  const asked: Asked[] = [];
  const handler = async ({ page }: RequestOf<"state.status">) => {
    asked.push(page);
    return answers[Math.min(asked.length, answers.length) - 1]?.();
  };
  await bus.serve({ name: "state-store", instance: "s", version: "0.1.0", description: "answers", handlers: { "state.status": handler } });
  t.after(() => bus.close());
  return { bus, asked };
}
const upstream = (name: string) => ({
  name,
  critical: true,
  active: "one",
  epoch: 0,
  since: "2026-06-01T12:00:00.000Z",
  mode: "active_standby" as const,
  held: null,
  endpoints: [],
});
function view(names: readonly string[], more: Partial<StatusView> = {}): StatusView {
  return { upstreams: names.map(upstream), rollback: { system: "mcp", agents: {}, tools: {} }, services: [], ...more };
}
const refused = (code: string) => (error: unknown) => error instanceof RefusedError && error.code === code;

test("pages are joined in the order of the configuration, with what each alone knows, and each page says its own moment", async (t) => {
  const { bus, asked } = await answering(
    t,
    () =>
      view(["a", "c"], {
        rollback: { system: "mcp", agents: { x: "mcp" }, tools: { t: "mcp" } },
        page: { seq: 7, next: "c", places: [2, 0] },
      }),
    () =>
      view([], { rollback: { system: "mcp", agents: { d: "mcp" }, tools: {} }, backupUpToSeq: 5, page: { seq: 5, next: "d", places: [] } }),
    () =>
      view(["e"], {
        rollback: { system: "legacy", agents: {}, tools: { t: "legacy", u: "mcp" } },
        services: [{ name: "router", instances: 2 }],
        page: { seq: 9, next: null, places: [1] },
      }),
  );
  const { status, pages } = await readFleetStatus(bus);
  assert.deepEqual(status, {
    upstreams: ["c", "e", "a"].map(upstream),
    rollback: { system: "legacy", agents: { x: "mcp", d: "mcp" }, tools: { t: "legacy", u: "mcp" } },
    services: [{ name: "router", instances: 2 }],
    backupUpToSeq: 5,
  });
  assert.deepEqual(
    pages.map(({ seq }) => seq),
    [7, 5, 9],
  );
  assert.deepEqual(asked, [{}, { after: "c" }, { after: "d" }]);
});

test("a state-store that knows no pages answers whole, also where another instance of it began", async (t) => {
  const { bus } = await answering(t, () => view(["b", "a"]));
  assert.deepEqual(await readFleetStatus(bus), { status: view(["b", "a"]), pages: [] });
  const mixed = await answering(
    t,
    () => view(["a"], { page: { seq: 7, next: "a", places: [1] } }),
    () => view(["b", "a"]),
  );
  assert.deepEqual(await readFleetStatus(mixed.bus), { status: view(["b", "a"]), pages: [] });
});

test("pages that do not go on, come back to a name, or are none, are refused, and not joined", async (t) => {
  const first = () => view(["a"], { page: { seq: 1, next: "b", places: [0] } });
  const wrong = [
    view(["c"], { page: { seq: 1, next: "b", places: [1] } }),
    view(["a"], { page: { seq: 1, next: null, places: [1] } }),
    view(["d", "c"], { page: { seq: 1, next: null, places: [1, 2] } }),
    view(["c", "d"], { page: { seq: 1, next: "c", places: [1, 2] } }),
    view(["c"], { page: { seq: 1, next: null, places: [] } }),
    "no status",
  ];
  for (const second of wrong) {
    const { bus, asked } = await answering(t, first, () => second);
    await assert.rejects(readFleetStatus(bus), refused("bad_reply"), JSON.stringify(second));
    assert.equal(asked.length, 2);
  }
});

test("reading ends after so many pages, with an error that says so", async (t) => {
  let page = 0;
  const { bus, asked } = await answering(t, () => {
    page += 1;
    return view([], { page: { seq: 1, next: `n${String(page).padStart(6, "0")}`, places: [] } });
  });
  await assert.rejects(readFleetStatus(bus), refused("too_many_pages"));
  assert.equal(asked.length, statusLimits.pagesMax);
});

test("a refusal between two pages is thrown as it was said, and so is silence", async (t) => {
  const first = () => view(["a"], { page: { seq: 1, next: "a", places: [0] } });
  const { bus } = await answering(t, first, () => {
    throw new RefusedError("not_ready", "it is still reading the log", true);
  });
  await assert.rejects(readFleetStatus(bus), (error) => refused("not_ready")(error) && (error as RefusedError).retriable);
  const silent = await answering(t, first, () => new Promise(() => undefined));
  await assert.rejects(readFleetStatus(silent.bus, { timeoutMs: 50 }), (error) => error instanceof BusError && error.code === "timeout");
});
