import type { ProberHeartbeat } from "@mcp-failover/contracts";
import { ownerOf, type ProberPolicy } from "@mcp-failover/domain";

/**
 * Which probers live, by their heartbeats, and so which endpoints are whose.
 *
 * G1  A prober that was silent for `deadAfterMs` is dead; one that says it is leaving is gone at once. What it said
 *     that comes after another process has its name takes nobody away.
 * G2  A prober settles before it takes endpoints: it has then heard everybody who is there. Who hears of a new one answers at once, and
 *     leaves it nothing before it says that it is ready.
 * G3  While the bus is gone, or after this process stood still, nobody is taken for dead: nobody could be heard.
 * G4  Who says that it is isolated owns nothing, as long as anybody is not; where all are, they share as ever. It is not asked, but by who
 *     reaches no reference either: what is wrong with those may be all that is wrong with it, and one word alone is no majority.
 */
export interface Fleet {
  hear(heartbeat: ProberHeartbeat): void;
  /** Other live probers that are ready, and not isolated. */
  peers(): string[];
  /** Those that are ready, and isolated. */
  isolatedPeers(): string[];
  /** Where a prober stands, itself included; null: it does not say, or is not live. */
  zoneOf(prober: string): string | null;
  /** This prober reaches none of its references, or does again. */
  setIsolated(isolated: boolean): void;
  readonly settled: boolean;
  owns(key: string): boolean;
  setConnected(connected: boolean): void;
  stop(): void;
}

export interface FleetOptions {
  readonly self: string;
  readonly zone: string | null;
  readonly startedAtMs: number;
  readonly policy: Pick<ProberPolicy, "heartbeatMs" | "deadAfterMs" | "settleMs">;
  /** Monotonic milliseconds. */
  readonly clockMs: () => number;
  readonly send: (state: { readonly settled: boolean; readonly leaving: boolean; readonly isolated: boolean }) => void;
  /** The set of live probers, or the own standing in it, has changed. */
  readonly onChange: () => void;
  /** Another process says heartbeats in this one's name. */
  readonly onImpostor: () => void;
}

/** Heartbeats in answer to new probers come no closer together than this. */
const answerMs = 100;

export function joinFleet(options: FleetOptions): Fleet {
  const { self, policy, clockMs } = options;
  const others = new Map<string, { startedAtMs: number; heardAtMs: number; ready: boolean; isolated: boolean; zone: string | null }>();
  /** Timers are this far off at most: who said something so short a time before it was due need not say it again. */
  const earlyMs = policy.heartbeatMs / 4;
  let settled = false;
  let isolated = false;
  let connected = true;
  let lastTickMs = clockMs();
  let dueMs = lastTickMs;
  let waited = false;
  let timer: NodeJS.Timeout;
  let lastSentMs = Number.NEGATIVE_INFINITY;
  let connectedMs = 0;

  function send(): void {
    lastSentMs = clockMs();
    options.send({ settled, leaving: false, isolated });
  }

  function tick(): void {
    const nowMs = clockMs();
    const skipped = nowMs - dueMs > policy.heartbeatMs;
    if (connected && !skipped) connectedMs += nowMs - lastTickMs;
    lastTickMs = nowMs;
    if (!connected || skipped) {
      for (const other of others.values()) other.heardAtMs = nowMs;
    }
    let changed = false;
    // This process was late itself: what others have said meanwhile is heard before anybody is taken for dead, once.
    const waits = !waited && nowMs - dueMs > earlyMs;
    waited = waits;
    for (const [name, { heardAtMs }] of others) {
      if (waits || nowMs - heardAtMs < policy.deadAfterMs) continue;
      others.delete(name);
      changed = true;
    }
    if (!settled && connectedMs >= policy.settleMs) {
      settled = true;
      changed = true;
    }
    if (changed) onChange();
    if (connected && (changed || nowMs - lastSentMs >= policy.heartbeatMs - earlyMs)) send();
    arm(nowMs);
  }

  /** The next look: when a heartbeat is due, somebody may be dead, or this prober has settled; a heartbeat later at most. */
  function arm(nowMs: number): void {
    dueMs = Math.min(nowMs, lastSentMs) + policy.heartbeatMs;
    if (!connected || dueMs <= nowMs) dueMs = nowMs + policy.heartbeatMs;
    else {
      for (const { heardAtMs } of others.values()) dueMs = Math.min(dueMs, heardAtMs + policy.deadAfterMs + earlyMs);
      if (!settled) dueMs = Math.min(dueMs, nowMs + policy.settleMs - connectedMs);
    }
    dueMs = Math.max(dueMs, nowMs + 1);
    timer = setTimeout(tick, Math.ceil(dueMs - nowMs));
  }

  const peers = (): string[] => [...others].filter(([, other]) => other.ready && !other.isolated).map(([name]) => name);
  const isolatedPeers = (): string[] => [...others].filter(([, other]) => other.ready && other.isolated).map(([name]) => name);
  /** G4. */
  function members(): string[] {
    const fit = peers();
    if (!isolated) return [self, ...fit];
    return fit.length > 0 ? fit : [self, ...isolatedPeers()];
  }
  let membersKnown: string[] | null = null;
  const onChange = (): void => {
    membersKnown = null;
    options.onChange();
  };
  send();
  arm(lastTickMs);
  return {
    hear(heartbeat) {
      if (heartbeat.prober === self) {
        if (heartbeat.startedAtMs !== options.startedAtMs) options.onImpostor();
        return;
      }
      const known = others.get(heartbeat.prober);
      const { ready, zone, startedAtMs } = heartbeat;
      if (heartbeat.leaving === true) {
        if (known?.startedAtMs !== startedAtMs) return;
        others.delete(heartbeat.prober);
        onChange();
        return;
      }
      const cutOff = heartbeat.isolated === true;
      others.set(heartbeat.prober, { startedAtMs, heardAtMs: clockMs(), ready, zone, isolated: cutOff });
      if (known === undefined && clockMs() - lastSentMs >= answerMs) send();
      if (ready !== (known?.ready ?? false) || cutOff !== (known?.isolated ?? false)) onChange();
    },
    peers,
    isolatedPeers,
    zoneOf: (prober) => (prober === self ? options.zone : (others.get(prober)?.zone ?? null)),
    setIsolated(now) {
      if (now === isolated) return;
      isolated = now;
      if (connected) send();
      onChange();
    },
    get settled() {
      return settled;
    },
    owns(key) {
      membersKnown ??= members();
      return settled && ownerOf(key, membersKnown) === self;
    },
    setConnected(now) {
      if (now === connected) return;
      const nowMs = clockMs();
      // Only the time in which others could be heard counts (G2).
      if (connected && nowMs - dueMs <= policy.heartbeatMs) connectedMs += nowMs - lastTickMs;
      lastTickMs = nowMs;
      connected = now;
      if (now) {
        for (const other of others.values()) other.heardAtMs = nowMs;
        send();
      }
    },
    stop() {
      clearTimeout(timer);
      options.send({ settled, leaving: true, isolated });
    },
  };
}
