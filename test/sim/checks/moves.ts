import type { Event } from "@mcp-failover/contracts";
import { policyFor } from "@mcp-failover/domain";
import type { Check, World } from "../world-types.ts";
import { callsBefore, probersLeft, routersHeard, type Word, wordsBefore } from "./evidence-log.ts";

type Decided = Event<"failover.decided">["data"];

/** SIGNALS up to here is what the decision was taken on. */
const evidenceSeq = ({ certificate }: Decided): number => certificate.folded.SIGNALS?.last ?? 0;
const isAutomaticMove = (event: Event): event is Event<"failover.decided"> =>
  event.type === "failover.decided" && event.data.action === "moved" && event.data.automatic;

function policyOf(world: World, upstream: string) {
  return policyFor(world.topology, upstream, world.environment).failover;
}

/** Between evidence and log lie a reservation and a publish, each with its time-out. */
const decidingMsMax = 20_000;
/** Deciders round to the seconds of the store. */
const roundingMs = 1500;

export const freshProof: Check = {
  guarantee: "moves_need_fresh_proof",
  says: "no automatic move to an endpoint that no probe made for the purpose has just proven",
  start(world) {
    return {
      onAudit(entry) {
        if (!isAutomaticMove(entry.event)) return;
        const { service, currentEndpoint } = entry.event.data;
        const { evidenceFreshMs } = policyOf(world, service);
        const seq = evidenceSeq(entry.event.data);
        const proof = wordsBefore(world, seq, evidenceFreshMs + roundingMs).find(
          (word) => word.endpoint === `${service}/${currentEndpoint}` && word.answers && word.confirms,
        );
        if (proof === undefined) {
          world.fail("moves_need_fresh_proof", `${service} was moved to ${currentEndpoint}, which no confirming probe had answered for`, {
            seq: entry.seq,
            evidenceSeq: seq,
          });
        }
        const evidence = world.signal(seq);
        if (evidence !== null && entry.atMs - evidence.atMs > decidingMsMax) {
          world.fail("moves_need_fresh_proof", `${service} was moved on evidence that was ${entry.atMs - evidence.atMs} ms old`, {
            seq: entry.seq,
          });
        }
      },
    };
  },
};

/**
 * Planned work is no reason to move, and a pool's tier is judged by its other members (F15). Of windows it knows those that schedules have:
 * one time, for named endpoints; one of another kind excuses nothing here.
 */
function isMaintained(world: World, key: string, atMs: number): boolean {
  return (world.topology.maintenance ?? []).some(({ endpoints, from, until }) => {
    if (from === undefined || until === undefined) return false;
    return endpoints?.includes(key) === true && Date.parse(from) <= atMs && atMs < Date.parse(until);
  });
}

const judgedByObservers = new Set(["majority_unhealthy", "lone_observer_confirmed"]);

export const noSingleWord: Check = {
  guarantee: "no_move_on_one_word",
  says: "where an endpoint has more than one observer, no automatic move is made on the word of one, nor of a minority, and none because of an endpoint in maintenance",
  start(world) {
    return {
      onAudit({ seq, event }) {
        if (!isAutomaticMove(event) || !judgedByObservers.has(event.data.certificate.rule)) return;
        const { service, previousEndpoint, certificate } = event.data;
        const { evidenceFreshMs, observerWindowMs, routerLiveMs } = policyOf(world, service);
        const { mode, endpoints } = world.topology.upstreams[service] ?? { mode: "active_standby", endpoints: [] };
        const tier = endpoints.find(({ name }) => name === previousEndpoint)?.tier;
        const group =
          mode === "pool"
            ? endpoints.filter((one) => one.tier === tier && one.role === "write").map(({ name }) => name)
            : [previousEndpoint];
        const working = group.filter((name) => !isMaintained(world, `${service}/${name}`, certificate.nowMs));
        if (working.length === 0) {
          world.fail("no_move_on_one_word", `${service} was moved off ${previousEndpoint}, which was in maintenance`, { seq, group });
        }
        const last = evidenceSeq(event.data);
        // Observers at the very edge of the window may have been forgotten already.
        const heard = wordsBefore(world, last, observerWindowMs * 0.95);
        const lastAtMs = world.signal(last)?.atMs ?? 0;
        const routers = routersHeard(world, last, observerWindowMs);
        const fresh = wordsBefore(world, last, evidenceFreshMs + roundingMs);
        const left = probersLeft(world, last);
        // Every prober counts that has not left, also one that never spoke of this endpoint. A router that is live and sends it nothing abstains; one that
        // has gone silent counts.
        const counts = ({ observer, endpoint, atMs }: Word, key: string): boolean => {
          if (observer.startsWith("prober:")) return !left.has(observer);
          if (endpoint !== key) return false;
          return atMs >= lastAtMs - evidenceFreshMs + roundingMs || (routers.get(observer) ?? 0) < lastAtMs - routerLiveMs - roundingMs;
        };
        for (const name of working) {
          const key = `${service}/${name}`;
          const observers = new Set(heard.filter((word) => counts(word, key)).map(({ observer }) => observer));
          const accusers = new Set(
            fresh
              .filter(({ observer, endpoint, fails }) => endpoint === key && fails && !left.has(observer))
              .map(({ observer }) => observer),
          );
          if (observers.size < 2 ? accusers.size >= 1 : accusers.size >= 2 && accusers.size * 2 > observers.size) continue;
          world.fail("no_move_on_one_word", `${service} was moved off ${name} by ${accusers.size} of ${observers.size} observers`, {
            seq,
            accusers: [...accusers],
            observers: [...observers],
          });
        }
      },
    };
  },
};

/** Production counts whole seconds of the last 30. */
const callsWindowMs = 30_000;
/** A router whose calls fail as often as the rule asks has seen so many fail. */
const failedCallsMin = 3;

export const callsOfMany: Check = {
  guarantee: "no_move_on_one_word",
  says: "no automatic move is made because calls fail, but by a majority of the routers that call the endpoint, and by two at least",
  start(world) {
    const epochs = new Map<string, number>();
    return {
      onAudit({ seq, event }) {
        if (event.type !== "failover.decided") return;
        const { service, previousEndpoint, certificate, state } = event.data;
        const epoch = epochs.get(service) ?? 0;
        epochs.set(service, state.epoch);
        if (!isAutomaticMove(event) || certificate.rule !== "calls_failing") return;
        const { evidenceFreshMs, verifyFailures } = policyOf(world, service);
        const { mode, endpoints } = world.topology.upstreams[service] ?? { mode: "active_standby", endpoints: [] };
        // Of a pool each member has failed by calls or by probes, and which of them by what is not told apart here.
        if (mode === "pool" && endpoints.length > 1) return;
        const key = `${service}/${previousEndpoint}`;
        if (isMaintained(world, key, certificate.nowMs)) {
          world.fail("no_move_on_one_word", `${service} was moved off ${previousEndpoint}, which was in maintenance`, { seq });
        }
        const last = evidenceSeq(event.data);
        const lastAtMs = world.signal(last)?.atMs ?? 0;
        const heard = callsBefore(world, last, callsWindowMs + roundingMs, key).filter(
          (said) => said.epoch === epoch && (said.calls > 0 || said.hangs),
        );
        const sum = (router: string, backMs: number, of: "calls" | "hard"): number =>
          heard.reduce((all, said) => (said.router === router && said.atMs >= lastAtMs - backMs ? all + said[of] : all), 0);
        const routers = [...new Set(heard.map(({ router }) => router))];
        const accusers = routers.filter((router) => {
          const [newest] = heard.filter((said) => said.router === router);
          // Calls that hang now go on with the run of those that failed before.
          const fails = newest !== undefined && (newest.hard > 0 || newest.hangs);
          const fresh = fails && newest.atMs >= lastAtMs - evidenceFreshMs - roundingMs;
          return fresh && sum(router, callsWindowMs + roundingMs, "hard") >= failedCallsMin;
        });
        // Calls at the very edge of the window may have been forgotten already.
        const callers = routers.filter((router) => sum(router, callsWindowMs - 2 * roundingMs, "calls") >= verifyFailures);
        if (accusers.length >= 2 && accusers.length * 2 > callers.length) return;
        world.fail(
          "no_move_on_one_word",
          `${service} was moved off ${previousEndpoint} by ${accusers.length} of ${callers.length} routers`,
          {
            seq,
            accusers,
            callers,
          },
        );
      },
    };
  },
};

const hourMs = 3_600_000;
/** Leaders and readers differ by less; a move further ahead than this was made by the clock before. */
const setBackMs = 10_000;

export const moveLimit: Check = {
  guarantee: "no_more_moves_than_the_limit",
  says: "an upstream is moved automatically at most so often in an hour as its policy allows, counted anew after an operator's release, and not within its cool-down unless the last move did not help",
  start(world) {
    const moved = new Map<string, number[]>();
    return {
      onAudit({ seq, event }) {
        if (event.type === "failover.decided" && event.data.action === "released" && !event.data.automatic)
          moved.delete(event.data.service);
        if (!isAutomaticMove(event)) return;
        const { service, certificate } = event.data;
        const { movesPerHour, cooldownMs } = policyOf(world, service);
        // The limit is one of the log's own time; where its clock was set back, of the time since.
        const { nowMs } = certificate;
        const times = (moved.get(service) ?? []).filter((atMs) => nowMs - atMs < hourMs && atMs - nowMs <= setBackMs);
        const last = times.at(-1);
        const chained = certificate.rule === "verify_failed" || (event.data.state.trial?.round ?? 0) > 0;
        if (last !== undefined && nowMs - last < cooldownMs && !chained && certificate.rule !== "active_vanished") {
          world.fail("no_more_moves_than_the_limit", `${service} was moved ${nowMs - last} ms after the last move`, { seq });
        }
        times.push(nowMs);
        moved.set(service, times);
        if (times.length > movesPerHour) {
          world.fail("no_more_moves_than_the_limit", `${service} was moved ${times.length} times within an hour, ${movesPerHour} allowed`, {
            seq,
          });
        }
      },
    };
  },
};

export const fleetLimit: Check = {
  guarantee: "fleet_limits_hold",
  says: "however many deciders there are, no more automatic moves are made in the whole fleet than its limit allows, and none that was not reserved",
  start(world) {
    const [first = ""] = Object.keys(world.topology.upstreams);
    const { fleetMoves, fleetWindowMs } = policyOf(world, first);
    const reservedAtMs = new Map<string, number>();
    const moves: { readonly key: string; readonly atMs: number }[] = [];
    return {
      onAudit({ seq, event }) {
        if (event.type === "fleet.reserved") {
          for (const { upstream, epoch, atMs, operator } of event.data.reservations) {
            if (operator !== true) reservedAtMs.set(`${upstream} ${epoch}`, atMs);
          }
          const now = event.data.reservations.filter(({ operator }) => operator !== true).length;
          if (now > fleetMoves) world.fail("fleet_limits_hold", `${now} places are reserved at once, ${fleetMoves} allowed`, { seq });
        }
        if (!isAutomaticMove(event)) return;
        const { service, state } = event.data;
        const key = `${service} ${state.epoch}`;
        const atMs = reservedAtMs.get(key);
        if (atMs === undefined) return world.fail("fleet_limits_hold", `${key} was moved without a reservation`, { seq });
        moves.push({ key, atMs });
        const within = moves.filter((one) => one.atMs <= atMs && atMs - one.atMs < fleetWindowMs);
        if (within.length > fleetMoves) {
          world.fail("fleet_limits_hold", `${within.length} automatic moves in ${fleetWindowMs} ms, ${fleetMoves} allowed`, {
            seq,
            moves: within.map((one) => one.key),
          });
        }
      },
    };
  },
};

export const holdsAreKept: Check = {
  guarantee: "holds_are_kept",
  says: "nothing is moved automatically while an operator or a limit holds the upstream, and a command is obeyed once",
  start(world) {
    const held = new Map<string, Decided["state"]["held"]>();
    const obeyed = new Map<string, number>();
    return {
      onAudit({ seq, event }) {
        if (event.type !== "failover.decided") return;
        const { service, state, certificate, commandId } = event.data;
        const hold = held.get(service) ?? null;
        held.set(service, state.held);
        const inForce = hold !== null && (hold.untilMs === null || hold.untilMs > certificate.nowMs);
        // What is not configured any more is replaced all the same.
        if (isAutomaticMove(event) && inForce && certificate.rule !== "active_vanished") {
          world.fail("holds_are_kept", `${service} was moved while held: ${hold.reason}`, { seq });
        }
        if (commandId === null) return;
        const before = obeyed.get(commandId);
        if (before !== undefined) world.fail("holds_are_kept", `the command ${commandId} was obeyed twice`, { seq, before });
        obeyed.set(commandId, seq);
      },
    };
  },
};
