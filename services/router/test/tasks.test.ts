import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";
import { type Bus, connectBus, memoryBroker } from "@mcp-failover/bus";
import { buckets } from "@mcp-failover/contracts";
import { patientMs, startNats } from "@mcp-failover/testkit";
import { sharedBucket } from "../src/mcp/shared-bucket.ts";
import { createTaskBook } from "../src/mcp/task-book.ts";
import { openSession, post, toolCall, until } from "./support/clients.ts";
import { type FakeControl, fakeControl } from "./support/fake-control.ts";
import { type ListServer, startListServer } from "./support/list-server.ts";
import { startTestRouter, type TestRouter } from "./support/router.ts";

const plain = { type: "object", properties: {} };

describe("R17: a task that another router process saw begin", () => {
  let a: ListServer;
  let b: ListServer;
  let control: FakeControl;
  let bus: Bus;
  let isReachable: boolean;
  let first: TestRouter;
  let second: TestRouter;
  const startRouter = (): Promise<TestRouter> => {
    const bucket = (): Promise<Awaited<ReturnType<Bus["bucket"]>>> => bus.bucket("router-sessions", {});
    const shared = sharedBucket({
      bucket,
      reachable: () => isReachable,
      timeoutMs: 5000,
      onTrouble: (error) => assert.fail(String(error)),
    });
    return startTestRouter(control, { tasks: createTaskBook(shared) });
  };
  beforeEach(async () => {
    isReachable = true;
    a = await startListServer("a", { job: plain });
    b = await startListServer("b", { job: plain });
    control = fakeControl([a, b]);
    bus = await memoryBroker().connect();
    [first, second] = [await startRouter(), await startRouter()];
  });
  afterEach(async () => {
    for (const router of [first, second]) await router.close(0);
    for (const server of [a, b]) await server.kill();
    await bus.close();
    assert.deepEqual([...first.problems, ...second.problems], []);
  });
  const say = (router: TestRouter, method: string, params: Readonly<Record<string, unknown>>) => {
    const _meta = {
      "io.modelcontextprotocol/protocolVersion": "2026-07-28",
      "io.modelcontextprotocol/clientInfo": { name: "agent", version: "1" },
      "io.modelcontextprotocol/clientCapabilities": { extensions: { "io.modelcontextprotocol/tasks": {} } },
    };
    const named = { "mcp-protocol-version": "2026-07-28", "mcp-method": method, "mcp-name": String(params["name"] ?? params["taskId"]) };
    return post(router.mcpUrl, { jsonrpc: "2.0", id: 1, method, params: { ...params, _meta } }, named);
  };
  const ofTasks = (server: ListServer): string[] => server.seen.filter((method) => method.startsWith("tasks/"));

  for (const mode of ["active_standby", "pool"] as const) {
    test(`is asked for, given input and cancelled where it runs (${mode}), and what is asked once its endpoint is gone gets an error`, async () => {
      control.view = { ...control.view, mode };
      await say(first, "tools/call", { name: "job", arguments: {} });
      control.move("b");
      const asked = ["tasks/get", "tasks/result", "tasks/update", "tasks/cancel"];
      for (const method of asked) assert.equal((await say(second, method, { taskId: "task-of-a" })).body.error, undefined, method);
      assert.deepEqual([ofTasks(a), ofTasks(b)], [asked, []]);
      await a.kill();
      const lost = await say(second, "tasks/get", { taskId: "task-of-a" });
      assert.deepEqual([lost.body.error?.code, lost.body.error?.data?.["code"]], [1001, "outcome_unknown"]);
      assert.match(String(lost.body.error?.message), /runs on a/);
      assert.deepEqual([ofTasks(b), b.seen.includes("tools/call")], [[], false]);
    });
  }

  for (const tool of ["job", "streamed_job"])
    test(`K2: is given to its client once, and only when the other processes can find it (${tool})`, async () => {
      let isWritten = false;
      let written = (): void => undefined;
      const asked = Promise.withResolvers<void>();
      const bucket = await bus.bucket("router-sessions", {});
      const put: typeof bucket.put = async (key, value) => {
        asked.resolve();
        await new Promise<void>((resolve) => {
          written = resolve;
        });
        isWritten = true;
        return bucket.put(key, value);
      };
      const slow = { ...bucket, put, get: (key: string) => bucket.get(key) };
      const third = await startTestRouter(control, { tasks: createTaskBook(async (work) => ({ value: await work(slow) })) });
      try {
        const made = say(third, "tools/call", { name: tool, arguments: {} }).then((answer) => ({ answer, isWritten }));
        await asked.promise;
        // Time enough for an answer that waits for nothing.
        await say(first, "tools/call", { name: "other", arguments: {} });
        written();
        const { answer, ...known } = await made;
        assert.deepEqual([answer.body.result?.["taskId"], known.isWritten], ["task-of-a", true]);
        // The broken connection is no reason to begin another one.
        assert.equal([...a.seen, ...b.seen].filter((method) => method === "tools/call").length, 2);
      } finally {
        written();
        await third.close(0);
      }
    });

  test("is found within a session, and after every process was started anew", async () => {
    const session = await openSession(first.mcpUrl);
    await post(first.mcpUrl, toolCall(1, "job"), { "mcp-session-id": session });
    control.move("b");
    await first.close(0);
    await second.close(0);
    [first, second] = [await startRouter(), await startRouter()];
    const get = { jsonrpc: "2.0", id: 2, method: "tasks/get", params: { taskId: "task-of-a" } };
    assert.equal((await post(second.mcpUrl, get, { "mcp-session-id": session })).body.result?.["by"], "a");
    assert.deepEqual(ofTasks(b), []);
  });

  test("is answered by no endpoint of a pool that may not run it, and by none where the others cannot be asked", async () => {
    await say(first, "tools/call", { name: "job", arguments: {} });
    isReachable = false;
    const unasked = await say(second, "tasks/get", { taskId: "task-of-a" });
    assert.deepEqual([unasked.body.error?.code, unasked.body.error?.data?.["retriable"]], [1001, true]);
    assert.equal((await say(first, "tasks/get", { taskId: "task-of-a" })).body.result?.["by"], "a", "who saw it begin needs no bus");
    isReachable = true;
    control.view = { ...control.view, mode: "pool" };
    const unknown = await say(second, "tasks/get", { taskId: "task-of-nobody" });
    assert.deepEqual([unknown.body.error?.code, unknown.body.error?.data?.["retriable"]], [1001, false]);
    assert.deepEqual([ofTasks(a), ofTasks(b)], [["tasks/get"], []]);
  });
});

test("R17: processes that have only a nats-server in common find each other's tasks in it, of their own agent alone", async (t) => {
  const server = await startNats();
  const buses = ["one", "two"].map((instance) => connectBus({ servers: server.url, name: "router", instance }));
  t.after(async () => {
    for (const bus of buses) await bus.close();
    await server.stop();
  });
  await until(() => buses.every(({ status }) => status.kind === "connected"));
  const troubles: unknown[] = [];
  const [one, two] = buses.map((bus) =>
    createTaskBook(
      sharedBucket({
        bucket: () => bus.bucket("router-sessions", buckets["router-sessions"]),
        reachable: () => true,
        timeoutMs: patientMs(5000),
        onTrouble: (error) => troubles.push(error),
      }),
    ),
  );
  const taskId = "a task > with . any * letters";
  await one?.learn("up", "agent", "a", { task: { taskId } });
  assert.deepEqual(await two?.find("up", "agent", taskId), { kind: "runs_on", endpoint: "a" });
  assert.deepEqual(await two?.find("up", "another agent", taskId), { kind: "unknown" });
  assert.deepEqual(troubles, []);
});
