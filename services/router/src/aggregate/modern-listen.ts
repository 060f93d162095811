import { Ending } from "../ending.ts";
import { sendJson } from "../errors.ts";
import { isObject } from "../mcp/envelope.ts";
import { lasting } from "../mcp/rights.ts";
import { isQuiet, SseWriter } from "../mcp/sse.ts";
import { AbortedByRouter, UpstreamError } from "../upstream-client.ts";
import { ChangeStream } from "./change-stream.ts";
import { isStream, readMessages } from "./inner-answer.ts";
import { eraOf, type Link } from "./links.ts";
import { linkOf, type ModernContext, type ModernRequest, statelessClient } from "./modern.ts";
import { splitUri } from "./names.ts";
import type { AggregateSettings } from "./settings.ts";
import { StatelessUpstream } from "./stateless.ts";
import { fromUpstream } from "./translate.ts";

type Value = Record<string, unknown>;

const changes = {
  toolsListChanged: "notifications/tools/list_changed",
  promptsListChanged: "notifications/prompts/list_changed",
  resourcesListChanged: "notifications/resources/list_changed",
} as const;
type Change = keyof typeof changes;
const updated = "notifications/resources/updated";

const lookMs = 1000;
const againMsMin = 200;
const againMsMax = 5000;
const sessionLookMs = 5000;
const urisMax = 256;

/**
 * `subscriptions/listen` of `/mcp`: one stream for what all upstreams say of their lists and resources. Guarantees (requirement R16):
 * S1  The client is acknowledged once and at once, whoever of the upstreams is there.
 * S2  An upstream that cannot be heard is asked again until it can be. That it is back, that it has been away for longer than its grace, that
 *     it was configured or removed: each is a changed list.
 * S3  What an upstream says reaches nobody who may not use it now.
 * S4  A client that does not read costs next to nothing (`change-stream.ts`).
 */
export async function serveModernListen(
  context: ModernContext,
  asked: ModernRequest,
  settingsNow: () => AggregateSettings | null,
): Promise<void> {
  const { mcp } = context;
  const { response, envelope } = asked;
  const { id, params } = envelope;
  const filter = params["notifications"];
  if (!isObject(filter)) {
    const error = { code: -32602, message: "Invalid params: 'notifications' is required and must be an object" };
    return sendJson(response, 200, { jsonrpc: "2.0", id, error });
  }
  const wanted = (Object.keys(changes) as Change[]).filter((name) => filter[name] === true);
  const given = Array.isArray(filter["resourceSubscriptions"]) ? filter["resourceSubscriptions"].slice(0, urisMax) : [];
  const uris = given.filter((uri): uri is string => typeof uri === "string" && splitUri(uri, asked.settings.upstreams) !== null);
  const writer = new SseWriter(response);
  const said = new ChangeStream(writer, id, mcp.nowMs);
  const honoured = {
    ...Object.fromEntries(wanted.map((name) => [name, true])),
    ...(uris.length === 0 ? {} : { resourceSubscriptions: uris }),
  };
  writer.begin({});
  said.say("notifications/subscriptions/acknowledged", { notifications: honoured });
  if (Object.keys(honoured).length === 0) return said.complete();

  const over = new Ending();
  const end = (reason: "client_gone" | "shutdown"): void => over.abort(new AbortedByRouter(reason));
  const stop = (): void => {
    said.complete();
    end("shutdown");
  };
  const heard = (upstream: string, value: Value): void => {
    const { method } = value;
    const isWanted = method === updated ? uris.length > 0 : wanted.some((name) => changes[name] === method);
    if (!isWanted || writer.gone || settingsNow()?.upstreams.includes(upstream) !== true) return;
    const inner = isObject(value["params"]) ? value["params"] : {};
    const shown = fromUpstream(upstream, { kind: "notification", method: String(method), value }, { ...value, params: inner });
    const own = isObject(shown["params"]) ? shown["params"] : {};
    if (method === updated && !uris.includes(String(own["uri"]))) return;
    said.say(String(method), own);
  };
  const tellAll = (): void => {
    for (const name of wanted) said.say(changes[name], {});
  };
  const followed = new Map<string, Followed>();
  const look = (): void => {
    if (writer.gone) {
      end("client_gone");
      return;
    }
    if (isQuiet(writer, mcp.heartbeatMs, mcp.nowMs())) said.comment("alive");
    const settings = settingsNow();
    // That it was switched off ends the stream as a server does that stops.
    if (settings === null) {
      stop();
      return;
    }
    const before = [...followed.keys()].join(" ");
    for (const [name, one] of followed) {
      if (!settings.upstreams.includes(name)) {
        one.stop();
        followed.delete(name);
      } else if (one.isAwayFor(settings.graceMs)) tellAll();
    }
    for (const name of settings.upstreams) {
      if (followed.has(name)) continue;
      const own = uris.flatMap((uri) => {
        const found = splitUri(uri, settings.upstreams);
        return found?.upstream === name ? [found.uri] : [];
      });
      followed.set(name, new Followed(context, asked, name, wanted, own, heard, tellAll));
    }
    if (before !== "" && before !== [...followed.keys()].join(" ")) tellAll();
  };
  look();
  const ticker = setInterval(look, lookMs);
  lasting(mcp, { response, principal: asked.principal, upstream: "" }, stop);
  const onClose = (): void => end("client_gone");
  response.once("close", onClose);
  await new Promise<void>((resolve) => {
    if (over.aborted) resolve();
    over.addEventListener("abort", resolve);
  });
  clearInterval(ticker);
  response.off("close", onClose);
  for (const one of followed.values()) one.stop();
}

/** One upstream, heard until it is stopped (S2). */
class Followed {
  readonly #context: ModernContext;
  readonly #asked: ModernRequest;
  readonly #upstream: string;
  readonly #over = new Ending();
  readonly #wake = new Set<() => void>();
  /** Null: it is heard. */
  #awayAtMs: number | null;
  #wasAway = false;
  #isTold = false;

  constructor(
    context: ModernContext,
    asked: ModernRequest,
    upstream: string,
    wanted: readonly string[],
    uris: readonly string[],
    heard: (upstream: string, value: Value) => void,
    onBack: () => void,
  ) {
    this.#context = context;
    this.#asked = asked;
    this.#upstream = upstream;
    this.#awayAtMs = context.mcp.nowMs();
    const notifications = {
      ...Object.fromEntries(wanted.map((name) => [name, true])),
      ...(uris.length === 0 ? {} : { resourceSubscriptions: uris }),
    };
    this.#run(notifications, uris, heard, onBack).catch((error: unknown) =>
      context.mcp.log.error({ err: error, upstream }, "an upstream of /mcp could not be listened to"),
    );
  }

  /** True once each time. */
  isAwayFor(ms: number): boolean {
    if (this.#awayAtMs === null || this.#isTold || this.#context.mcp.nowMs() - this.#awayAtMs < ms) return false;
    this.#isTold = true;
    return true;
  }
  stop(): void {
    this.#over.abort(new AbortedByRouter("given_up"));
    for (const wake of this.#wake) wake();
  }

  async #run(
    notifications: Value,
    uris: readonly string[],
    heard: (upstream: string, value: Value) => void,
    onBack: () => void,
  ): Promise<void> {
    const isThere = (): void => {
      if (this.#wasAway) onBack();
      this.#awayAtMs = null;
      this.#isTold = false;
    };
    for (let waitMs = againMsMin; !this.#over.aborted; waitMs = Math.min(2 * waitMs, againMsMax)) {
      try {
        const era = await eraOf(this.#context.mcp, this.#upstream);
        if (this.#over.aborted) return;
        const hear = (value: Value): void => heard(this.#upstream, value);
        const was = era === "modern" ? await this.#listen(notifications, hear, isThere) : await this.#inSession(uris, hear, isThere);
        if (was) waitMs = againMsMin;
      } catch (error) {
        if (!(error instanceof UpstreamError || (error as { code?: unknown }).code === "inner_error")) throw error;
      }
      this.#awayAtMs ??= this.#context.mcp.nowMs();
      this.#wasAway = true;
      await this.#pause(waitMs * (0.5 + Math.random()));
    }
  }

  /** Returns whether it was heard at all. */
  async #listen(notifications: Value, hear: (value: Value) => void, isThere: () => void): Promise<boolean> {
    const client = statelessClient(this.#context, this.#asked, this.#over);
    const message = { jsonrpc: "2.0", id: "mcpa-listen", method: "subscriptions/listen", params: { notifications } };
    const response = await new StatelessUpstream(this.#upstream, client).send(message, {});
    if (!isStream(response)) {
      response.discard(100);
      return false;
    }
    let isOpen = false;
    await readMessages(response, "mcpa-listen", (message, value) => {
      if (message.kind !== "notification") return true;
      if (!isOpen) isThere();
      isOpen = true;
      hear(value);
      return true;
    });
    return isOpen;
  }

  /** An upstream that knows only sessions says it on the stream of one. */
  async #inSession(uris: readonly string[], hear: (value: Value) => void, isThere: () => void): Promise<boolean> {
    const link: Link = linkOf(this.#context, this.#asked);
    const stop = link.listen((upstream, value) => {
      if (upstream === this.#upstream) hear(value);
    });
    const inner = link.with(this.#upstream);
    const subscribed: string[] = [];
    const { lists } = this.#context;
    const { principal, settings } = this.#asked;
    // The stream of a session outlives its server, and says nothing of it.
    const isHere = async (): Promise<boolean> => (await lists.ask("tools/list", inner, principal.id, settings))?.fresh === true;
    try {
      await inner.listenAlways();
      if (!(await isHere())) return false;
      isThere();
      for (const uri of uris) {
        await link.subscribe(this.#upstream, uri, 1);
        subscribed.push(uri);
      }
      while (!this.#over.aborted) {
        await this.#pause(sessionLookMs);
        if (this.#over.aborted) break;
        // Its stream is opened again by itself, and a session that is lost is begun again here.
        await inner.listenAlways();
        if (!(await isHere()) || (await eraOf(this.#context.mcp, this.#upstream, "legacy")) !== "legacy") break;
      }
      return true;
    } finally {
      stop();
      for (const uri of subscribed) link.subscribe(this.#upstream, uri, -1).catch(() => undefined);
    }
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        this.#wake.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, ms);
      timer.unref();
      this.#wake.add(wake);
      if (this.#over.aborted) wake();
    });
  }
}
