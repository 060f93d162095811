import { Random, seedOf } from "./random.ts";
import type { EndpointKey, EndpointMode, Fault, FaultKind, ProcessName, Schedule, WorldSize } from "./world-types.ts";

const secondMs = 1000;
const minuteMs = 60 * secondMs;
const hourMs = 60 * minuteMs;

/** The least world of a run (issue 3): one hour, and its last twelve minutes for recovery. */
export const leastWorld: WorldSize = {
  durationMs: hourMs,
  quietFromMs: 48 * minuteMs,
  probers: 3,
  deciders: 2,
  routers: 2,
  calls: 2000,
};
const faultsMin = 20;
const firstFaultMs = 20 * secondMs;

/** Seed -> everything that happens in a run. */
export function scheduleOf(seed: number, world: WorldSize = leastWorld): Schedule {
  const random = new Random(seedOf(seed, "schedule"));
  const topology = topologyOf(random);
  const keys = endpointsOf(topology);
  const count = faultsMin + random.whole(0, 8);
  const orders = random.whole(2, 9);
  const faults: Fault[] = [];
  // Some come together, because what is right about each alone may be wrong about both.
  let atMs = firstFaultMs;
  const spanMs = world.quietFromMs - firstFaultMs;
  for (let id = 1; id <= count + orders; id += 1) {
    const together = faults.length > 0 && random.chance(0.35);
    atMs = together ? atMs + random.between(0, random.pick([3, 3, 40, 200]) * secondMs) : firstFaultMs + random.next() * spanMs * 0.97;
    faults.push(
      faultOf(random, id, Math.round(Math.min(atMs, world.quietFromMs - secondMs)), {
        world,
        topology,
        keys,
        isCommand: id > count,
        after: together ? (faults.at(-1) ?? null) : null,
      }),
    );
  }
  faults.push(...outageOf(random, faults.length, world, topology));
  faults.sort((a, b) => a.atMs - b.atMs || a.id - b.id);
  return { seed, world, topology, faults };
}

/** What only comes about when much fails at once: all of an upstream, the active endpoints of all, or an endpoint before its first probe. */
function outageOf(random: Random, before: number, world: WorldSize, topology: RawTopology): Fault[] {
  const keys = endpointsOf(topology);
  const upstream = random.pick(Object.keys(topology.upstreams));
  const hit = random.weighted<readonly EndpointKey[]>([
    [[], 5],
    [keys.filter((key) => upstreamOf(key) === upstream), 2],
    [firstOf(topology), 2],
    [[random.pick(keys)], 1],
  ]);
  const beginMs = hit.length === 1 ? 0 : Math.round(random.between(minuteMs, world.quietFromMs * 0.6));
  const forMs = Math.min(world.quietFromMs - beginMs - 5000, random.whole(20, 150) * secondMs);
  const mode = random.pick<EndpointMode>(["refused", "killed", "hung", "http_503", "reset"]);
  return hit.map((endpoint, index) => {
    const atMs = beginMs + (hit.length === 1 ? 0 : random.whole(0, 5000));
    const fault = { endpoint, mode, meets: "all", share: 1, latencyMs: 0, periodMs: null } as const;
    return { id: before + 1 + index, atMs, kind: "endpoint", forMs, ...fault };
  });
}

/** `failover.yaml` as JSON, as far as a schedule looks into it. */
interface RawTopology {
  readonly upstreams: Readonly<Record<string, RawUpstream>>;
  readonly [key: string]: unknown;
}
interface RawUpstream {
  readonly mode: "active_standby" | "pool";
  readonly endpoints: readonly { readonly name: string; readonly tier: number; readonly role?: string }[];
  readonly [key: string]: unknown;
}

function endpointsOf(topology: RawTopology): EndpointKey[] {
  return Object.entries(topology.upstreams).flatMap(([name, { endpoints }]) => endpoints.map((endpoint) => `${name}/${endpoint.name}`));
}

/** Three upstreams in both modes. Most runs prove the defaults; some have limits so tight that they are met. */
function topologyOf(random: Random): RawTopology {
  const url = (upstream: string, endpoint: string): string => `http://${endpoint}.${upstream}.test/mcp`;
  const endpoint = (upstream: string, name: string, tier: number, more: object = {}) => ({ name, tier, url: url(upstream, name), ...more });
  const failback = random.chance(0.4) ? { failback: "automatic", failback_after_ms: random.pick([60_000, 120_000, 300_000]) } : {};
  const fleet = random.weighted<object>([
    [{}, 5],
    [{ fleet_moves: 1 }, 3],
    [{ fleet_moves: 2, fleet_window_ms: 120_000 }, 1],
  ]);
  const limits = (): object =>
    random.weighted<() => object>([
      [() => ({}), 13],
      [() => ({ failover: { moves_per_hour: random.whole(1, 2), cooldown_ms: random.pick([0, 5000, 20_000]) } }), 5],
      [() => ({ failover: { moves_per_hour: 6, cooldown_ms: 600_000, verify_ms: random.pick([0, 5000]) } }), 3],
      [() => ({ failover: { dry_run: true } }), 1],
      [() => ({ failover: { automatic: false } }), 1],
    ])();
  return {
    version: 1,
    upstreams: {
      alpha: {
        kind: "mcp",
        mode: "active_standby",
        endpoints: [
          endpoint("alpha", "one", 0),
          endpoint("alpha", "two", 1),
          ...(random.chance(0.5) ? [endpoint("alpha", "three", 1)] : []),
          ...(random.chance(0.4) ? [endpoint("alpha", "reader", 0, { role: "read" })] : []),
        ],
        tools: {
          look: { read_only: true, legacy: { url: "http://legacy.test/look" } },
          put: { idempotent: true, legacy: { url: "http://legacy.test/put", method: "POST" } },
          write: { legacy: { url: "http://legacy.test/write", method: "POST" } },
        },
        ...limits(),
      },
      beta: {
        kind: "http",
        mode: "active_standby",
        critical: random.chance(0.5),
        probe: { path: "/health" },
        endpoints: [endpoint("beta", "one", 0), endpoint("beta", "two", 1)],
        ...(random.chance(0.3) ? { breaker: { failure_threshold: random.whole(2, 4), reset_timeout_ms: 10_000 } } : {}),
        ...limits(),
      },
      gamma: {
        kind: "mcp",
        mode: "pool",
        balancing: random.pick(["health_weighted", "round_robin", "least_connections", "peak_ewma"]),
        endpoints: [endpoint("gamma", "a", 0), endpoint("gamma", "b", 0), endpoint("gamma", "c", 0), endpoint("gamma", "d", 1)],
        tools: { find: { read_only: true }, book: {} },
        ...limits(),
      },
    },
    agents: { clerk: { tools: ["look", "put", "write"] } },
    ...(random.chance(0.35) ? { maintenance: [maintenanceOf(random)] } : {}),
    ...(random.chance(0.2) ? { safety_rules: [safetyRuleOf(random)] } : {}),
    failover: { ...failback, ...fleet },
  };
}

const beginMs = Date.UTC(2026, 6, 1, 12);
const isoAt = (atMs: number): string => new Date(beginMs + atMs).toISOString();

/** Planned work in the first half of the run, for a few minutes. */
function maintenanceOf(random: Random): object {
  const fromMs = random.between(minuteMs, 25 * minuteMs);
  const window = { name: "patches", reason: "planned", from: isoAt(fromMs), until: isoAt(fromMs + random.between(2, 15) * minuteMs) };
  return { ...window, endpoints: [random.pick(["alpha/one", "alpha/two", "beta/one", "beta/two", "gamma/a", "gamma/d"])] };
}

function safetyRuleOf(random: Random): object {
  return random.pick<() => object>([
    () => ({ name: "not-both", never_both_on_backup: ["alpha", "beta"] }),
    () => ({ name: "some-stay", at_least: { count: random.whole(2, 3), endpoints: ["alpha/one", "alpha/two", "beta/one", "beta/two"] } }),
    () => ({ name: "freeze", no_moves: { upstreams: ["alpha", "beta"], from: isoAt(5 * minuteMs), until: isoAt(20 * minuteMs) } }),
  ])();
}

const names = (kind: string, count: number): ProcessName[] => Array.from({ length: count }, (_, index) => `${kind}-${index + 1}`);

/** All processes of a world, in the order in which they start. */
export function processesOf(world: WorldSize): ProcessName[] {
  return [
    ...names("breaker-state", world.deciders),
    ...names("failover-controller", world.deciders),
    ...names("rollback-controller", world.deciders),
    ...names("prober", world.probers),
    ...names("router", world.routers),
  ];
}

const kinds: readonly (readonly [FaultKind, number])[] = [
  ["endpoint", 40],
  ["partition", 14],
  ["crash", 10],
  ["pause", 6],
  ["clock_jump", 6],
  ["clock_drift", 3],
  ["prober_clocks", 4],
  ["nats_restart", 5],
  ["messages", 10],
  ["liar", 6],
];
const modes: readonly (readonly [EndpointMode, number])[] = [
  ["refused", 3],
  ["killed", 3],
  ["hung", 3],
  ["blackhole", 3],
  ["reset", 2],
  ["http_503", 3],
  ["slow", 3],
  ["rate_limited", 1.5],
  ["auth", 1.5],
  ["tool_errors", 2],
];

interface Scene {
  readonly world: WorldSize;
  readonly topology: RawTopology;
  readonly keys: readonly EndpointKey[];
  readonly isCommand: boolean;
  /** The fault that this one follows closely. */
  readonly after: Fault | null;
}

function faultOf(random: Random, id: number, atMs: number, { world, topology, keys, isCommand, after }: Scene): Fault {
  const processes = processesOf(world);
  const leftMs = world.quietFromMs - atMs;
  const forMs = Math.round(
    Math.min(
      leftMs,
      random.weighted<() => number>([
        [() => random.between(300, 5 * secondMs), 3],
        [() => random.between(5 * secondMs, 60 * secondMs), 4],
        [() => random.between(minuteMs, 8 * minuteMs), 2],
      ])(),
    ),
  );
  const kind = isCommand ? "command" : random.weighted(kinds);
  const base = { id, atMs };
  const process = random.pick(processes);
  switch (kind) {
    case "endpoint": {
      // Those that are active at first are where most happens; and next to what has just failed, where it was moved to.
      const beside =
        after?.kind === "endpoint" ? keys.filter((key) => key !== after.endpoint && upstreamOf(key) === upstreamOf(after.endpoint)) : [];
      const usual = random.chance(0.6) ? random.pick(firstOf(topology)) : random.pick(keys);
      const endpoint = beside.length > 0 && random.chance(0.5) ? random.pick(beside) : usual;
      const mode = random.weighted(modes);
      return {
        ...base,
        kind,
        forMs,
        endpoint,
        mode,
        meets: random.weighted([
          ["all", 7],
          ["probes", 1.5],
          ["calls", 2],
        ]),
        share: random.weighted<() => number>([
          [() => 1, 7],
          [() => Math.round(random.between(0.05, 0.9) * 100) / 100, 2],
        ])(),
        latencyMs: mode === "slow" ? random.whole(500, 10_000) : 0,
        periodMs: random.chance(0.15) ? random.whole(1, 60) * secondMs : null,
      };
    }
    case "partition":
      return {
        ...base,
        kind,
        forMs,
        process,
        peer:
          random.weighted<"nats" | "everything" | "endpoint">([
            ["nats", 5],
            ["everything", 2],
            ["endpoint", 3],
          ]) === "endpoint"
            ? random.pick(keys)
            : random.pick(["nats", "everything"] as const),
        direction: random.pick(["both", "out", "in"]),
      };
    case "crash":
      return { ...base, kind, process, forMs: Math.max(200, Math.min(forMs, 3 * minuteMs)), orderly: random.chance(0.3) };
    case "pause":
      return { ...base, kind, process, forMs: Math.max(50, Math.min(forMs, random.chance(0.5) ? 1500 : 30 * secondMs)) };
    case "clock_jump": {
      // The server's clock is everybody's, and the one of which it matters most that it is set back.
      if (random.chance(0.5))
        return { ...base, kind, process: "nats", byMs: random.pick([-hourMs, -hourMs, -60_000, -3000, 3000, 60_000]) };
      return { ...base, kind, process, byMs: Math.round(random.pick([-1, 1]) * random.pick([500, 3000, 60_000, hourMs])) };
    }
    case "prober_clocks":
      return { ...base, kind, forMs, byMs: random.pick([-1, 1]) * random.whole(10, 60) * secondMs };
    case "clock_drift":
      return { ...base, kind, process, forMs: Math.min(leftMs, forMs * 4), ratio: random.pick([-0.05, -0.002, 0.002, 0.05]) };
    case "nats_restart":
      return { ...base, kind, forMs: Math.min(forMs, 2 * minuteMs), forgetsIds: random.chance(0.3) };
    case "messages":
      return {
        ...base,
        kind,
        forMs,
        process,
        what: random.pick(["lose_acks", "lose_publishes", "lose_core", "duplicate_core", "reorder_core", "delay"]),
        share: random.pick([0.05, 0.3, 0.8, 1]),
        delayMs: random.pick([20, 300, 1500]),
      };
    case "liar":
      return {
        ...base,
        kind,
        forMs,
        process: random.pick(names("prober", world.probers)),
        endpoint: random.chance(0.5) ? "every" : random.pick(keys),
        says: random.pick(["healthy", "unhealthy", "opposite"]),
      };
    case "command": {
      const upstream = random.pick(Object.keys(topology.upstreams));
      const command = random.weighted<Extract<Fault, { kind: "command" }>["command"]>([
        ["failover", 4],
        ["failback", 2],
        ["breaker", 2],
        ["hold", 2],
        ["release", 2],
        ["rollback", 2],
        ["recover", 2],
      ]);
      const endpoints = topology.upstreams[upstream]?.endpoints ?? [];
      const nameFor = (): string | null => {
        if (command === "breaker") return random.pick(endpoints).name;
        if (command !== "failover" || random.chance(0.5)) return null;
        return random.chance(0.05) ? "nowhere" : random.pick(endpoints).name;
      };
      const holds = command === "hold" && random.chance(0.8);
      return {
        ...base,
        kind,
        command,
        upstream,
        to: nameFor(),
        force: random.chance(0.3),
        forMs: command === "breaker" ? Math.min(forMs, minuteMs) : holds ? random.whole(5, 300) * secondMs : null,
        times: random.chance(0.3) ? 2 : 1,
      };
    }
  }
}

const upstreamOf = (key: EndpointKey): string => key.slice(0, key.indexOf("/"));

function firstOf(topology: RawTopology): EndpointKey[] {
  return Object.entries(topology.upstreams).flatMap(([name, { endpoints }]) =>
    endpoints.filter(({ tier, role }) => tier === 0 && role !== "read").map((endpoint) => `${name}/${endpoint.name}`),
  );
}
