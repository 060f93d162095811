import type { Principal } from "../identity/principal.ts";
import { firstPrimedVersion } from "../mcp/call-answer.ts";
import type { SessionRecord } from "../mcp/directory.ts";
import type { McpContext } from "../mcp/inbound.ts";
import { type Session, subscriptionsMax } from "../mcp/session.ts";
import { detachedMs } from "../mcp/session-stream.ts";
import type { SseWriter } from "../mcp/sse.ts";
import { type EventId, eventIdOf, type StreamLog } from "../mcp/stream-log.ts";
import { takesOver } from "../mcp/take-over.ts";
import { InnerSession, urisOf } from "./inner-session.ts";
import type { LocalCall } from "./local-request.ts";
import { prefixedUri } from "./names.ts";
import type { AggregateSettings } from "./settings.ts";
import type { SharedLists } from "./shared-lists.ts";
import { fromUpstream, type ListMethod, lists } from "./translate.ts";

type Value = Record<string, unknown>;

const levelMs = 3000;
/** In the directory; a message that would have said it may be lost. */
const followMs = 30_000;
/** The streams of upstreams wait for a client that was away for no longer. */
const unheardMsMax = detachedMs - 1000;
const waitingMax = 500;
const waitingCharsMax = 1024 * 1024;
/** Of a client's headers, what is the same for all that its session says; a deadline or a trace belongs to one request. */
const lasting = new Set(["mcpf-agent", "user-agent", "accept-language"]);

/**
 * One client's session with all upstreams. Its id is sealed like every other; the ids of its sessions with the upstreams are in the directory, so
 * that another router process goes on with them. Guarantees:
 * G1  It begins without asking any upstream; a session with one is begun when it is first needed.
 * G2  What upstreams say by themselves reaches the client's stream, or waits for it, at most `waitingMax` messages and
 *     `waitingCharsMax` characters; then the oldest are dropped.
 * G3  The client is told `list_changed` when a list is another than the one it was given: an upstream came back, or its grace is over.
 * G4  A client whose connection broke comes back with its last event id, to its stream or to a call, and gets what it has missed; of a stream of
 *     which that is not known any more it is told that all may have changed. Its newest connection here has its stream (`take-over.ts`).
 * G5  What other router processes do with it, begin with an upstream, end it or serve its client that came back there, is heard at once where they
 *     can be heard, and else seen within `followMs`.
 */
export class AggregateSession {
  readonly session: Session;
  /** As the last request had it: what the agent may do can have changed since the session began. */
  principal: Principal;
  /** Requests that run, with the upstream that a `cancelled` has to go to; what ends each is with its session's `calls`. */
  readonly running = new Map<string | number, string>();
  readonly #context: McpContext;
  readonly #call: LocalCall;
  readonly #inner = new Map<string, InnerSession>();
  readonly #subscriptions = new Set<string>();
  /** What the client was given: the hash of each upstream's part, by list. */
  readonly #given = new Map<ListMethod, Map<string, string>>();
  readonly #stale = new Map<ListMethod, Set<string>>();
  #upstreams = "";
  #writer: SseWriter | null = null;
  /** What was said on its stream; null: it was never open here. */
  #log: StreamLog | null = null;
  /** The last event that the client is known to have: its id came with it, or it was told before its connection began. */
  #known: EventId | null = null;
  /** The client reads more slowly than it is told: what comes waits. */
  #isSlow = false;
  #waiting: string[] = [];
  #waitingChars = 0;
  #looking = false;
  /** Upstreams with which the session was begun, as the directory said at `#followedAtMs` (`performance.now()`). */
  #begunAnywhere: readonly string[] = [];
  #followedAtMs = Number.NEGATIVE_INFINITY;
  /** Since when nobody hears its upstreams here (`performance.now()`); null: nobody has yet. */
  #unheardSinceMs: number | null = null;
  #levels = 0;
  usedAtMs: number;

  constructor(context: McpContext, call: LocalCall, session: Session, principal: Principal) {
    this.#context = context;
    this.#call = call;
    this.session = session;
    this.principal = principal;
    this.usedAtMs = context.nowMs();
  }

  get busy(): boolean {
    return this.#writer !== null || this.running.size > 0;
  }

  /** The session with one upstream; nothing is sent yet. `passed`: headers of the client that travel on. */
  with(upstream: string, passed: Readonly<Record<string, string>>): InnerSession {
    let inner = this.#inner.get(upstream);
    if (inner === undefined) {
      const { directory } = this.#context;
      const { key, clientParams, version } = this.session.sealed;
      inner = new InnerSession(upstream, {
        call: this.#call,
        principal: () => this.principal,
        clientParams: { ...clientParams, protocolVersion: version },
        passed: Object.fromEntries(Object.entries(passed).filter(([name]) => lasting.has(name))),
        known: async (name) => (await directory.read(key))?.holds[name] ?? null,
        learned: async (name, id, lost) => {
          const stands = await directory.change(key, (record) => {
            const theirs = record.holds[name] ?? lost;
            return record.ended || theirs !== lost ? null : { ...record, holds: { ...record.holds, [name]: id } };
          });
          // The process that has the client's stream listens to it from now on.
          if (stands.holds[name] === id) this.#context.claims.changed?.(key, null);
          return stands.ended ? null : (stands.holds[name] ?? id);
        },
        heard: (name, message, value) => {
          if (this.principal.mayUse(name)) this.push(fromUpstream(name, message, value));
        },
        wanted: () => this.#writer !== null,
        level: async () => (await directory.read(key))?.level ?? this.session.level,
        subscriptions: async (name) => {
          const record = await directory.read(key);
          return urisOf(name, new Set([...(record?.subscriptions ?? []), ...this.#subscriptions]));
        },
      });
      this.#inner.set(upstream, inner);
    }
    return inner;
  }

  subscribed(upstream: string, uri: string, now: boolean): void {
    const one = `${upstream} ${uri}`;
    if (!now) this.#subscriptions.delete(one);
    else if (this.#subscriptions.size < subscriptionsMax) this.#subscriptions.add(one);
    this.#remember((record) => {
      const others = record.subscriptions.filter((other) => other !== one);
      return { ...record, subscriptions: now ? [...others, one].slice(-subscriptionsMax) : others };
    });
  }

  /** Those with which a session was begun are told, whichever router process began it; a later one is told when it is begun. */
  async setLevel(params: Readonly<Record<string, unknown>>, settings: AggregateSettings): Promise<void> {
    this.session.level = params;
    this.#remember((record) => ({ ...record, level: params }));
    this.#levels += 1;
    const message = { jsonrpc: "2.0", id: `mcpa-level-${this.#levels}`, method: "logging/setLevel", params };
    // One that hangs keeps the client from nothing.
    const headers = { "mcpf-timeout-ms": String(levelMs) };
    const begun = await this.begunWith(settings);
    await Promise.allSettled(begun.map((name) => this.with(name, {}).request(message, headers, () => undefined)));
  }

  /** For the other router processes, and the next one. */
  #remember(change: (record: SessionRecord) => SessionRecord): void {
    const { directory, log } = this.#context;
    directory
      .change(this.session.sealed.key, change)
      .catch((error: unknown) => log.warn({ err: error }, "the session directory could not be written"));
  }

  /** The parts of all upstreams; one that cannot be asked is left out, or listed as it was. */
  async list(
    method: ListMethod,
    shared: SharedLists,
    settings: AggregateSettings,
    passed: Readonly<Record<string, string>>,
  ): Promise<Value[]> {
    const listed = await Promise.all(
      settings.upstreams.map((name) => shared.ask(method, this.with(name, passed), this.principal.id, settings)),
    );
    const given = new Map<string, string>();
    const stale = new Set<string>();
    listed.forEach((part, index) => {
      const name = settings.upstreams[index] as string;
      if (part !== null) given.set(name, part.hash);
      if (part === null || !part.fresh) stale.add(name);
    });
    this.#given.set(method, given);
    this.#stale.set(method, stale);
    this.#upstreams = settings.upstreams.join(" ");
    return listed.flatMap((part) => part?.items ?? []);
  }

  /** Once in a while: asks those that could not be asked, and tells the client when its lists are others now (G3). False: it has ended elsewhere. */
  async look(shared: SharedLists, settings: AggregateSettings): Promise<boolean> {
    if (this.#looking || this.#writer === null) return true;
    this.#looking = true;
    try {
      if (performance.now() - this.#followedAtMs < followMs) await this.#listen(settings);
      else if (!(await this.follow(settings))) return false;
      if (this.#given.size === 0) return true;
      const another = settings.upstreams.join(" ") !== this.#upstreams;
      for (const [method, given] of [...this.#given]) {
        if (another || (await this.#differs(method, given, shared, settings))) {
          this.#given.delete(method);
          this.#stale.delete(method);
          this.push({ jsonrpc: "2.0", method: lists[method].changed });
        }
      }
      return true;
    } finally {
      this.#looking = false;
    }
  }

  async #differs(method: ListMethod, given: Map<string, string>, shared: SharedLists, settings: AggregateSettings): Promise<boolean> {
    const stale = this.#stale.get(method) ?? new Set();
    for (const name of [...stale]) {
      if (!settings.upstreams.includes(name)) continue;
      const part = await shared.ask(method, this.with(name, {}), this.principal.id, settings);
      if (part?.fresh) stale.delete(name);
      if (part?.hash !== given.get(name)) return true;
    }
    return false;
  }

  /** A session with an upstream that has been used here; null: there is nobody to tell. */
  known(upstream: string): InnerSession | null {
    return this.#inner.get(upstream) ?? null;
  }

  /** False: another connection has the stream, and keeps it (T3 of `take-over.ts`). */
  attach(writer: SseWriter, headers: Readonly<Record<string, string>>, from: EventId | null = null): boolean {
    const before = this.#writer;
    const isBack = from !== null && from.stream === this.#log?.name;
    if (before !== null && !before.gone && !takesOver(this.session)) return false;
    // Its old connection may hang in another process, which holds the streams of its upstreams.
    if (from !== null && !isBack) this.#context.claims.changed?.(this.session.sealed.key, from);
    const isUnheard = before === null && this.#unheardSinceMs !== null && performance.now() - this.#unheardSinceMs > unheardMsMax;
    this.#log ??= this.session.logs.open(null);
    this.#writer = writer;
    this.session.isPinned = true;
    before?.end();
    writer.begin(headers);
    writer.flushHeaders();
    if (isBack || before === null || this.#known === null) this.#known = isBack ? from : this.#log.lastId;
    const { seq } = this.#known;
    const isKept = this.#log.covers(seq);
    if (this.session.sealed.version >= firstPrimedVersion) writer.write({ id: eventIdOf(this.#known), data: "" }, this.#context.nowMs());
    for (const text of this.#log.after(seq)) writer.writeText(text, this.#context.nowMs());
    this.#flush(writer);
    if (!isKept || (from !== null && (!isBack || isUnheard))) {
      this.#tellGap().catch((error: unknown) =>
        this.#context.log.warn({ err: error }, "a client of /mcp could not be told what it has missed"),
      );
    }
    return true;
  }
  detach(writer: SseWriter): void {
    if (this.#writer !== writer) return;
    this.#writer = null;
    this.#unheardSinceMs = performance.now();
    this.session.isPinned = false;
    for (const inner of this.#inner.values()) inner.stopListening();
  }
  /** The client came back at another router process with this event id: where it is of the stream here, that one is over. */
  leave({ stream }: EventId): void {
    const writer = this.#writer;
    if (writer === null || stream !== this.#log?.name) return;
    this.detach(writer);
    writer.end();
  }

  /** Looks at what other router processes have done with it (G5). False: its client has ended it. */
  async follow(settings: AggregateSettings): Promise<boolean> {
    this.#followedAtMs = performance.now();
    const record = await this.#context.directory.read(this.session.sealed.key);
    if (record?.ended) return false;
    this.#begunAnywhere = Object.keys(record?.holds ?? {});
    await this.#listen(settings);
    return true;
  }
  /** The process that has the client's stream has those of all its sessions with upstreams, whoever began them (G2). */
  async #listen(settings: AggregateSettings): Promise<void> {
    if (this.#writer === null) return;
    await Promise.allSettled(this.#begun(settings, this.#begunAnywhere).map((name) => this.with(name, {}).listenAlways()));
  }
  /** Upstreams with which a session was begun, in whichever router process. */
  async begunWith(settings: AggregateSettings): Promise<string[]> {
    const record = await this.#context.directory.read(this.session.sealed.key);
    return this.#begun(settings, Object.keys(record?.holds ?? {}));
  }
  #begun({ upstreams }: AggregateSettings, anywhere: readonly string[]): string[] {
    return upstreams.filter((name) => anywhere.includes(name) || this.#inner.get(name)?.begun);
  }

  push(value: Value): void {
    const text = JSON.stringify(value);
    this.#waiting.push(text);
    this.#waitingChars += text.length;
    if (this.#writer !== null && !this.#writer.gone && !this.#isSlow) this.#flush(this.#writer);
    while (this.#waiting.length > waitingMax || this.#waitingChars > waitingCharsMax) this.#shift();
  }

  /** It has missed what is not kept any more, or was told by another router process: all may have changed that it is told changes of (G4). */
  async #tellGap(): Promise<void> {
    for (const method of new Set(Object.values(lists).map(({ changed }) => changed))) this.push({ jsonrpc: "2.0", method });
    const record = await this.#context.directory.read(this.session.sealed.key);
    for (const one of new Set([...(record?.subscriptions ?? []), ...this.#subscriptions])) {
      const [upstream = "", ...uri] = one.split(" ");
      const params = { uri: prefixedUri(upstream, uri.join(" ")) };
      this.push({ jsonrpc: "2.0", method: "notifications/resources/updated", params });
    }
  }

  #flush(writer: SseWriter): void {
    this.#isSlow = false;
    while (this.#waiting.length > 0 && !this.#isSlow && !writer.gone) {
      const event = { event: "message", data: this.#shift() };
      this.#isSlow = !(this.#log === null
        ? writer.write(event, this.#context.nowMs())
        : writer.writeText(this.#log.add(event, null).text, this.#context.nowMs()));
    }
    if (!this.#isSlow) return;
    writer.whenDrained(() => {
      if (this.#writer === writer && !writer.gone) this.#flush(writer);
    });
  }
  #shift(): string {
    const text = this.#waiting.shift() ?? "";
    this.#waitingChars -= text.length;
    return text;
  }

  /** Here alone: its stream and those of its upstreams. */
  close(): void {
    const writer = this.#writer;
    this.#writer = null;
    this.session.isPinned = false;
    this.#log?.end(this.#context.nowMs());
    for (const inner of this.#inner.values()) inner.close();
    writer?.end();
  }
  /** Ends it everywhere: also its sessions with upstreams that other router processes began. */
  async end(): Promise<void> {
    const record = await this.#context.directory.read(this.session.sealed.key);
    for (const name of Object.keys(record?.holds ?? {})) this.with(name, {});
    this.close();
    await Promise.allSettled([...this.#inner.values()].map((inner) => inner.end()));
  }
}
