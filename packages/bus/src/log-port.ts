import type { StreamName } from "@mcp-failover/contracts";
import type { Outgoing, RawMessage } from "./message.ts";

/** How one try to store a message ended. Whatever is known to have failed for good is thrown as a `BusError`. */
export type PublishOutcome =
  | { readonly kind: "stored"; readonly seq: number; readonly duplicate: boolean }
  /** The expected last sequence of the subject is not the last, or may not be for long: this message was not stored. */
  | { readonly kind: "wrong_sequence" }
  /** No answer. `sent` is false when it certainly never left. */
  | { readonly kind: "unknown"; readonly sent: boolean; readonly cause: unknown };

/** What the shared rules (fence, append, quarantine) need of a store. Both adapters give it; neither repeats anything by itself. */
export interface LogPort {
  publish(message: Outgoing, timeoutMs: number): Promise<PublishOutcome>;
  /** Reads from the store that acknowledges, never from a replica. Throws `BusError` `unreachable` or `timeout`. */
  lastOf(stream: StreamName, subject: string, timeoutMs: number): Promise<RawMessage | null>;
  at(stream: StreamName, seq: number, timeoutMs: number): Promise<RawMessage | null>;
  /** For time-outs only: on a real machine a clock that nobody sets, or a publish would go on for as long as the clock was set back. */
  readonly nowMs: () => number;
  sleep(ms: number): Promise<void>;
}
