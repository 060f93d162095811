import type { ProberHeartbeat } from "@mcp-failover/contracts";
import { ownerOf, type ProberPolicy } from "@mcp-failover/domain";

/**
 * Which probers live, by their heartbeats, and so which endpoints are whose.
 *
 * G1  A prober that was silent for `deadAfterMs` is dead; one that says it is leaving is gone at once.
 * G2  A prober settles before it takes endpoints: it has then heard everybody who is there. Who hears of a new one answers at once, and
 *     leaves it nothing before it says that it is ready.
 * G3  While the bus is gone, or after this process stood still, nobody is taken for dead: nobody could be heard.
 */
export interface Fleet {
  hear(heartbeat: ProberHeartbeat): void;
  /** Other live probers that are ready. */
  peers(): string[];
  readonly settled: boolean;
  owns(key: string): boolean;
  setConnected(connected: boolean): void;
  stop(): void;
}

export interface FleetOptions {
  readonly self: string;
  readonly startedAtMs: number;
  readonly policy: Pick<ProberPolicy, "heartbeatMs" | "deadAfterMs" | "settleMs">;
  /** Monotonic milliseconds. */
  readonly clockMs: () => number;
  readonly send: (state: { readonly settled: boolean; readonly leaving: boolean }) => void;
  /** The set of live probers, or the own standing in it, has changed. */
  readonly onChange: () => void;
  /** Another process says heartbeats in this one's name. */
  readonly onImpostor: () => void;
}

/** Heartbeats in answer to new probers come no closer together than this. */
const answerMs = 100;

export function joinFleet(options: FleetOptions): Fleet {
  const { self, policy, clockMs } = options;
  const others = new Map<string, { heardAtMs: number; ready: boolean }>();
  const tickMs = policy.heartbeatMs / 2;
  let settled = false;
  let connected = true;
  let lastTickMs = clockMs();
  let lastSentMs = Number.NEGATIVE_INFINITY;
  let connectedMs = 0;

  function send(): void {
    lastSentMs = clockMs();
    options.send({ settled, leaving: false });
  }

  function tick(): void {
    const nowMs = clockMs();
    const stoodStillMs = nowMs - lastTickMs - tickMs;
    const skipped = stoodStillMs > policy.heartbeatMs;
    if (connected && !skipped) connectedMs += nowMs - lastTickMs;
    lastTickMs = nowMs;
    if (!connected || skipped) {
      for (const other of others.values()) other.heardAtMs = nowMs;
    }
    let changed = false;
    for (const [name, { heardAtMs }] of others) {
      if (nowMs - heardAtMs < policy.deadAfterMs) continue;
      others.delete(name);
      changed = true;
    }
    if (!settled && connectedMs >= policy.settleMs) {
      settled = true;
      changed = true;
    }
    if (changed) options.onChange();
    if (connected && (changed || nowMs - lastSentMs >= policy.heartbeatMs - tickMs / 2)) send();
  }

  const peers = (): string[] => [...others].filter(([, other]) => other.ready).map(([name]) => name);
  const timer = setInterval(tick, tickMs);
  send();
  return {
    hear(heartbeat) {
      if (heartbeat.prober === self) {
        if (heartbeat.startedAtMs !== options.startedAtMs) options.onImpostor();
        return;
      }
      if (heartbeat["leaving"] === true) {
        if (others.delete(heartbeat.prober)) options.onChange();
        return;
      }
      const known = others.get(heartbeat.prober);
      const { ready } = heartbeat;
      others.set(heartbeat.prober, { heardAtMs: clockMs(), ready });
      if (known === undefined && clockMs() - lastSentMs >= answerMs) send();
      if (ready !== (known?.ready ?? false)) options.onChange();
    },
    peers,
    get settled() {
      return settled;
    },
    owns: (key) => settled && ownerOf(key, [self, ...peers()]) === self,
    setConnected(now) {
      if (now === connected) return;
      connected = now;
      if (now) {
        const nowMs = clockMs();
        for (const other of others.values()) other.heardAtMs = nowMs;
        send();
      }
    },
    stop() {
      clearInterval(timer);
      options.send({ settled, leaving: true });
    },
  };
}
