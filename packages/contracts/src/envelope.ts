import { z } from "zod";

/** CloudEvents 1.0, structured JSON. https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md */
export const envelope = z.looseObject({
  specversion: z.literal("1.0"),
  id: z.string().min(1).max(256),
  /** `mcp-failover/<service>/<instance>` */
  source: z.string().min(1).max(256),
  /** The event type, which is also the beginning of the subject: `health.changed`. */
  type: z.string().min(1).max(128),
  /** The key tokens, undecoded ids joined by "/": `pinecone/primary`. */
  subject: z.string().min(1).max(512).optional(),
  time: z.iso.datetime({ offset: true }),
  datacontenttype: z.literal("application/json"),
  /** `urn:mcp-failover:<type>:<version>`; an event of a later version than the reader knows is refused by that. */
  dataschema: z.string(),
  /** W3C trace context. */
  traceparent: z.string().optional(),
  data: z.unknown(),
});
/** The fields are named one by one, because `Omit` loses them behind the index signature of an open object. */
export type Envelope<T = unknown> = Pick<
  z.infer<typeof envelope>,
  "specversion" | "id" | "source" | "type" | "subject" | "time" | "datacontenttype" | "dataschema" | "traceparent"
> & { data: T };

export const contentType = "application/cloudevents+json";
/** Header with the SHA-256 (hex) of the stored bytes: one altered byte is found and named by `mcpf events verify`. */
export const integrityHeader = "Mcpf-Sha256";
