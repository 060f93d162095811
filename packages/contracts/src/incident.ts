import { z } from "zod";
import { actor, atMs } from "./primitives.ts";

/** `page` wakes someone; `notify` is read in the morning. */
export const severity = z.enum(["page", "notify"]);
export type Severity = z.infer<typeof severity>;

/** Channels of a configuration, and so those that an incident is told to. */
export const channelsMax = 100;

/** What a message names of an upstream's contacts. */
export const contactLimits = { countMax: 10, charsMax: 200 } as const;

/** A contact as people are told of it. `how`: how to reach it, where the configuration says so. */
export function contactText(contact: string, how: string | undefined): string {
  return how === undefined ? contact : `${contact}: ${how}`;
}

/** `incident.changed.<id>`, fenced: the whole incident after the change. */
export const incidentChanged = z.looseObject({
  id: z.string(),
  /** Groups what belongs together; one open incident a key. */
  dedupKey: z.string(),
  upstream: z.string().nullable(),
  severity,
  status: z.enum(["open", "acknowledged", "resolved"]),
  title: z.string(),
  /** One line a cause, oldest first. */
  causes: z.array(z.looseObject({ atMs, subject: z.string(), seq: z.number().int(), text: z.string() })).max(100),
  openedAtMs: atMs,
  changedAtMs: atMs,
  /** When the first notification is due or was enqueued; null when none is wanted. */
  notifyAtMs: atMs.nullable(),
  /** Notifications already put in the outbox. */
  notified: z.array(z.enum(["opened", "escalated", "resolved"])),
  acknowledgedBy: actor.nullable(),
  /** Nowhere to go, and that is in force. */
  deadEnd: z.boolean().optional(),
  /**
   * The last outage of what agents use, or the last news of a rollback: its first cause, when it was last heard of, and when it is to be
   * told. `severity`: where it is not that of the incident.
   */
  outage: z.looseObject({ seq: z.number().int().positive(), atMs, dueAtMs: atMs, severity: severity.optional() }).nullable().optional(),
  /** All that is wrong so far is planned work: nobody is told before it ends. */
  maintenance: z.looseObject({ name: z.string(), untilMs: atMs }).nullable().optional(),
  /** The last notification that was decided, and each channel's last message in OUTBOX: what comes later waits until it is delivered. */
  told: z
    .looseObject({
      severity,
      deadEnd: z.boolean(),
      atMs,
      /** The newest cause that the message knew. */
      seq: z.number().int().nonnegative().optional(),
      channels: z.array(z.string()).max(channelsMax),
      outbox: z.record(z.string(), z.number().int().positive()),
    })
    .nullable()
    .optional(),
  /** Decided to be told, not known to be in OUTBOX yet: whoever finds it puts it there. `name` makes the messages' ids. */
  telling: z
    .looseObject({
      name: z.string(),
      kind: z.enum(["opened", "escalated", "resolved"]),
      channels: z.array(z.string()).max(channelsMax),
      /** Of the messages; that of the incident where there is none. */
      severity: severity.optional(),
      sinceMs: atMs,
    })
    .nullable()
    .optional(),
});
export type IncidentChanged = z.infer<typeof incidentChanged>;

/** `outbox.<channel>`, work queue: one notification for one channel. */
export const notification = z.looseObject({
  /** Stable: `<incident>/<kind>/<channel>`; receivers may drop repeats by it. */
  id: z.string(),
  channel: z.string(),
  incidentId: z.string(),
  /** `silenced`, `unsilenced`: of a silence, whose id is the `incidentId` then. */
  kind: z.enum(["opened", "escalated", "resolved", "silenced", "unsilenced", "test"]),
  severity,
  title: z.string(),
  text: z.string(),
  upstream: z.string().nullable(),
  atMs,
  /** Sequence in OUTBOX of what this channel has to be told first; null where there is nothing. */
  afterSeq: z.number().int().positive().nullable().optional(),
});
export type Notification = z.infer<typeof notification>;

/** `notify.sent.<channel>` and `notify.failed.<channel>`. */
export const notifyResult = z.looseObject({
  notificationId: z.string(),
  channel: z.string(),
  incidentId: z.string(),
  kind: z.string(),
  attempt: z.number().int().positive(),
  timestamp: z.iso.datetime(),
  /** For `failed`: why, and whether it will be tried again. */
  error: z.string().nullable(),
  willRetry: z.boolean(),
});
export type NotifyResult = z.infer<typeof notifyResult>;
