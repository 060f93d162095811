import type { StreamName } from "@mcp-failover/contracts";
import { BusError, type StreamInfo } from "../bus.ts";
import type { LogPort, PublishOutcome } from "../log-port.ts";
import { headerNames, type Outgoing, type RawMessage } from "../message.ts";
import { refuseReplicas } from "../replicas.ts";
import { ApiError, apiCodes, callApi, fromStored, readApi, type StoredWire, type StreamInfoWire, toBusError } from "./api.ts";
import type { NatsLink } from "./link.ts";
import { UnansweredError } from "./unanswered.ts";

const infoMs = 5000;

/** JetStream as the shared rules of the fence see it. */
export class NatsLog implements LogPort {
  readonly nowMs = (): number => performance.now();
  readonly #link: NatsLink;
  /** B8, looked up once a connection: streams whose fence holds on this server. */
  readonly #holding = new Set<StreamName>();

  constructor(link: NatsLink) {
    this.#link = link;
    link.onStatus(() => this.#holding.clear());
  }

  async publish(message: Outgoing, timeoutMs: number): Promise<PublishOutcome> {
    try {
      if (message.headers[headerNames.expectedSeq] !== undefined) await this.#fenceHolds(message.stream, timeoutMs);
    } catch (cause) {
      if (cause instanceof BusError && !cause.retriable) throw cause;
      return { kind: "unknown", sent: false, cause };
    }
    try {
      const ack = readApi<{ seq: number; duplicate?: boolean }>(
        await this.#link.request(message.subject, message.bytes, { timeoutMs, headers: message.headers }),
      );
      // What was there already says nothing about what is stored now.
      if (ack.duplicate !== true) this.#link.store.stored(message.stream);
      return { kind: "stored", seq: ack.seq, duplicate: ack.duplicate === true };
    } catch (cause) {
      this.#link.store.failed(message.stream, cause);
      // Closed for good: no later try can work.
      if (cause instanceof UnansweredError && cause.cause instanceof BusError && !cause.cause.retriable) throw cause.cause;
      if (cause instanceof UnansweredError) return { kind: "unknown", sent: cause.sent, cause };
      if (cause instanceof ApiError) return refused(cause, message);
      throw toBusError(cause, `store ${message.subject}`, message.stream);
    }
  }

  async lastOf(stream: StreamName, subject: string, timeoutMs: number): Promise<RawMessage | null> {
    return this.#get(stream, { last_by_subj: subject }, timeoutMs);
  }

  async at(stream: StreamName, seq: number, timeoutMs: number): Promise<RawMessage | null> {
    return this.#get(stream, { seq }, timeoutMs);
  }

  async info(stream: StreamName): Promise<StreamInfo> {
    const { config, state } = await this.streamInfo(stream, infoMs);
    return {
      firstSeq: state.first_seq,
      lastSeq: state.last_seq,
      messages: state.messages,
      bytes: state.bytes,
      maxBytes: config.max_bytes,
      maxMessages: config.max_msgs ?? -1,
      replicas: config.num_replicas,
    };
  }

  async streamInfo(stream: StreamName, timeoutMs: number): Promise<StreamInfoWire> {
    try {
      return await callApi<StreamInfoWire>(this.#link, `STREAM.INFO.${stream}`, undefined, timeoutMs);
    } catch (cause) {
      throw toBusError(cause, `look at the stream ${stream}`, stream);
    }
  }

  async sleep(ms: number): Promise<void> {
    await this.#link.sleep(ms);
  }

  /** `STREAM.MSG.GET` is answered by the stream's leader; direct gets may come from a replica that lags. */
  async #get(stream: StreamName, body: object, timeoutMs: number): Promise<RawMessage | null> {
    try {
      return fromStored(stream, await callApi<StoredWire>(this.#link, `STREAM.MSG.GET.${stream}`, body, timeoutMs));
    } catch (cause) {
      if (cause instanceof ApiError && cause.errCode === apiCodes.messageNotFound) return null;
      throw toBusError(cause, `read from the stream ${stream}`, stream);
    }
  }

  async #fenceHolds(stream: StreamName, timeoutMs: number): Promise<void> {
    if (this.#holding.has(stream)) return;
    await this.#link.reach(timeoutMs);
    const { status } = this.#link;
    const { config } = await this.streamInfo(stream, timeoutMs);
    if (status.kind !== "connected") throw this.#link.unreachable();
    refuseReplicas(config.num_replicas, status.serverVersion);
    if (this.#link.status === status) this.#holding.add(stream);
  }
}

/** What an error of the stream means for the message: it was not stored, or nobody can say. */
function refused(error: ApiError, { stream, subject }: Outgoing): PublishOutcome {
  if (error.errCode === apiCodes.wrongLastSequence || error.errCode === apiCodes.sequenceInFlight) return { kind: "wrong_sequence" };
  if (error.errCode === apiCodes.messageTooLarge) {
    throw new BusError("too_large", `${subject}: the message is larger than ${stream} takes`, { retriable: false, cause: error });
  }
  if (error.errCode === apiCodes.streamStoreFailed && /maximum/.test(error.message)) {
    throw new BusError("stream_full", `the stream ${stream} is full: make room or raise its limit (\`mcpf doctor\` shows how full it is)`, {
      retriable: true,
      cause: error,
    });
  }
  if (error.status >= 500) return { kind: "unknown", sent: true, cause: error };
  throw toBusError(error, `store ${subject}`, stream);
}
