/**
 * The streams and their limits, as data. `maxBytes` with `discard: "new"` on AUDIT is the emergency stop: decisions stop,
 * traffic goes on. Nothing in AUDIT is ever dropped by age.
 */
export interface StreamDefinition {
  readonly name: "AUDIT" | "SIGNALS" | "OUTBOX" | "QUARANTINE";
  readonly subjects: readonly string[];
  readonly retention: "limits" | "workqueue";
  readonly discard: "new" | "old";
  /** 0: no limit. */
  readonly maxAgeMs: number;
  readonly maxBytes: number;
  /** A second bound, for many small ones: the server keeps something of each in memory. */
  readonly maxMessages: number;
  readonly maxMsgBytes: number;
  /** The window in which the server drops a repeated message id. */
  readonly duplicateWindowMs: number;
}

const hourMs = 3_600_000;
const mib = 1024 * 1024;

export const streams: readonly StreamDefinition[] = [
  {
    name: "AUDIT",
    subjects: [
      "log.>",
      "config.>",
      "health.>",
      "breaker.>",
      "failover.>",
      "fleet.>",
      "rollback.>",
      "command.accepted.>",
      "incident.>",
      "notify.>",
      "chaos.>",
    ],
    retention: "limits",
    discard: "new",
    maxAgeMs: 0,
    maxBytes: 4096 * mib,
    maxMessages: 10_000_000,
    maxMsgBytes: mib,
    duplicateWindowMs: 120_000,
  },
  {
    name: "SIGNALS",
    subjects: ["probe.observed.>", "traffic.observed.>"],
    retention: "limits",
    discard: "old",
    maxAgeMs: 72 * hourMs,
    maxBytes: 2048 * mib,
    maxMessages: 10_000_000,
    maxMsgBytes: mib,
    duplicateWindowMs: 120_000,
  },
  {
    name: "OUTBOX",
    subjects: ["outbox.>"],
    retention: "workqueue",
    discard: "new",
    maxAgeMs: 0,
    maxBytes: 256 * mib,
    maxMessages: 100_000,
    maxMsgBytes: 256 * 1024,
    duplicateWindowMs: 120_000,
  },
  {
    name: "QUARANTINE",
    subjects: ["quarantine.>"],
    retention: "limits",
    discard: "old",
    maxAgeMs: 30 * 24 * hourMs,
    maxBytes: 256 * mib,
    maxMessages: 100_000,
    maxMsgBytes: mib,
    duplicateWindowMs: 120_000,
  },
];
export type StreamName = StreamDefinition["name"];

/** Limits of a work queue. */
export const queueLimits = {
  /**
   * Messages that are with handlers at a time, of all instances, or that a handler put off. With so many the server hands out nothing new:
   * a receiver that takes nothing for a day must not get there, because it would stop all others.
   */
  ackPendingMax: 10_000,
  /** Failures of a handler that do not pass by themselves, until the message is put aside: two minutes with the pauses between. */
  failuresMax: 10,
  /** Deliveries of any outcome: more than once a second for the day after which notifications are given up. */
  deliveriesMax: 100_000,
} as const;
