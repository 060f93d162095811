import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import type { TestContext } from "node:test";
import { type Bus, type MemoryBroker, memoryBroker } from "@mcp-failover/bus";
import { type ChaosFinished, chaosFinished, type Event, type Reply, type RequestInput } from "@mcp-failover/contracts";
import { testKit } from "@mcp-failover/service-kit/testing";
import { startChaosRunner } from "../src/wiring.ts";
import { StackDouble, until } from "./stack-double.ts";

/** Shorter than in production, where a person watches. */
const pace = { callEveryMs: 100, statusEveryMs: 100, settleMs: 1500, afterRevertMs: 200, recordMsMax: 1000 };
const operator = { kind: "operator", id: "ann" } as const;

export async function startRunner(
  t: TestContext,
  broker: MemoryBroker,
  routerUrl: string,
  instance = "chaos-runner-1",
  bus: Bus = broker.connect(),
) {
  const kit = testKit({ service: "chaos-runner", bus, instance, config: { MCPF_ROUTER_URL: routerUrl } });
  const running = await startChaosRunner(kit, pace);
  const served = await bus.serve({
    name: "chaos-runner",
    instance,
    version: "0.1.0",
    description: "",
    handlers: running.handlers ?? {},
  });
  await until(
    () => kit.readiness().status,
    (status) => status === "ready",
  );
  let stopping: Promise<void> | null = null;
  const end = async (): Promise<void> => {
    await running.stop?.();
    await served.stop();
    await bus.close();
  };
  const stop = (): Promise<void> => {
    stopping ??= end();
    return stopping;
  };
  t.after(stop);
  return { bus, stop };
}

/** What happens before the runner has an event stored under a fence; what it throws, the runner gets for an answer. */
type OnFence = (event: Pick<Event, "type">, bus: Bus) => unknown;

function fencing(bus: Bus, onFence: OnFence): Bus {
  return {
    ...bus,
    get status() {
      return bus.status;
    },
    async appendFenced(event, ...rest) {
      await onFence(event, bus);
      return bus.appendFenced(event, ...rest);
    },
  };
}

export async function world(t: TestContext, more: Parameters<StackDouble["start"]>[0] & { onFence?: OnFence } = {}) {
  const broker = memoryBroker();
  const stack = new StackDouble(broker.connect());
  await stack.start(more);
  const bus = broker.connect();
  const runner = await startRunner(t, broker, stack.routerUrl, "chaos-runner-1", more.onFence ? fencing(bus, more.onFence) : bus);
  t.after(() => stack.stop());
  const ask = (body: object, commandId: string = randomUUID()): Promise<Reply> => {
    const command = { commandId, by: operator, reason: "a game day", scenario: "killService", target: "shop", options: {}, ...body };
    return stack.bus.request("command.chaos.run", command as RequestInput<"command.chaos.run">, { timeoutMs: 60_000 });
  };
  const run = async (body: object, commandId?: string): Promise<ChaosFinished> => {
    const reply = await ask(body, commandId);
    if (!reply.ok) assert.fail(`${reply.error.code}: ${reply.error.message}`);
    return chaosFinished.parse(reply.result);
  };
  return { broker, stack, runner, ask, run };
}
export const failedChecks = ({ validation }: ChaosFinished): string[] =>
  validation.checks.filter(({ passed }) => !passed).map(({ name }) => name);
export const codeOf = (reply: Reply): string => (reply.ok ? "ok" : reply.error.code);
