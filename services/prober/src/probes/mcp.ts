import { randomUUID } from "node:crypto";
import type { ProberPolicy } from "@mcp-failover/domain";
import type { CheckContext, CheckFound } from "./check.ts";
import { isToolsCheck, type McpCall, openMcpTasks } from "./mcp-tasks.ts";
import { hardResult, type ProbeResult, resultOfStatus } from "./result.ts";
import { callRpc, notifyRpc, type RpcAnswer } from "./rpc.ts";
import { openSessions, type Session, type Sessions } from "./sessions.ts";
import type { Wire } from "./wire.ts";

/**
 * Probes MCP servers of both protocol eras over Streamable HTTP.
 *
 * M1  First contact is `server/discover` of the modern era: it makes no session and runs nothing, on a legacy server neither.
 * M2  A legacy server gets one long-lived session, pinged; never one a probe. A server that does not answer is never asked for one, and
 *     one that has not answered yet for no other.
 * M3  A lost session (404, 400) is made anew once within the same probe, and is not "down".
 * M4  Every session that was made is ended: when rotated, replaced, idle, taken from the configuration, made too late for its probe, and at
 *     the stop.
 * M5  GET is never sent: it would open, or take, the client's one stream.
 * M6  Any JSON-RPC answer to our id is a sign of life; HTTP 5xx, 429, 401 and 403 speak for themselves.
 */
export interface McpProber {
  probe(context: CheckContext): Promise<CheckFound>;
  /** Forgets, and ends the sessions of, checks that are not configured any more or not as they were, and sessions that nobody uses. */
  retain(identities: ReadonlyMap<string, string>, nowMs: number): void;
  /** How many sessions are open on servers, as far as this prober knows. */
  readonly openSessions: number;
  /** Begins no session any more, and waits for the answers to those that are begun: one that is not known yet cannot be ended (M4). */
  finishHandshakes(): Promise<unknown>;
  /** Ends every session. */
  close(): Promise<void>;
}

const modernVersion = "2026-07-28";
const legacyVersion = "2025-11-25";
const clientInfo = { name: "mcp-failover-prober", version: "0.1.0" };
const modernMeta = {
  "io.modelcontextprotocol/protocolVersion": modernVersion,
  "io.modelcontextprotocol/clientCapabilities": {},
  "io.modelcontextprotocol/clientInfo": clientInfo,
};
const unsupportedVersion = -32_022;
const methodNotFound = -32_601;

/** What is known of one endpoint. */
interface Contact {
  readonly identity: string;
  era: "modern" | "legacy" | null;
  eraUntilMs: number;
  session: Session | null;
  /** The `initialize` that is on its way. */
  handshake: Promise<unknown> | null;
  /** What `server/discover` or `initialize` answered, and the version in it. */
  document: unknown;
  version: string | null;
}

export function openMcpProber(
  wire: Wire,
  policy: Pick<ProberPolicy, "eraMs" | "sessionMs" | "handshakeMs" | "answerBytesMax" | "endSessionMs">,
): McpProber {
  const contacts = new Map<string, Contact>();
  const sessions: Sessions = openSessions(wire, policy.endSessionMs);
  const tasks = openMcpTasks();
  const handshakes = new Set<Promise<unknown>>();
  const stopping = new AbortController();
  let closing = false;

  function contactOf(context: CheckContext): Contact {
    const known = contacts.get(context.key);
    if (known?.identity === context.identity) return known;
    if (known?.session) sessions.end(known.session);
    const { identity } = context;
    const nothing = { era: null, eraUntilMs: 0, session: null, handshake: null, document: undefined, version: null };
    const contact: Contact = { identity, ...nothing };
    contacts.set(context.key, contact);
    return contact;
  }

  async function probe(context: CheckContext): Promise<CheckFound> {
    const contact = contactOf(context);
    try {
      const result = contact.session === null ? await negotiate(context, contact) : await ping(context, contact, contact.session);
      if (result.outcome === "hard") contact.era = null;
      const seen = {
        status: result.httpStatus,
        latencyMs: result.responseTimeMs ?? 0,
        json: contact.document,
        jsonProblem: null,
        protocolVersion: contact.version,
      };
      if (result.outcome !== "ok" || !isToolsCheck(context.check)) return { result, seen };
      return await tasks.run(context, { result, seen }, callIn(context, contact));
    } catch (error) {
      contact.era = null;
      throw error;
    }
  }

  /** Requests as a client of the endpoint's era would send them, in the probe's own session. */
  function callIn(context: CheckContext, contact: Contact): McpCall {
    return async (method, params, named) => {
      const { session } = contact;
      const answer =
        session === null
          ? await call(
              context,
              method,
              { ...params, _meta: modernMeta },
              {
                "mcp-protocol-version": modernVersion,
                "mcp-method": method,
                ...(named === undefined ? {} : { "mcp-name": named }),
              },
            )
          : await call(context, method, params, sessionHeaders(session));
      return { answer, judged: judge(answer, contact.era) };
    };
  }

  function call(context: CheckContext, method: string, params: unknown, headers: Record<string, string>) {
    return callRpc(wire, {
      url: context.check.url,
      headers: { ...context.headers, ...headers },
      tls: context.check.tls,
      fresh: context.fresh,
      signal: context.signal,
      id: `probe-${randomUUID()}`,
      method,
      params,
      bytesMax: policy.answerBytesMax,
    });
  }

  /** M1. */
  async function negotiate(context: CheckContext, contact: Contact): Promise<ProbeResult> {
    const { nowMs } = context;
    const answer = await call(
      context,
      "server/discover",
      { _meta: modernMeta },
      { "mcp-protocol-version": modernVersion, "mcp-method": "server/discover" },
    );
    if (answer.status === 401 || answer.status === 403 || answer.status === 429) return judge(answer, contact.era);
    if (answer.kind === "result" || (answer.kind === "error" && answer.errorCode === unsupportedVersion)) {
      contact.era = "modern";
      contact.eraUntilMs = nowMs + policy.eraMs;
      contact.document = answer.kind === "result" ? answer.result : undefined;
      contact.version = answer.kind === "result" ? modernVersionOf(answer.result) : null;
      return judge(answer, "modern");
    }
    // A server known to be modern that fails is failing, not of another era.
    if (answer.status >= 500 && contact.era === "modern" && nowMs < contact.eraUntilMs) return judge(answer, "modern");
    return openSession(context, contact);
  }

  /** M2: only ever called right after the server has answered something. */
  async function openSession(context: CheckContext, contact: Contact): Promise<ProbeResult> {
    const before = contact.session;
    // Whoever waits is ended by the time-out of its probe.
    while (contact.handshake !== null) await contact.handshake;
    if (closing) throw new Error("the prober stops");
    context.signal.throwIfAborted();
    // Made meanwhile, for a probe beside this one.
    if (contact.session !== null && contact.session !== before) return ping(context, contact, contact.session);
    const { headers, fresh, signal, nowMs } = context;
    const { url, tls } = context.check;
    const session: Session = { id: null, url, headers, tls, version: legacyVersion, sinceMs: nowMs, usedAtMs: nowMs };
    let kept = false;
    try {
      // It outlives its probe: a server that takes its time makes the session all the same, and only its answer says which to end (M4).
      const handshake = callRpc(wire, {
        url,
        headers,
        tls,
        fresh,
        signal: AbortSignal.any([stopping.signal, AbortSignal.timeout(policy.handshakeMs)]),
        id: `probe-${randomUUID()}`,
        method: "initialize",
        params: { protocolVersion: legacyVersion, capabilities: {}, clientInfo },
        bytesMax: policy.answerBytesMax,
        onSession: (id) => {
          session.id = id;
          sessions.opened(session);
        },
      });
      const ended = handshake.then(
        () => undefined,
        () => undefined,
      );
      handshakes.add(ended);
      contact.handshake = ended;
      const answer = await handshake.finally(() => {
        handshakes.delete(ended);
        contact.handshake = null;
      });
      signal.throwIfAborted();
      if (answer.kind !== "result") return judgeHandshake(answer);
      session.version = versionOf(answer.result);
      const own = { ...headers, ...sessionHeaders(session) };
      await notifyRpc(wire, { url, headers: own, tls, fresh, signal, method: "notifications/initialized" });
      const pinged = await call(context, "ping", undefined, sessionHeaders(session));
      if (isSessionLost(pinged))
        return hardResult("malformed", `HTTP ${pinged.status} to a session that it has just made`, pinged.status, "legacy");
      const result = judge(pinged, "legacy");
      if (result.outcome === "hard") return result;
      // The configuration means another server, or none: this one's session would be nobody's (M4).
      if (contacts.get(context.key) !== contact) return result;
      // A probe beside this one, or the rotation, has left one behind (M4).
      if (contact.session !== null) sessions.end(contact.session);
      contact.session = session;
      contact.document = answer.result;
      contact.version = session.version;
      contact.era = "legacy";
      contact.eraUntilMs = nowMs + policy.eraMs;
      kept = true;
      return result;
    } finally {
      if (!kept) sessions.end(session);
    }
  }

  async function ping(context: CheckContext, contact: Contact, session: Session): Promise<ProbeResult> {
    const answer = await call(context, "ping", undefined, sessionHeaders(session));
    session.usedAtMs = context.nowMs;
    if (isSessionLost(answer)) {
      if (contact.session === session) contact.session = null;
      sessions.lost(session);
      return context.nowMs < contact.eraUntilMs && contact.era === "legacy" ? openSession(context, contact) : negotiate(context, contact);
    }
    const result = judge(answer, "legacy");
    if (result.outcome === "hard") return result;
    if (context.nowMs >= contact.eraUntilMs) {
      // The era is asked for anew with the session kept: a server that has become modern lets it go.
      const again = await negotiate(context, contact);
      if (contact.era === "modern" && contact.session !== null) {
        sessions.end(contact.session);
        contact.session = null;
      }
      return again;
    }
    return context.nowMs - session.sinceMs >= policy.sessionMs ? openSession(context, contact) : result;
  }

  return {
    probe,
    retain(identities, nowMs) {
      tasks.retain(identities);
      for (const [key, contact] of contacts) {
        const configured = identities.get(key) === contact.identity;
        const idle = contact.session !== null && nowMs - contact.session.usedAtMs >= policy.sessionMs;
        if (configured && !idle) continue;
        if (contact.session !== null) sessions.end(contact.session);
        contact.session = null;
        if (!configured) contacts.delete(key);
      }
    },
    get openSessions() {
      return sessions.count;
    },
    finishHandshakes() {
      closing = true;
      return Promise.allSettled(handshakes);
    },
    async close() {
      stopping.abort();
      contacts.clear();
      await sessions.endAll();
    },
  };
}

/** 404 by the specification, 400 by server-everything; but where the method is what it does not know, the session stands (M3). */
function isSessionLost(answer: RpcAnswer): boolean {
  return (answer.status === 404 || answer.status === 400) && !(answer.kind === "error" && answer.errorCode === methodNotFound);
}

function sessionHeaders(session: Session): Record<string, string> {
  return { "mcp-protocol-version": session.version, ...(session.id === null ? {} : { "mcp-session-id": session.id }) };
}

/** M6. */
function judge(answer: RpcAnswer, era: "modern" | "legacy" | null): ProbeResult {
  const byStatus = resultOfStatus(answer.status, answer.retryAfter, answer.ms, era);
  if (byStatus.outcome === "hard" || byStatus.outcome === "soft" || byStatus.outcome === "auth") return byStatus;
  if (answer.kind === "none" && byStatus.outcome === "ok")
    return hardResult("malformed", `HTTP ${answer.status}, but ${answer.why}`, answer.status, era);
  if (answer.kind === "error" && answer.errorCode !== unsupportedVersion && answer.errorCode !== methodNotFound) {
    return { ...byStatus, outcome: "caller", code: null, error: `JSON-RPC error ${answer.errorCode}` };
  }
  return byStatus;
}

/** An answer to `initialize` that is no result: a JSON-RPC error lives, anything else is no MCP server. */
function judgeHandshake(answer: RpcAnswer): ProbeResult {
  const judged = judge(answer, "legacy");
  if (answer.kind === "none" && judged.outcome === "caller") {
    return hardResult(
      "malformed",
      `HTTP ${answer.status} to server/discover and to initialize: no MCP server answers at this URL`,
      answer.status,
    );
  }
  return judged;
}

/** The version that a server chose. A header may not carry what we do not know it to be, so anything odd falls back to our own. */
function versionOf(result: unknown): string {
  const version = (result as { protocolVersion?: unknown } | null)?.protocolVersion;
  return typeof version === "string" && /^[\w.-]{1,32}$/.test(version) ? version : legacyVersion;
}

/** The newest version that a modern server says it supports. */
function modernVersionOf(result: unknown): string {
  const versions = (result as { supportedVersions?: unknown } | null)?.supportedVersions;
  const known = (Array.isArray(versions) ? versions : []).filter(
    (version) => typeof version === "string" && /^[\w.-]{1,32}$/.test(version),
  );
  return (known as string[]).sort().at(-1) ?? modernVersion;
}
