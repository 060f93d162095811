import type { StreamName } from "@mcp-failover/contracts";
import type { Msg, MsgHdrs } from "nats";
import { BusError } from "../bus.ts";
import type { RawMessage } from "../message.ts";
import type { NatsLink } from "./link.ts";
import { UnansweredError } from "./unanswered.ts";

/** An error that the JetStream API answered with. https://github.com/nats-io/nats-server/blob/main/server/errors.json */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;
  readonly errCode: number;
  constructor(error: { code: number; err_code?: number; description?: string }) {
    super(error.description ?? `JetStream error ${error.code}`);
    this.status = error.code;
    this.errCode = error.err_code ?? 0;
  }
}

const againMs = 100;

export const apiCodes = {
  streamNotFound: 10059,
  messageNotFound: 10037,
  consumerNotFound: 10014,
  consumerExists: 10148,
  consumerNameInUse: 10013,
  wrongLastSequence: 10071,
  /** Replicated streams since 2.11: another message for the subject is on its way, whose fate is not known yet. */
  sequenceInFlight: 10164,
  streamStoreFailed: 10077,
  messageTooLarge: 10054,
  streamNameInUse: 10058,
  insufficientStorage: 10047,
  /** The limit of the server is reached, or of the account. */
  insufficientResources: 10023,
  notEnabled: 10076,
  notEnabledForAccount: 10039,
  /** Nodes of a cluster that has just begun have not all found each other, or have no room. */
  noSuitablePeers: 10005,
} as const;

/**
 * Asks the JetStream API. A server that has just started listens before JetStream does: it is asked again until the time-out.
 * Throws {@link ApiError}, {@link UnansweredError} and what the link throws.
 */
export async function callApi<T>(link: NatsLink, verb: string, body: unknown, timeoutMs: number): Promise<T> {
  const bytes = body === undefined ? new Uint8Array() : new TextEncoder().encode(JSON.stringify(body));
  const endMs = performance.now() + timeoutMs;
  for (;;) {
    try {
      return readApi<T>(await link.request(`${link.apiPrefix}.${verb}`, bytes, { timeoutMs: Math.max(1, endMs - performance.now()) }));
    } catch (error) {
      if (!(error instanceof UnansweredError && error.reason === "no_responders") || performance.now() + againMs > endMs) throw error;
      await link.sleep(againMs);
    }
  }
}

/** Reads the JSON of an answer of JetStream. Throws {@link ApiError}. */
export function readApi<T>(message: Msg): T {
  const answer = JSON.parse(new TextDecoder().decode(message.data)) as { error?: ConstructorParameters<typeof ApiError>[0] };
  if (answer.error !== undefined) throw new ApiError(answer.error);
  return answer as T;
}

/** What our callers see of a failure. `unanswered` of a read is always worth another try. */
export function toBusError(error: unknown, what: string, stream?: StreamName): BusError {
  if (error instanceof BusError) return error;
  if (error instanceof UnansweredError) {
    if (error.cause instanceof BusError) return error.cause;
    if (error.reason === "disconnected")
      return new BusError("unreachable", `could not ${what}: NATS is out of reach`, { retriable: true, cause: error });
    if (error.reason === "no_responders") {
      return new BusError("unreachable", `could not ${what}: JetStream does not answer; see that nats-server runs with it`, {
        retriable: true,
        cause: error,
      });
    }
    return new BusError("timeout", `could not ${what} in time: NATS answers slowly or not at all`, { retriable: true, cause: error });
  }
  if (error instanceof ApiError) {
    if (error.errCode === apiCodes.streamNotFound) return missingStream(stream ?? "(unknown)", error);
    // 5xx: no leader just now, JetStream is starting, and the like. It passes, as a cluster does that is not whole yet.
    const passes = error.status >= 500 || error.errCode === apiCodes.noSuitablePeers;
    return new BusError(passes ? "unreachable" : "rejected", `could not ${what}: ${error.message} (JetStream ${error.errCode})`, {
      retriable: passes,
      cause: error,
    });
  }
  return new BusError("rejected", `could not ${what}: ${error instanceof Error ? error.message : String(error)}`, {
    retriable: false,
    cause: error,
  });
}

function missingStream(name: string, cause?: unknown): BusError {
  return new BusError("rejected", `the stream ${name} does not exist yet: bootstrap makes it`, { retriable: true, cause });
}

/** As `STREAM.MSG.GET` answers. */
export interface StoredWire {
  readonly message: {
    readonly subject: string;
    readonly seq: number;
    readonly hdrs?: string;
    readonly data?: string;
    readonly time: string;
  };
}

export function fromStored(stream: StreamName, { message }: StoredWire): RawMessage {
  return {
    stream,
    seq: message.seq,
    subject: message.subject,
    timeMs: wholeMs(message.time),
    headers: headersFrom(Buffer.from(message.hdrs ?? "", "base64").toString("utf8")),
    bytes: new Uint8Array(Buffer.from(message.data ?? "", "base64")),
  };
}

/** Cut off, not rounded, as the nanoseconds of a delivered message are. */
function wholeMs(time: string): number {
  const fraction = /\.(\d+)/.exec(time)?.[1] ?? "";
  return Date.parse(`${time.slice(0, 19)}Z`) + Number(fraction.padEnd(3, "0").slice(0, 3));
}

function headersFrom(block: string): Record<string, string> {
  const fields: Record<string, string> = {};
  for (const line of block.split("\r\n").slice(1)) {
    const colon = line.indexOf(":");
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).trim();
  }
  return fields;
}

export function headersOf(wire: MsgHdrs | undefined): Record<string, string> {
  const fields: Record<string, string> = {};
  for (const name of wire?.keys() ?? []) fields[name] = wire?.get(name) ?? "";
  return fields;
}

/** Where a delivered message stands, from its reply subject `$JS.ACK.…`; null for anything else. */
export interface Position {
  readonly attempt: number;
  readonly seq: number;
  /** Its number among the deliveries of the consumer: a gap is a loss. */
  readonly delivery: number;
  readonly timeMs: number;
  /** How many more waited on the server. */
  readonly pending: number;
}

export function positionOf(replyTo: string | undefined): Position | null {
  if (replyTo === undefined || !replyTo.startsWith("$JS.ACK.")) return null;
  const tokens = replyTo.split(".");
  // $JS.ACK.<stream>.<consumer>.<attempt>.<seq>.<delivery>.<time>.<pending>, and since 2.11 optionally .<domain>.<account> before <stream>.
  const at = tokens.length === 9 ? 4 : tokens.length >= 11 ? 6 : -1;
  if (at < 0) return null;
  const [attempt, seq, delivery, timeNs, pending] = tokens.slice(at, at + 5);
  return {
    attempt: Number(attempt),
    seq: Number(seq),
    delivery: Number(delivery),
    timeMs: Number(timeNs?.slice(0, -6)),
    pending: Number(pending),
  };
}

export function fromDelivered(stream: StreamName, message: Msg, position: Position): RawMessage {
  const { seq, timeMs } = position;
  const { buffer, byteOffset, byteLength } = message.data;
  return {
    stream,
    seq,
    subject: message.subject,
    timeMs,
    headers: headersOf(message.headers),
    bytes: new Uint8Array(buffer, byteOffset, byteLength),
  };
}

/** As `STREAM.INFO` answers, as far as we read it. */
export interface StreamInfoWire {
  readonly created: string;
  readonly config: Record<string, unknown> & {
    readonly subjects?: string[];
    readonly max_bytes: number;
    readonly max_msgs?: number;
    readonly max_age: number;
    readonly max_msg_size?: number;
    readonly duplicate_window?: number;
    readonly num_replicas: number;
  };
  readonly state: { readonly messages: number; readonly bytes: number; readonly first_seq: number; readonly last_seq: number };
}
