import type { ProbeCheck } from "@mcp-failover/contracts";
import type { Seen } from "@mcp-failover/domain";
import type { Ending } from "./deadline.ts";
import type { ProbeResult } from "./result.ts";

/** What a probe of any type is given. Addresses and credentials are resolved; the signal ends it. */
export interface CheckContext {
  /** Names the check among all: what is kept between its probes is kept under this key... */
  readonly key: string;
  /** ...for as long as this stays the same. */
  readonly identity: string;
  readonly upstream: string;
  readonly endpoint: string;
  readonly check: ProbeCheck;
  readonly headers: Readonly<Record<string, string>>;
  readonly auth: { readonly username: string | null; readonly password: string } | null;
  /** PEM. */
  readonly ca: string | null;
  /** On a connection of its own. */
  readonly fresh: boolean;
  readonly deadline: Ending;
  /** The same, for who needs a whole signal. */
  readonly signal: AbortSignal;
  readonly nowMs: number;
}

/** What it came to, and what assertions can look at. */
export interface CheckFound {
  readonly result: ProbeResult;
  readonly seen: Partial<Seen>;
  /** The body is longer than what was read of it. */
  readonly isCut?: boolean;
}

/** Nothing could be learned about the endpoint here, and nothing is said about it. */
export class NotMadeError extends Error {
  override readonly name = "NotMadeError";
  readonly code = "probe_not_made";
  readonly retriable = true;
  readonly reason: "waiting" | "not_allowed" | "too_large" | "exhausted";
  constructor(reason: NotMadeError["reason"], message: string) {
    super(message);
    this.reason = reason;
  }
}

/** The endpoint answered, but not in the protocol that it should speak. */
export class MalformedError extends Error {
  override readonly name = "MalformedError";
  readonly code = "HPE_PROBE_MALFORMED";
  readonly retriable = false;
}

/** A document for assertions, out of a text. */
export function documentOf(text: string): Pick<Seen, "json" | "jsonProblem"> {
  try {
    return { json: JSON.parse(text) as unknown, jsonProblem: null };
  } catch {
    return { json: undefined, jsonProblem: text.trim() === "" ? "an empty body" : "a body that is no JSON" };
  }
}
