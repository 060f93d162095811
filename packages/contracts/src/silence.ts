import { z } from "zod";
import { channelsMax } from "./incident.ts";
import { actor, atMs } from "./primitives.ts";

/** The longest silence that one order gives: what is known to be wrong for longer is mended, or taken out of the configuration. */
export const silenceMsMax = 30 * 86_400_000;

/** `notify.silenced.<target>`, fenced: the whole silence after the change. */
export const notifySilenced = z.looseObject({
  /** Of this silence, until it ends; its messages' ids begin with it. */
  id: z.string(),
  /** An upstream by its name, or one key of incidents: `upstream/<name>`, `rollback/<scope>/<name>`, `log/rollbacks`, `log/routes`. */
  target: z.string(),
  status: z.enum(["active", "ended"]),
  /** Who gave it, or made it longer or shorter, and why. */
  by: actor,
  reason: z.string(),
  /** The last order that made it what it is, and where that one's `command.accepted` stands. */
  commandId: z.string(),
  acceptedSeq: z.number().int().positive(),
  sinceMs: atMs,
  untilMs: atMs,
  changedAtMs: atMs,
  /** Who ended it before its time; null: nobody did. */
  endedBy: z.looseObject({ by: actor, reason: z.string() }).nullable(),
  /** Each channel's last message in OUTBOX: what comes later waits until it is delivered. */
  outbox: z.record(z.string(), z.number().int().positive()),
  /** Decided to be told, not known to be in OUTBOX yet: whoever finds it puts it there. `name` makes the messages' ids. */
  telling: z
    .looseObject({
      name: z.string(),
      kind: z.enum(["silenced", "unsilenced"]),
      channels: z.array(z.string()).max(channelsMax),
      sinceMs: atMs,
    })
    .nullable(),
});
export type NotifySilenced = z.infer<typeof notifySilenced>;
