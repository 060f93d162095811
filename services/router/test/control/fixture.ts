import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import { type Bus, type MemoryBroker, memoryBroker } from "@mcp-failover/bus";
import { memorySeams } from "@mcp-failover/bus/internal";
import {
  type BreakerState,
  type DataOf,
  type EventType,
  type HealthState,
  makeEvent,
  type NewEvent,
  parseTopology,
  type RollbackScope,
  type TrafficObserved,
} from "@mcp-failover/contracts";
import { testKit } from "@mcp-failover/service-kit/testing";
import { eventually, tempDir } from "@mcp-failover/testkit";
import { type ControlOptions, createRouterControl, type RunningControl } from "../../src/control/control.ts";
import type { Attempt, AttemptResult, CallControl, CallDescription } from "../../src/control/port.ts";

export const ok: AttemptResult = { outcome: "ok", httpStatus: 200, toolError: false };
export const refused: AttemptResult = { outcome: "hard", code: "refused", executed: "no", message: "connect ECONNREFUSED" };
export const reset: AttemptResult = { outcome: "hard", code: "reset", executed: "unknown", message: "socket hang up" };

/** Two endpoints of an MCP server, with a tool of each kind. */
export const warehouse = `
upstreams:
  warehouse:
    kind: mcp
    trusted: true
    endpoints:
      - { name: primary, url: "http://127.0.0.1:1/mcp", tier: 0 }
      - { name: secondary, url: "http://127.0.0.1:2/mcp", tier: 1 }
    tools:
      get_inventory: { read_only: true }
      set_stock: { idempotent: true }
`;

export interface Fixture {
  readonly broker: MemoryBroker;
  readonly bus: Bus;
  readonly control: RunningControl;
  readonly dataDir: string;
  /** The clock of the control; real time goes on for timers. */
  readonly clock: { nowMs: number };
  /** Every `traffic.observed` that reached the log. */
  readonly traffic: TrafficObserved[];
  cut(): void;
  restore(): void;
  say<T extends EventType>(type: T, keys: readonly string[], data: DataOf<T>): Promise<void>;
  configure(yaml: string): Promise<void>;
  move(upstream: string, to: string, epoch: number, given?: { generation?: number; held?: boolean; from?: string }): Promise<void>;
  health(upstream: string, endpoint: string, given: Partial<HealthState>): Promise<void>;
  breaker(upstream: string, endpoint: string, given: Partial<BreakerState>): Promise<void>;
  rollback(scope: RollbackScope, name: string, mcpPercent: number, epoch: number): Promise<void>;
  /** Another process of the same router, for example after a restart. */
  again(options?: ControlOptions & { cut?: boolean; instance?: string }): Promise<RunningControl>;
}

const certificate = {
  decider: "none",
  rule: "test",
  policyHash: "0",
  nowMs: 0,
  folded: { AUDIT: null, SIGNALS: null },
  input: null,
  rejected: [],
};
const by = { kind: "operator", id: "test" } as const;
const timestamp = "2026-01-01T00:00:00.000Z";

export interface FixtureOptions extends ControlOptions {
  readonly yaml?: string | null;
  readonly secrets?: Record<string, string>;
  readonly cut?: boolean;
  readonly dataDir?: string;
  /** The control's clock stands still but for what the test sets; default: it goes on with real time, and the test may push it. */
  readonly frozen?: boolean;
  /** How far the clock of the router's machine is ahead of the store's. */
  readonly aheadMs?: number;
}

function runningClock(): { nowMs: number } {
  let aheadMs = 0;
  return {
    get nowMs() {
      return Date.now() + aheadMs;
    },
    set nowMs(value) {
      aheadMs = value - Date.now();
    },
  };
}

export async function start(t: TestContext, options: FixtureOptions = {}): Promise<Fixture> {
  const folder = options.dataDir === undefined ? await tempDir("mcpf-control-") : null;
  const dataDir = folder?.path ?? options.dataDir ?? "";
  const clock = options.frozen ? { nowMs: Date.now() } : runningClock();
  const broker = memoryBroker({ nowMs: () => clock.nowMs });
  const writer = broker.connect();
  const stops: (() => Promise<void>)[] = [];
  t.after(async () => {
    for (const stop of stops) await stop();
    await writer.close();
    await folder?.remove();
  });
  let version = 0;
  let serial = 0;
  const say = async <T extends EventType>(type: T, keys: readonly string[], data: DataOf<T>): Promise<void> => {
    serial += 1;
    const event = makeEvent({
      type,
      keys,
      data,
      id: `test-${serial}`,
      service: "cli",
      instance: "test",
      timeMs: clock.nowMs,
    } as NewEvent<T>);
    await writer.append(event);
    // The follower runs in microtasks and timers of the memory bus.
    await settled();
  };
  const configure = async (yaml: string): Promise<void> => {
    const { topology, hash } = parseTopology(yaml, { file: "test.yaml", env: {} });
    version += 1;
    await say("config.applied", [], { version, hash, fileHash: null, timestamp, by, reason: "test", environment: "development", topology });
  };
  const traffic: TrafficObserved[] = [];
  const following = writer.follow("SIGNALS", { from: "new" }, ({ content }) => {
    if (content.kind === "event" && content.event.type === "traffic.observed") traffic.push(content.event.data);
  });
  stops.push(() => following.stop());
  await say("log.started", [], { generation: 1, timestamp, by, reason: "test" });
  if (options.yaml !== null) await configure(options.yaml ?? warehouse);

  const open = async (given: FixtureOptions & { instance?: string }) => {
    const bus = broker.connect();
    if (given.cut) memorySeams(bus).cut();
    const kit = testKit({
      service: "router",
      instance: given.instance ?? "router-1",
      bus,
      dataDir,
      secrets: options.secrets ?? {},
      nowMs: () => clock.nowMs + (options.aheadMs ?? 0),
    });
    const control = await createRouterControl(kit, {
      random: () => 0.5,
      monotonicMs: () => clock.nowMs,
      startWaitMs: 200,
      reaches: async () => "listens",
      ...given,
    });
    let stopped = false;
    const stop = async () => {
      if (stopped) return;
      stopped = true;
      await control.stop();
      await bus.close();
    };
    stops.unshift(stop);
    return { bus, control: { ...bound(control), stop } };
  };
  const first = await open(options);
  return {
    broker,
    bus: first.bus,
    control: first.control,
    dataDir,
    clock,
    traffic,
    cut: () => memorySeams(first.bus).cut(),
    restore: () => memorySeams(first.bus).restore(),
    say,
    configure,
    move: (upstream, to, epoch, { generation = 1, held = false, from = "primary" } = {}) =>
      say("failover.decided", [upstream], {
        service: upstream,
        action: "moved",
        previousEndpoint: from,
        currentEndpoint: to,
        timestamp,
        automatic: true,
        by,
        reason: "test",
        commandId: null,
        overrode: [],
        state: {
          generation,
          epoch,
          active: to,
          tier: to === "primary" ? 0 : 1,
          sinceMs: clock.nowMs,
          held: held ? { by, reason: "test", sinceMs: clock.nowMs, untilMs: null } : null,
          moves: [],
        },
        certificate,
      }),
    health: (upstream, endpoint, given) => {
      const state: HealthState = {
        status: "healthy",
        score: 1,
        sinceMs: clock.nowMs,
        okRun: 0,
        failRun: 0,
        changesAtMs: [],
        heldDownUntilMs: null,
        lastObservedAtMs: clock.nowMs,
        ...given,
      };
      return say("health.changed", [upstream, endpoint], {
        service: upstream,
        endpoint,
        status: state.status,
        responseTime: null,
        error: null,
        timestamp,
        critical: true,
        previousStatus: null,
        reason: "test",
        prober: "prober-1",
        votes: [],
        state,
        certificate,
      });
    },
    breaker: (upstream, endpoint, given) => {
      const state: BreakerState = { status: "closed", generation: 1, sinceMs: 0, openUntilMs: null, openings: 0, permits: [], ...given };
      return say("breaker.changed", [upstream, endpoint], {
        service: upstream,
        endpoint,
        status: state.status,
        previousStatus: "closed",
        timestamp,
        reason: "test",
        by,
        state,
        certificate,
      });
    },
    rollback: (scope, name, mcpPercent, epoch) =>
      say("rollback.decided", [scope, name], {
        scope,
        name,
        action: mcpPercent === 0 ? "rolled_back" : "advanced",
        implementation: mcpPercent === 0 ? "legacy" : "mcp",
        previousImplementation: "mcp",
        timestamp,
        automatic: false,
        by,
        reason: "test",
        commandId: null,
        state: { epoch, implementation: mcpPercent === 0 ? "legacy" : "mcp", mcpPercent, sinceMs: 0, lastGoodEpoch: 0 },
        certificate,
      }),
    again: async (given = {}) => (await open(given)).control,
  };
}

/** The methods of a class do not survive a spread. */
function bound(control: RunningControl): RunningControl {
  return {
    upstream: (name) => control.upstream(name),
    upstreams: () => control.upstreams(),
    begin: (call) => control.begin(call),
    ready: () => control.ready(),
    access: () => control.access?.() ?? { hosts: [], origins: [] },
    learnTools: (upstream, tools) => control.learnTools(upstream, tools),
    onRouteChange: (listener) => control.onRouteChange(listener),
    stop: () => control.stop(),
    backlog: () => control.backlog(),
  };
}

export const settled = (ms = 5): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

export const until = (what: string, holds: () => boolean, withinMs = 1000) => eventually(holds, { what, withinMs, everyMs: 5 });

export function describe(fixture: Pick<Fixture, "clock">, given: Partial<CallDescription> = {}): CallDescription {
  return {
    upstream: "warehouse",
    kind: "mcp",
    method: "tools/call",
    tool: "get_inventory",
    agent: null,
    sessionEndpoint: null,
    deadlineMs: Number.POSITIVE_INFINITY,
    startedAtMs: fixture.clock.nowMs,
    ...given,
  };
}

export async function attemptOf(call: CallControl): Promise<Attempt> {
  const attempt = await call.next();
  assert.ok(attempt, `no attempt: ${call.problem().message}`);
  return attempt;
}

/** Plays a whole call: each endpoint gives its result. Returns where it went. */
export async function play(call: CallControl, answer: (endpoint: string) => AttemptResult): Promise<string[]> {
  const went: string[] = [];
  for (let attempt = await call.next(); attempt !== null; attempt = await call.next()) {
    went.push(attempt.endpoint.name);
    if (!attempt.done(answer(attempt.endpoint.name)).retry) break;
  }
  return went;
}
