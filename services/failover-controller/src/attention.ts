import type { Event } from "@mcp-failover/contracts";
import { type FailoverDecision, type FailoverInput, failbackDueMs, trialInForce } from "@mcp-failover/domain";

/**
 * Well or in maintenance: till something is due only a word against it matters. Or nothing is known: any word matters. Or it fails and has
 * nowhere to go, or may not: a word for an endpoint that could change that matters, and more against them wait for the next second, of which
 * it is due each.
 */
interface Rest {
  readonly kind: "calm" | "blank" | "stuck";
  /** The endpoints that it is judged by, the active one and in a pool its tier: what is said of others is asked for when a move needs it. */
  readonly judgedBy: readonly string[];
  /** When something is due all the same. */
  readonly dueMs: number;
}

/** Each upstream is looked at this often whatever is known of it, so that nothing can be forgotten; a share of them each second. */
const sweepSeconds = 30;

/** A failback that is due and that something holds up (a limit, a cool-down, an endpoint that flaps) is asked for again after this. */
const failbackAgainMs = 5000;

const none: readonly string[] = [];

/**
 * Which upstreams have to be decided on: those of which something new was heard that may matter, those that are in trouble (each second),
 * and those with something due. A fleet of thousands that is well costs next to nothing.
 */
export class Attention {
  readonly #resting = new Map<string, Rest>();
  #second = 0;

  /** What an evaluation came to. `graceOver`: of this upstream. */
  evaluated(input: FailoverInput, decision: FailoverDecision, graceOver: boolean): void {
    const rest = graceOver ? restOf(input, decision) : null;
    if (rest === null) this.#resting.delete(input.upstream);
    else this.#resting.set(input.upstream, rest);
  }

  /** Nothing is known to be at rest any more. */
  reset(): void {
    this.#resting.clear();
  }

  /** The upstreams for which an event may change something now. */
  heard(event: Event, known: readonly string[]): readonly string[] {
    switch (event.type) {
      case "config.applied":
      case "log.started":
        this.reset();
        return known;
      case "health.changed":
      case "breaker.changed":
      case "failover.decided":
        return [event.data.service];
      case "probe.observed":
        return this.#awake(event.data.observations, probeAgainst, probeFor);
      case "traffic.observed":
        return this.#awake(event.data.endpoints, callsAgainst, callsFor);
      default:
        return none;
    }
  }

  /** The upstreams to look at at a boundary of a second. */
  due(known: readonly string[], nowMs: number): readonly string[] {
    this.#second = (this.#second + 1) % sweepSeconds;
    return known.filter((upstream, index) => {
      const rest = this.#resting.get(upstream);
      return rest === undefined || rest.dueMs <= nowMs || index % sweepSeconds === this.#second;
    });
  }

  /** Traffic that is all well waits for the next second, also where an upstream is in trouble. */
  #awake<W extends { readonly upstream: string; readonly endpoint: string }>(
    words: readonly W[],
    isAgainst: (word: W) => boolean,
    isFor: (word: W) => boolean,
  ): readonly string[] {
    // Mostly all is well: no list is made then.
    let found: string[] | null = null;
    for (const word of words) {
      const { upstream } = word;
      const rest = this.#resting.get(upstream);
      if (rest?.kind === "calm" && !(isAgainst(word) && rest.judgedBy.includes(word.endpoint))) continue;
      if (rest?.kind === "stuck" && !(isFor(word) && rest.judgedBy.includes(word.endpoint))) continue;
      if (found === null) found = [upstream];
      else if (!found.includes(upstream)) found.push(upstream);
    }
    return found ?? none;
  }
}

type ProbeWord = Event<"probe.observed">["data"]["observations"][number];
type TrafficWord = Event<"traffic.observed">["data"]["endpoints"][number];
const probeAgainst = ({ outcome }: ProbeWord): boolean => outcome === "hard";
const probeFor = ({ outcome }: ProbeWord): boolean => outcome !== "hard";
const callsAgainst = ({ hard, inFlight, ok }: TrafficWord): boolean => hard > 0 || (inFlight > 0 && ok === 0);
const callsFor = ({ ok }: TrafficWord): boolean => ok > 0;

function restOf(input: FailoverInput, decision: FailoverDecision): Rest | null {
  if (decision.kind === "failing") return { kind: "stuck", judgedBy: input.endpoints.map(({ name }) => name), dueMs: input.nowMs };
  // Held, switched off or a dry run: that others are well changes nothing. A place in the fleet may be free at any word.
  if (decision.kind === "rejected" && (decision.targets.length === 0 || decision.rule === "dry_run") && decision.rule !== "fleet_limit")
    return { kind: "stuck", judgedBy: judgedByOf(input), dueMs: input.nowMs };
  if (decision.kind !== "none" || trialInForce(input) !== null) return null;
  const { state, maintained, nowMs } = input;
  const endsMs = Object.values(maintained ?? {}).map(({ untilMs }) => untilMs);
  const judgedBy = judgedByOf(input);
  // A word on any upstream may make an observer credible again, and its words against this one count then.
  const suspectsMs = judgedBy.some((name) => isDoubtedBySuspects(input, name)) ? nowMs : Number.POSITIVE_INFINITY;
  const failbackMs = failbackDueMs(input);
  const backMs = failbackMs <= nowMs ? nowMs + failbackAgainMs : failbackMs;
  const dueMs = Math.min(state.held?.untilMs ?? Number.POSITIVE_INFINITY, backMs, suspectsMs, ...endsMs);
  if (decision.rule === "active_healthy" || decision.rule === "maintenance") return { kind: "calm", judgedBy, dueMs };
  return decision.rule === "no_evidence" ? { kind: "blank", judgedBy, dueMs } : null;
}

function judgedByOf({ mode, endpoints, state }: FailoverInput): readonly string[] {
  const tier = mode === "pool" ? endpoints.find(({ name }) => name === state.active)?.tier : undefined;
  if (tier === undefined) return [state.active];
  return endpoints.filter((endpoint) => endpoint.role === "write" && endpoint.tier === tier).map(({ name }) => name);
}

function isDoubtedBySuspects({ evidence, suspects }: FailoverInput, endpoint: string): boolean {
  if (suspects.length === 0) return false;
  const votes = evidence[endpoint]?.votes ?? [];
  return votes.some(({ verdict, kind, observer }) => verdict === "unhealthy" && suspects.includes(`${kind}:${observer}`));
}
