import { setTimeout as sleep } from "node:timers/promises";
import type { Bus, Stored } from "@mcp-failover/bus";
import {
  type Actor,
  type BreakerAction,
  type BreakerState,
  type Event,
  endpointKey,
  makeEvent,
  type Observation,
  type ProbeRequested,
  subjectFor,
} from "@mcp-failover/contracts";
import {
  type BreakerPolicy,
  decideBreaker,
  evidenceOf,
  foldBreakerSignal,
  initialBreakerState,
  liveRouters,
  openBreakerSignals,
  openWindow,
  policyFor,
} from "@mcp-failover/domain";
import { type AppliedTopology, readTopology } from "@mcp-failover/service-kit";
import { z } from "zod";
import { ask, type Context } from "../context.ts";
import { CliError, type ExitCode } from "../errors.ts";
import { table } from "../output.ts";
import { readToEnd, storedMs } from "../read-log.ts";
import { begin, type ChangeOptions } from "./changes.ts";
import { proberNames, targetsOf } from "./probe.ts";

interface Target {
  readonly upstream: string;
  readonly endpoint: string;
}
/** One breaker, as `mcpf breaker status -o json` gives it. Times are ISO 8601. */
interface Row extends Target {
  readonly status: BreakerState["status"];
  readonly generation: number;
  readonly since: string | null;
  readonly openUntil: string | null;
  readonly openings: number;
  readonly permits: readonly { readonly router: string; readonly calls: number; readonly expires: string }[];
  readonly by: Actor | null;
  readonly reason: string | null;
}

const isOpen = (status: BreakerState["status"]): boolean => status === "open" || status === "forced_open";
const iso = (ms: number): string => new Date(ms).toISOString();

/** `mcpf breaker status [<upstream>[/<endpoint>]]`: from the log alone, so that it works with nothing else running. */
export async function status(context: Context, target: string | undefined): Promise<ExitCode> {
  const bus = await context.bus();
  const targets = target === undefined ? await everyTarget(bus) : await targetsOf(bus, target);
  const rows: Row[] = [];
  for (let at = 0; at < targets.length; at += readAtOnceMax) {
    const some = targets.slice(at, at + readAtOnceMax);
    rows.push(...(await Promise.all(some.map(async (one) => rowOf(one, await lastChange(bus, one))))));
  }
  context.out.print({ breakers: rows }, () => showRows(rows), rows);
  return rows.some((row) => isOpen(row.status)) ? 3 : 0;
}

/** So many questions at once keep none waiting for its time-out, however many endpoints there are. */
const readAtOnceMax = 256;

const requested = { "force-open": "force_open", disable: "disable", "metrics-only": "metrics_only", reset: "reset" } as const;
const commandAnswer = z.looseObject({
  endpoints: z.array(z.looseObject({ endpoint: z.string(), status: z.string(), generation: z.number() })),
});

/** `mcpf breaker force-open|disable|metrics-only|reset <upstream>[/<endpoint>] --reason TEXT`. */
export async function command(context: Context, name: keyof typeof requested, target: string, options: ChangeOptions): Promise<ExitCode> {
  const [upstream = "", endpoint] = target.split("/");
  await targetsOf(await context.bus(), target);
  const base = await begin(
    context,
    options,
    `${name} the breaker of ${endpoint === undefined ? `every endpoint of ${upstream}` : target}?`,
  );
  const action: BreakerAction = requested[name];
  const result = await ask(context, "command.breaker", { ...base, upstream, endpoint: endpoint ?? null, action });
  const { endpoints } = commandAnswer.parse(result);
  const say = () => endpoints.map((one) => `${upstream}/${one.endpoint}: ${one.status} (generation ${one.generation})`).join("\n");
  context.out.print(result, say, endpoints);
  return 0;
}

const probeMs = 5000;
const storedLooksMax = 10;
const storedLookMs = 50;
const answerMarginMs = 1000;

interface Tested extends Target {
  readonly status: BreakerState["status"];
  readonly generation: number;
  readonly probes: readonly Pick<Observation, "observer" | "outcome" | "code" | "responseTimeMs" | "error">[];
  readonly evidence: ReturnType<typeof evidenceOf>;
  /** What `decideBreaker` says to all that is known now. */
  readonly next: {
    readonly status: BreakerState["status"];
    readonly rule: string;
    readonly reason: string;
    readonly rejected: readonly object[];
  };
}

/** `mcpf breaker test <upstream>[/<endpoint>]`: takes the fleet's decision here, by the same function on the same evidence, and says it. */
export async function test(context: Context, target: string): Promise<ExitCode> {
  const bus = await context.bus();
  const targets = await targetsOf(bus, target);
  const policies = await policiesOf(bus);
  const probes = await probeOnce(context, bus, targets);
  const signals = openBreakerSignals();
  const longestMs = Math.max(...targets.map(({ upstream }) => backMsOf(policies(upstream))));
  // breaker-state decides by the store's clock, and what the probes found is its newest word.
  await untilStored(bus, probes);
  const atLeastMs = (await storedMs(bus)) ?? context.nowMs();
  const lastMs = await readToEnd(bus, "SIGNALS", { from: { timeMs: atLeastMs - longestMs } }, ({ content, timeMs }) => {
    if (content.kind === "event") foldBreakerSignal(signals, content.event, timeMs);
  });
  const tested: Tested[] = [];
  for (const { upstream, endpoint } of targets) {
    const policy = policies(upstream);
    const state = (await lastChange(bus, { upstream, endpoint }))?.data.state ?? initialBreakerState;
    // A second further on: the second that is just going on is judged at its end.
    const atMs = Math.max(lastMs, atLeastMs) + policy.bucketMs;
    const evidence = evidenceOf(signals.windows.get(endpointKey(upstream, endpoint)) ?? openWindow(), state, policy, atMs);
    const routers = liveRouters(signals, atMs, policy.routerLiveMs);
    const decision = decideBreaker({ upstream, endpoint, policy, nowMs: atMs, state, evidence, routers });
    const { rule, reason, rejected } = decision;
    tested.push({
      upstream,
      endpoint,
      status: state.status,
      generation: state.generation,
      probes: probes.filter((one) => one.upstream === upstream && one.endpoint === endpoint),
      evidence,
      next: { status: decision.state.status, rule, reason, rejected },
    });
  }
  context.out.print(tested.length === 1 ? tested[0] : tested, () => tested.map(showTested).join("\n\n"), tested);
  return tested.some((one) => isOpen(one.status) || isOpen(one.next.status)) ? 3 : 0;
}

async function probeOnce(context: Context, bus: Bus, targets: readonly Target[]): Promise<Observation[]> {
  const probers = await proberNames(bus);
  if (probers.length === 0)
    throw new CliError(1, "no_prober", "no prober is running: see `mcpf doctor`, or start the stack with `npm start`", true);
  const data: ProbeRequested = {
    requestId: context.newId(),
    targets: [...targets],
    purpose: "requested",
    timeoutMs: probeMs,
    requestedBy: "mcpf",
  };
  const from = { id: data.requestId, service: "cli", instance: "mcpf", timeMs: context.nowMs() } as const;
  const event = makeEvent({ type: "probe.requested", keys: [], data, ...from });
  const seen: Observation[] = [];
  for await (const reply of bus.requestMany(event, { timeoutMs: probeMs + answerMarginMs, max: probers.length })) {
    if (reply.type === "probe.observed") seen.push(...reply.data.observations.filter(({ requestId }) => requestId === data.requestId));
  }
  return seen;
}

/** An answer comes to whoever asked before it is in the log: waits, not for long, until what each prober found is. */
async function untilStored(bus: Bus, probes: readonly Observation[]): Promise<void> {
  const missing = new Map(probes.map(({ observer, requestId }) => [observer, requestId]));
  for (let look = 0; look < storedLooksMax && missing.size > 0; look += 1) {
    if (look > 0) await sleep(storedLookMs);
    for (const [observer, requestId] of missing) {
      const last = await bus.lastOf("SIGNALS", subjectFor("probe.observed", observer));
      const { event } = last?.content.kind === "event" ? last.content : { event: null };
      if (event?.type === "probe.observed" && event.data.observations.some((one) => one.requestId === requestId)) missing.delete(observer);
    }
  }
}

/** Time windows look back one window from each of the last evaluations; windows in calls, as far as anything is known. */
function backMsOf(policy: BreakerPolicy): number {
  return policy.windowCalls === null ? 2 * policy.windowMs : policy.baselineMs;
}

async function policiesOf(bus: Bus): Promise<(upstream: string) => BreakerPolicy> {
  const { topology, environment } = await appliedIn(bus);
  return (upstream) => policyFor(topology, upstream, environment).breaker;
}

async function everyTarget(bus: Bus): Promise<Target[]> {
  return Object.entries((await appliedIn(bus)).topology.upstreams).flatMap(([upstream, { endpoints }]) =>
    endpoints.map(({ name }) => ({ upstream, endpoint: name })),
  );
}

async function appliedIn(bus: Bus): Promise<AppliedTopology> {
  const last = await bus.lastOf("AUDIT", "config.applied");
  const applied = last === null ? null : readTopology(last, { error: () => undefined });
  if (applied === null)
    throw new CliError(1, "no_config", "no configuration that can be read has been applied: run `mcpf config apply failover.yaml`");
  return applied;
}

/** The change in force. What cannot be read changes nothing for breaker-state either: the one before it is. */
async function lastChange(bus: Bus, { upstream, endpoint }: Target): Promise<Event<"breaker.changed"> | null> {
  const subject = subjectFor("breaker.changed", upstream, endpoint);
  const last = await bus.lastOf("AUDIT", subject);
  if (last === null || last.content.kind === "event") return changeIn(last);
  let change: Event<"breaker.changed"> | null = null;
  for await (const stored of bus.read("AUDIT", { filter: subject, toSeq: last.seq })) change = changeIn(stored) ?? change;
  return change;
}

function changeIn(stored: Stored | null): Event<"breaker.changed"> | null {
  return stored?.content.kind === "event" && stored.content.event.type === "breaker.changed" ? stored.content.event : null;
}

function rowOf({ upstream, endpoint }: Target, change: Event<"breaker.changed"> | null): Row {
  const state = change?.data.state ?? initialBreakerState;
  return {
    upstream,
    endpoint,
    status: state.status,
    generation: state.generation,
    since: change === null ? null : iso(state.sinceMs),
    openUntil: state.openUntilMs === null ? null : iso(state.openUntilMs),
    openings: state.openings,
    permits: state.permits.map(({ router, calls, expiresAtMs }) => ({ router, calls, expires: iso(expiresAtMs) })),
    by: change?.data.by ?? null,
    reason: change?.data.reason ?? null,
  };
}

function showRows(rows: readonly Row[]): string {
  const cells = rows.map((row) => [
    row.upstream,
    row.endpoint,
    row.status,
    String(row.generation),
    row.since ?? "-",
    [
      row.openUntil === null ? "" : `until ${row.openUntil}`,
      row.permits.length === 0 ? "" : `permits: ${row.permits.map(({ router, calls }) => `${router} ${calls}`).join(", ")}`,
      row.reason ?? "it never changed",
      row.by?.kind === "operator" ? `(by ${row.by.id})` : "",
    ]
      .filter(Boolean)
      .join(" | "),
  ]);
  return table(["UPSTREAM", "ENDPOINT", "BREAKER", "GENERATION", "SINCE", "WHY"], cells);
}

function showTested(one: Tested): string {
  const probes = one.probes.map(
    ({ observer, outcome, code, responseTimeMs, error }) =>
      `  ${observer}: ${outcome}${code === null ? "" : ` (${code})`} in ${responseTimeMs.toFixed(1)} ms${error === null ? "" : `: ${error}`}`,
  );
  const stays = one.next.status === one.status;
  const next = `${stays ? `stays ${one.status}` : `becomes ${one.next.status}`}: ${one.next.reason}`;
  return [
    `${one.upstream}/${one.endpoint}: ${one.status} (generation ${one.generation}), ${next}`,
    ...(probes.length === 0 ? ["  no prober answered"] : probes),
  ].join("\n");
}
