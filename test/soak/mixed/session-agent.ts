import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import type { Transport } from "@modelcontextprotocol/sdk/shared/transport.js";
import { ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import type { Book } from "./book.ts";
import { countAnswers, outcomeOf } from "./counted.ts";

/** What agents say of their patience, and how long they really wait: a machine that does much else answers late, and that is not the question. */
export const deadlineMs = 8000;
export const patienceMs = 45_000;
export const headers = { "mcpf-timeout-ms": String(deadlineMs) };

/** A tool call, and what has to come back. */
export interface Wanted {
  /** As it is counted. */
  readonly kind: string;
  readonly tool: string;
  args(mark: string): Record<string, unknown>;
  answer(mark: string): string;
}

const reconnectionOptions = { initialReconnectionDelay: 200, maxReconnectionDelay: 1000, reconnectionDelayGrowFactor: 1.5, maxRetries: 8 };
const tries = 3;

interface Connected {
  readonly client: Client;
  readonly transport: StreamableHTTPClientTransport;
  callsLeft: number;
  inFlight: number;
  over: boolean;
}

/** A client of SDK 1.x (2025-11-25): a session with its own stream, which ends and begins anew after some calls, as agents come and go. */
export class SessionAgent {
  readonly #url: URL;
  readonly #name: string;
  readonly #book: Book;
  readonly #callsPerSession: number;
  #current: Connected | null = null;
  #connecting: Promise<Connected | null> | null = null;
  readonly #ending = new Set<Promise<void>>();
  /** Sessions that could not be ended while something else was out of order. */
  readonly #left: string[] = [];
  #heard = 0;

  constructor(url: string, name: string, book: Book, callsPerSession: number) {
    this.#url = new URL(url);
    this.#name = name;
    this.#book = book;
    this.#callsPerSession = callsPerSession;
  }
  /** Messages that came without having been asked for. */
  get heard(): number {
    return this.#heard;
  }

  async call(wanted: Wanted): Promise<void> {
    const connected = await this.#connected();
    if (connected === null) return;
    connected.inFlight += 1;
    connected.callsLeft -= 1;
    if (connected.callsLeft <= 0) this.#leave(connected);
    const mark = this.#book.begin(wanted.kind);
    const begunMs = Date.now();
    try {
      const options = { timeout: patienceMs, onprogress: () => undefined };
      const result = await connected.client.callTool({ name: wanted.tool, arguments: wanted.args(mark) }, undefined, options);
      const text = String((result as { content?: { text?: string }[] }).content?.[0]?.text);
      const outcome = text === wanted.answer(mark) ? "ok" : result.isError === true ? "error tool" : "wrong";
      this.#book.end(wanted.kind, mark, begunMs, outcome, text);
    } catch (error) {
      const { outcome, detail } = outcomeOf(error);
      this.#book.end(wanted.kind, mark, begunMs, outcome, detail);
      // What else it could do with a session that is lost: nothing.
      if (outcome === "http 404" || outcome === "error session_lost") this.#leave(connected);
    } finally {
      connected.inFlight -= 1;
      if (connected.over && connected.inFlight === 0) this.#end(connected);
    }
  }

  /** Ends what is left of its sessions. */
  async stop(): Promise<void> {
    await this.#connecting;
    if (this.#current !== null) this.#leave(this.#current);
    while (this.#ending.size > 0) await Promise.all(this.#ending);
    for (const id of this.#left) await this.#delete(id);
  }

  async #connected(): Promise<Connected | null> {
    if (this.#current !== null) return this.#current;
    this.#connecting ??= this.#connect().finally(() => {
      this.#connecting = null;
    });
    return this.#connecting;
  }

  async #connect(): Promise<Connected | null> {
    const kind = `${this.#name} initialize`;
    const client = new Client({ name: this.#name, version: "1.0.0" }, { capabilities: { elicitation: {} } });
    client.setRequestHandler(ElicitRequestSchema, () => ({ action: "accept", content: { word: "yes" } }));
    client.fallbackNotificationHandler = async () => {
      this.#heard += 1;
    };
    const transport = new StreamableHTTPClientTransport(this.#url, { requestInit: { headers }, reconnectionOptions });
    // What it says of streams that break and come back; requests that fail are told to who made them.
    client.onerror = () => undefined;
    countAnswers(transport, kind, this.#book);
    const mark = this.#book.begin(kind);
    const begunMs = Date.now();
    try {
      // The SDK's own transport does not fit its own interface under exactOptionalPropertyTypes.
      await client.connect(transport as Transport, { timeout: patienceMs });
      this.#book.end(kind, mark, begunMs, "ok");
    } catch (error) {
      const { outcome, detail } = outcomeOf(error);
      this.#book.end(kind, mark, begunMs, outcome, detail);
      await client.close();
      return null;
    }
    this.#current = { client, transport, callsLeft: this.#callsPerSession, inFlight: 0, over: false };
    return this.#current;
  }

  /** Nothing new goes through this session; it ends when its calls have. */
  #leave(connected: Connected): void {
    if (connected.over) return;
    connected.over = true;
    if (this.#current === connected) this.#current = null;
    if (connected.inFlight === 0) this.#end(connected);
  }
  #end({ client, transport }: Connected): void {
    const ended = (async () => {
      const id = transport.sessionId;
      try {
        await transport.terminateSession();
      } catch {
        // Some fault is on: told again at the end, when there is none.
        if (id !== undefined) this.#left.push(id);
      }
      await client.close();
    })().finally(() => this.#ending.delete(ended));
    this.#ending.add(ended);
  }
  async #delete(id: string): Promise<void> {
    for (let attempt = 1; attempt <= tries; attempt += 1) {
      const answer = await fetch(this.#url, { method: "DELETE", headers: { ...headers, "mcp-session-id": id } }).catch(() => null);
      await answer?.body?.cancel();
      if (answer !== null && answer.status < 500) return;
      await sleep(1000);
    }
  }
}
