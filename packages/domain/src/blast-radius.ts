import type { StatusView } from "@mcp-failover/contracts";
import { type CanaryCall, experimentPolicy } from "./experiment.ts";
import type { StandIns } from "./stand-ins.ts";

/**
 * How much a chaos experiment may break, and when it is given up (principlesofchaos.org, "minimize blast radius"; AWS FIS, "stop conditions").
 * Pure.
 *
 * Invariants:
 * B1  The active endpoint is made unusable only where something serves in its place: another endpoint that is healthy now and fit for it, with
 *     nothing that keeps the upstream from moving there (a hold, maintenance, automatic moves that are off); or a legacy implementation of
 *     every tool.
 * B2  `force` overrides B1, and the answer names what was overridden. Nothing overrides B3 to B5.
 * B3  It is given up once the last `abortAfterCalls` calls of the canary that have a result failed.
 * B4  It is given up once an upstream that is not the target has no healthy active endpoint any more, and had one before.
 * B5  It is given up once the status was not to be had for `abortAfterBlindMs`: nobody would see B4. What a backup shows is no status.
 */

type UpstreamView = StatusView["upstreams"][number];

interface BlastRadius {
  readonly upstream: UpstreamView;
  readonly endpoint: string;
  /** The fault leaves the endpoint unusable, not only slower. */
  readonly takesAway: boolean;
  /** Every tool has a legacy implementation that serves when no endpoint does. */
  readonly hasLegacy: boolean;
  readonly force: boolean;
  readonly standIns: StandIns;
}

/** What of B1 is overridden (`last_endpoint`, `hold`, or the rule by which it would stay), or why the experiment may not begin. */
export function checkBlastRadius({ upstream, endpoint, takesAway, hasLegacy, force, standIns }: BlastRadius): {
  readonly overrode: readonly string[];
  readonly refused: string | null;
} {
  if (!takesAway || hasLegacy || upstream.active !== endpoint) return { overrode: [], refused: null };
  const others = upstream.endpoints.filter(({ name }) => name !== endpoint);
  const found: { readonly rule: string; readonly why: string }[] = [];
  const { unfit, stays } = standIns;
  if (!others.some(({ name, health }) => health === "healthy" && unfit[name] === undefined)) {
    const stateOf = ({ name, health }: (typeof others)[number]): string =>
      `${name} ${(health === "healthy" && unfit[name]) || `is ${health}`}`;
    const state = others.map(stateOf).join(", ") || "it has no other";
    const lacks = others.some(({ health }) => health === "healthy") ? "could" : "is healthy";
    const why = `without ${endpoint} nothing would serve ${upstream.name}: no other endpoint ${lacks} (${state}); bring one back first`;
    found.push({ rule: "last_endpoint", why });
  }
  if (upstream.held !== null) {
    const why = `${upstream.name} is held at ${endpoint} by ${upstream.held.by} (${upstream.held.reason}); release it first`;
    found.push({ rule: "hold", why });
  }
  if (stays !== null) found.push({ rule: stays.rule, why: `${stays.why}; change that first` });
  const [first] = found;
  return force || first === undefined
    ? { overrode: found.map(({ rule }) => rule), refused: null }
    : { overrode: [], refused: `${first.why}, or order it with \`force\` and your reason, which is recorded` };
}

/** Names of the upstreams whose active endpoint is healthy. */
export function servedUpstreams({ upstreams }: Pick<StatusView, "upstreams">): ReadonlySet<string> {
  return new Set(upstreams.filter(({ active, endpoints }) => healthOf(endpoints, active) === "healthy").map(({ name }) => name));
}

/**
 * Why a running experiment has to be given up (B3 to B5), or null. `calls` were begun after the injection; `status` null: it was not to be had,
 * for `blindMs` now.
 */
export function findAbort(seen: {
  readonly target: string;
  readonly calls: readonly CanaryCall[];
  readonly servedBefore: ReadonlySet<string>;
  readonly status: Pick<StatusView, "upstreams"> | null;
  readonly blindMs: number;
}): string | null {
  const { abortAfterCalls, abortAfterBlindMs } = experimentPolicy;
  const ended = seen.calls.filter((call): call is CanaryCall & { endedAtMs: number } => call.endedAtMs !== null);
  const last = ended.sort((a, b) => a.endedAtMs - b.endedAtMs).slice(-abortAfterCalls);
  if (last.length === abortAfterCalls && last.every(({ ok }) => !ok))
    return `it was given up: the last ${abortAfterCalls} calls failed (${last.at(-1)?.error ?? "no answer"})`;
  if (seen.status === null && seen.blindMs >= abortAfterBlindMs)
    return `it was given up: for ${abortAfterBlindMs / 1000} s nobody saw the status, so that other upstreams may be broken unseen`;
  for (const { name, active, endpoints } of seen.status?.upstreams ?? []) {
    if (name === seen.target || !seen.servedBefore.has(name)) continue;
    const health = healthOf(endpoints, active);
    if (health !== "healthy")
      return `it was given up: ${name}, which is not its target, has no healthy active endpoint any more (${active} is ${health})`;
  }
  return null;
}

function healthOf(endpoints: UpstreamView["endpoints"], name: string): string {
  return endpoints.find((endpoint) => endpoint.name === name)?.health ?? "unknown";
}
