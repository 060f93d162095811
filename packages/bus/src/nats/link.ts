import { setTimeout as sleep } from "node:timers/promises";
import { type BusClient, clientApiPrefix, onlooker } from "@mcp-failover/contracts";
import { connect, type Msg, headers as makeHeaders, type NatsConnection, NatsError } from "nats";
import { BusError, type BusStatus } from "../bus.ts";
import type { BusCredentials } from "../credentials.ts";
import { guarded } from "../hand-over.ts";
import type { BusLog } from "../log.ts";
import { refuseTooLarge, wireBytes } from "../message.ts";
import { userKey } from "../nkey.ts";
import type { Lag } from "./lag.ts";
import { StoreHealth } from "./store-health.ts";
import { UnansweredError } from "./unanswered.ts";
import { whyLost } from "./why-lost.ts";

export interface LinkOptions {
  /** `nats://host:port`, several separated by commas; credentials as `nats://user:password@host`. */
  readonly servers: string;
  readonly name: string;
  readonly log: BusLog;
  readonly credentials?: BusCredentials;
}

/** Told about every new connection; what it returns ends what it began there. */
type Attachment = (nc: NatsConnection) => () => void;

const dialMs = 5000;
/** A dead peer that still holds its socket is noticed after three of these. */
const pingMs = 5000;
const closeMs = 2000;

/**
 * B7: one connection that is made again for ever. nats.js reconnects by itself; where even that ends (it gives up for good on
 * some errors), a new one is dialled and everything that was attached is attached again.
 */
export class NatsLink {
  status: BusStatus;
  /** Core messages that were published while there was no connection. */
  dropped = 0;
  /** How often a connection was lost. */
  losses = 0;
  readonly store = new StoreHealth();
  /** Of those that read streams now. */
  readonly lags = new Set<Lag>();
  readonly #options: LinkOptions;
  readonly #listeners = new Set<(status: BusStatus) => void>();
  readonly #attachments = new Map<Attachment, (() => void) | null>();
  readonly #closing = new AbortController();
  #nc: NatsConnection | null = null;
  /** The server lets us in without a key, as one who looks. */
  #looksOn = false;
  #lostAtMs = Date.now();
  /** Calls of those who wait for the next change of the connection. */
  readonly #waiters = new Set<() => void>();

  constructor(options: LinkOptions) {
    this.#options = options;
    this.status = { kind: "disconnected", sinceMs: this.#lostAtMs, reason: "not connected yet" };
    void this.#keep();
  }

  /** In which account we are: one of the clients, or null for that of the streams (the bootstrap user, the keeper, and a server without accounts). */
  get client(): BusClient | null {
    if (this.#looksOn) return onlooker;
    const user = this.#options.credentials?.user;
    return user === undefined || user === "bootstrap" || user === "keeper" ? null : user;
  }
  /** The server keeps its clients in accounts. */
  get hasAccounts(): boolean {
    return this.#options.credentials !== undefined || this.#looksOn;
  }
  /** Where the interface of JetStream is. */
  get apiPrefix(): string {
    return this.client === null ? "$JS.API" : clientApiPrefix;
  }

  get closed(): boolean {
    return this.status.kind === "closed";
  }
  get connected(): boolean {
    return this.status.kind === "connected";
  }
  /** The connection while it is there. */
  get current(): NatsConnection | null {
    return this.connected ? this.#nc : null;
  }

  /** What the server takes in one message. */
  get payloadBytesMax(): number {
    return this.#nc?.info?.max_payload ?? 1024 * 1024;
  }

  onStatus(listener: (status: BusStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Runs `attachment` on the connection now and on any that replaces it. nats.js itself carries subscriptions over its reconnects. */
  attach(attachment: Attachment): () => void {
    this.#attachments.set(attachment, null);
    if (this.#nc !== null) this.#run(attachment, this.#nc);
    return () => {
      const end = this.#attachments.get(attachment);
      this.#attachments.delete(attachment);
      if (end) guarded(end, this.#options.log, "an attachment did not end cleanly");
    };
  }

  /** Waits for the connection. Throws {@link BusError} `unreachable` after `timeoutMs`. */
  async reach(timeoutMs: number): Promise<NatsConnection> {
    const endMs = performance.now() + timeoutMs;
    for (;;) {
      if (this.current !== null) return this.current;
      const leftMs = endMs - performance.now();
      if (this.closed || leftMs <= 0) throw this.unreachable();
      await this.changed(leftMs);
    }
  }

  /** Resolves at the next change of the connection, or after `timeoutMs`. */
  changed(timeoutMs: number | null): Promise<void> {
    return new Promise((resolve) => {
      const finish = () => {
        this.#waiters.delete(finish);
        clearTimeout(timer);
        resolve();
      };
      const timer = timeoutMs === null ? undefined : setTimeout(finish, timeoutMs);
      this.#waiters.add(finish);
    });
  }

  /** A pause that ends early when the bus is closed. */
  async sleep(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#closing.signal }).catch(() => undefined); // Closed: whoever waits looks for itself.
  }

  /** One request, one answer. Throws {@link UnansweredError}, and {@link BusError} for what can never work. */
  async request(
    subject: string,
    bytes: Uint8Array,
    options: { timeoutMs: number; headers?: Readonly<Record<string, string>> },
  ): Promise<Msg> {
    const endMs = performance.now() + options.timeoutMs;
    let nc: NatsConnection;
    try {
      nc = await this.reach(options.timeoutMs);
    } catch (cause) {
      throw new UnansweredError("disconnected", false, "no connection", cause);
    }
    refuseTooLarge("the server", wireBytes(bytes, options.headers ?? {}), this.payloadBytesMax);
    const lost = Promise.withResolvers<never>();
    const onLost = () => {
      if (this.current !== nc) lost.reject(new UnansweredError("disconnected", true, "the connection was lost before an answer came"));
      else this.#waiters.add(onLost);
    };
    this.#waiters.add(onLost);
    const timeout = Math.max(1, endMs - performance.now());
    const requestOptions = options.headers === undefined ? { timeout } : { timeout, headers: wireHeaders(options.headers) };
    try {
      const answer = nc.request(subject, bytes, requestOptions);
      answer.catch(() => undefined); // The race below may be over before it fails.
      return await Promise.race([answer, lost.promise]);
    } catch (error) {
      throw this.#explain(error, subject);
    } finally {
      this.#waiters.delete(onLost);
      lost.promise.catch(() => undefined);
    }
  }

  /** At most once: without a connection it is dropped and counted, because a buffer without end would be worse. */
  send(subject: string, bytes: Uint8Array, options: { replyTo?: string; headers?: Readonly<Record<string, string>> } = {}): void {
    const nc = this.current;
    if (nc === null) {
      this.dropped += 1;
      return;
    }
    refuseTooLarge("the server", wireBytes(bytes, options.headers ?? {}), this.payloadBytesMax);
    nc.publish(subject, bytes, {
      ...(options.replyTo === undefined ? {} : { reply: options.replyTo }),
      ...(options.headers === undefined ? {} : { headers: wireHeaders(options.headers) }),
    });
  }

  unreachable(cause?: unknown): BusError {
    if (this.closed) return new BusError("unreachable", "this connection to the bus is closed: connect anew", { retriable: false, cause });
    const why = this.status.kind === "disconnected" ? ` (${this.status.reason})` : "";
    return new BusError("unreachable", `NATS cannot be reached${why}: see that it runs and that NATS_URL is right`, {
      retriable: true,
      cause,
    });
  }

  async close(): Promise<void> {
    const nc = this.#nc;
    const drain = this.connected;
    this.#become({ kind: "closed" });
    this.#closing.abort();
    if (nc === null) return;
    if (drain) await Promise.race([nc.drain().catch(() => undefined), sleep(closeMs, undefined, { ref: false })]);
    await nc.close().catch(() => undefined); // Drained or not, it ends here.
  }

  async #keep(): Promise<void> {
    while (!this.closed) {
      try {
        const nc = await connect(this.#connectOptions());
        await this.#learnWho(nc);
        if (this.closed) return await nc.close();
        this.#nc = nc;
        this.#connected(nc);
        for (const attachment of this.#attachments.keys()) this.#run(attachment, nc);
        await this.#watch(nc);
        for (const attachment of this.#attachments.keys()) this.#attachments.set(attachment, null);
        this.#nc = null;
        this.#lost("the connection was closed");
      } catch (error) {
        this.#lost(error instanceof Error ? error.message : String(error));
      }
      if (!this.closed) await this.sleep(reconnectMs(Date.now() - this.#lostAtMs));
    }
  }

  /** Follows one connection until it is closed for good. */
  async #watch(nc: NatsConnection): Promise<void> {
    void this.#listen(nc);
    const error = await nc.closed();
    if (error instanceof Error) throw error;
  }

  /** nats.js does not end this iteration when the connection is closed, so nothing may wait for its end. */
  async #listen(nc: NatsConnection): Promise<void> {
    for await (const { type, data } of nc.status()) {
      if (this.#nc !== nc) return;
      if (type === "disconnect") {
        // A dial that the server refused ends like this, too, and its refusal says more.
        if (this.connected) this.#lost(`lost ${String(data)}`);
      } else if (type === "reconnect") {
        await this.#learnWho(nc);
        this.#connected(nc);
      } else if (type === "error") {
        if (!this.connected) this.#lost(String(data));
        // A forbidden publish throws nowhere: this is the only place that hears of it.
        else
          this.#options.log.warn(
            { error: String(data), client: this.client, table: "packages/contracts, bus-access.ts" },
            "NATS refused something",
          );
      } else this.#options.log.debug({ type, data: typeof data === "string" ? data : undefined }, "NATS connection");
    }
  }

  /**
   * Whether the server has let us into the account of its onlookers (docs/adr/0011), where JetStream has another prefix and makes no
   * consumers. Nothing is asked of a server without users, nor where we say who we are.
   */
  async #learnWho(nc: NatsConnection): Promise<void> {
    const bringsNothing = this.#options.credentials === undefined && !this.#urls().some((url) => url.username !== "");
    this.#looksOn = false;
    if (!bringsNothing || (nc.info?.nonce === undefined && nc.info?.auth_required !== true)) return;
    for (let asked = false; !asked && !this.closed; ) {
      try {
        await nc.request(`${clientApiPrefix}.INFO`, undefined, { timeout: dialMs });
        this.#looksOn = asked = true;
      } catch (error) {
        // Refused, or nobody is there: somebody else's server, with users of its own.
        asked = !(error instanceof NatsError && error.code === "TIMEOUT");
      }
    }
  }

  #run(attachment: Attachment, nc: NatsConnection): void {
    guarded(
      () => this.#attachments.set(attachment, attachment(nc)),
      this.#options.log,
      "something could not be attached to the connection",
    );
  }

  #connected(nc: NatsConnection): void {
    this.#become({ kind: "connected", server: nc.getServer(), serverVersion: nc.info?.version ?? "0.0.0" });
  }

  #lost(said: string): void {
    if (this.connected) {
      this.#lostAtMs = Date.now();
      this.losses += 1;
    }
    this.#become({ kind: "disconnected", sinceMs: this.#lostAtMs, reason: whyLost(said, this.#options.credentials?.user ?? null) });
  }

  #become(status: BusStatus): void {
    const before = this.status;
    if (before.kind === "closed") return;
    // nats.js says `reconnect` once for each try that was refused before, and each of them would have everybody begin anew.
    if (before.kind === "connected" && status.kind === "connected" && before.server === status.server) return;
    this.status = status;
    for (const waiter of [...this.#waiters]) {
      this.#waiters.delete(waiter);
      waiter();
    }
    if (before.kind === "disconnected" && status.kind === "disconnected" && before.reason === status.reason) return;
    if (status.kind === "disconnected") this.#options.log.warn({ reason: status.reason }, "NATS is out of reach");
    for (const listener of [...this.#listeners]) guarded(() => listener(status), this.#options.log, "a status listener failed");
  }

  #explain(error: unknown, subject: string): Error {
    if (error instanceof UnansweredError || error instanceof BusError) return error;
    if (error instanceof NatsError) {
      if (error.code === "503") return new UnansweredError("no_responders", true, `nobody listens on ${subject}`, error);
      if (error.code === "TIMEOUT") return new UnansweredError("timeout", true, `no answer on ${subject}`, error);
      if (error.permissionContext !== undefined) {
        const who = this.client ?? "this user";
        return new BusError("rejected", `permissions violation: ${who} may not publish ${subject} (packages/contracts, bus-access.ts)`, {
          retriable: false,
          cause: error,
        });
      }
    }
    return new UnansweredError("disconnected", true, error instanceof Error ? error.message : String(error), error);
  }

  #urls(): URL[] {
    return this.#options.servers.split(",").map((server) => new URL(server.includes("://") ? server.trim() : `nats://${server.trim()}`));
  }

  #connectOptions() {
    const urls = this.#urls();
    const user = urls.find((url) => url.username !== "");
    return {
      servers: urls.map((url) => url.host),
      name: this.#options.name,
      ...(user === undefined ? {} : { user: decodeURIComponent(user.username), pass: decodeURIComponent(user.password) }),
      ...proofOf(
        this.#options.credentials,
        urls.some((url) => url.protocol === "tls:"),
      ),
      maxReconnectAttempts: -1,
      // Wrong credentials may be put right while we wait.
      ignoreAuthErrorAbort: true,
      reconnectDelayHandler: () => reconnectMs(Date.now() - this.#lostAtMs),
      timeout: dialMs,
      pingInterval: pingMs,
      maxPingOut: 2,
      noAsyncTraces: true,
    };
  }
}

/** The key always; the certificate only where the URL asks for TLS (`tls://`), because a server without TLS refuses one that wants it. */
function proofOf(credentials: BusCredentials | undefined, tls: boolean) {
  if (credentials === undefined) return {};
  return {
    authenticator: (nonce?: string) => {
      const key = userKey(credentials.seed());
      return { nkey: key.publicKey, sig: nonce ? key.prove(nonce) : "" };
    },
    ...(tls && credentials.tls !== null ? { tls: credentials.tls } : {}),
  };
}

/** Quick at first, for a restart; then slower, up to a second, and never two processes in step. */
export function reconnectMs(downMs: number): number {
  const base = Math.min(1000, Math.max(200, downMs / 5));
  return base * (0.75 + Math.random() / 2);
}

function wireHeaders(fields: Readonly<Record<string, string>>) {
  const made = makeHeaders();
  for (const [name, value] of Object.entries(fields)) made.set(name, value);
  return made;
}
