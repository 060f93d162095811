import { z } from "zod";

/** The characters of stream names, tokens and wildcards: nothing that could end a line of the protocol. */
const filter = z.string().regex(/^[A-Za-z0-9_/~.*>-]{1,256}$/);

/** What a client asks the keeper for: a consumer of a stream that it may read, and where it begins. */
export const consumerWish = z.object({
  stream: z.string(),
  filter,
  from: z.union([
    z.object({ kind: z.enum(["all", "last_per_subject"]) }),
    z.object({ kind: z.literal("seq"), seq: z.number().int().min(1) }),
    z.object({ kind: z.literal("time"), time: z.iso.datetime() }),
  ]),
  /** A durable one that all instances share, of its own by the table. */
  queue: z.object({ durable: z.string(), ackWaitMs: z.number().int().min(100).max(3_600_000) }).optional(),
});
export type ConsumerWish = z.infer<typeof consumerWish>;

/** A consumer that it needs no more. */
export const consumerClosed = z.object({ stream: z.string(), name: z.string().regex(/^[A-Za-z0-9_-]{1,128}$/) });
