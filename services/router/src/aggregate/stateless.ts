import type { EndSignal } from "../ending.ts";
import type { Principal } from "../identity/principal.ts";
import { firstModernVersion } from "../mcp/envelope.ts";
import { headerText } from "../mcp/header-text.ts";
import type { UpstreamResponse } from "../upstream-client.ts";
import { type Asked, InnerError, isStream, type Listener, lostError, readMessages, wholeAnswer } from "./inner-answer.ts";
import type { LocalCall } from "./local-request.ts";

/** What every request of one client of the modern era carries. */
export interface StatelessClient {
  readonly call: LocalCall;
  readonly principal: Principal;
  /** `_meta` of its request: version, client, capabilities, and what else it said there. */
  readonly meta: Readonly<Record<string, unknown>>;
  readonly passed: Readonly<Record<string, string>>;
  readonly signal: EndSignal;
}

/** Where the name in `Mcp-Name` stands in the params (MCP 2026-07-28). */
export const namedBy: Readonly<Record<string, string>> = { "tools/call": "name", "prompts/get": "name", "resources/read": "uri" };

/** An upstream that needs no session, over the router's own `/mcp/<upstream>`. One that hangs up ends its request (requirement R13). */
export class StatelessUpstream implements Asked {
  readonly upstream: string;
  readonly #client: StatelessClient;
  constructor(upstream: string, client: StatelessClient) {
    this.upstream = upstream;
    this.#client = client;
  }

  async request(message: Record<string, unknown>, headers: Readonly<Record<string, string>>, listen: Listener): Promise<void> {
    const response = await this.send(message, headers);
    const id = message["id"] as string | number;
    if (!isStream(response)) return wholeAnswer(response, this.upstream, id, listen);
    if (!(await readMessages(response, id, listen)).answered) throw new InnerError(lostError(this.upstream));
  }

  /** `params` without `_meta`, which is the client's. */
  send(message: Record<string, unknown>, headers: Readonly<Record<string, string>>): Promise<UpstreamResponse> {
    const { call, principal, meta, passed, signal } = this.#client;
    const method = String(message["method"]);
    const params = message["params"] as Record<string, unknown>;
    const name = params[namedBy[method] ?? ""];
    return call({
      upstream: this.upstream,
      method: "POST",
      headers: {
        ...passed,
        ...headers,
        accept: "application/json, text/event-stream",
        "content-type": "application/json",
        "mcp-protocol-version": firstModernVersion,
        "mcp-method": method,
        ...(typeof name === "string" ? { "mcp-name": headerText(name) } : {}),
      },
      body: Buffer.from(JSON.stringify({ ...message, params: { ...params, _meta: meta } })),
      principal,
      signal,
    });
  }
}
