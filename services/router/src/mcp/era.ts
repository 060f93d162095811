import type { EndpointView } from "../control/port.ts";
import type { EndSignal } from "../ending.ts";
import { retryAfterMsOf, type UpstreamClient } from "../upstream-client.ts";
import { clientInfoKey, type Era, firstModernVersion, versionKey } from "./envelope.ts";
import { firstAnswer } from "./replay.ts";

/**
 * Which protocol era an endpoint speaks (requirement R1). A request of the modern era must not reach a legacy server: some execute it
 * under the old meaning. Learnt from the endpoint's answers to `server/discover`, kept for a while, since a server may be upgraded.
 */
export interface EraBook {
  known(endpoint: EndpointView): Era | null;
  learn(endpoint: EndpointView, era: Era): void;
  /** Asks the endpoint when nothing is known. Throws UpstreamError when it cannot be reached, {@link DiscoverRefused} when it takes no question. */
  ask(endpoint: EndpointView, connectMs: number, signal: EndSignal): Promise<Era>;
}

/** The endpoint refuses the router's credential (401, 403) or sheds load (429): it would refuse the request as well, which was not sent. */
export class DiscoverRefused extends Error {
  override readonly name = "DiscoverRefused";
  readonly code = "discover_refused";
  readonly retriable: boolean;
  readonly httpStatus: number;
  readonly retryAfterMs: number | null;
  constructor(endpoint: string, httpStatus: number, retryAfterMs: number | null) {
    super(`${endpoint} answered ${httpStatus} when it was asked for its protocol`);
    this.httpStatus = httpStatus;
    this.retryAfterMs = retryAfterMs;
    this.retriable = httpStatus === 429;
  }
}
const refusing: ReadonlySet<number> = new Set([401, 403, 429]);

const keptMs = 5 * 60_000;
const endpointsMax = 10_000;

/** A server that fails, is in the way of a proxy or breaks off says nothing about its era, nor does one that refuses. */
function provesEra(status: number, answered: boolean): boolean {
  if (status === 200) return answered;
  return status >= 400 && status < 500 && !noWordOnEra.has(status);
}
const noWordOnEra: ReadonlySet<number> = new Set([407, 408, 425]);

export function createEraBook(client: UpstreamClient, nowMs: () => number): EraBook {
  const eras = new Map<string, { era: Era; untilMs: number }>();
  const learn: EraBook["learn"] = (endpoint, era) => {
    if (eras.size >= endpointsMax) eras.clear();
    eras.set(endpoint.url, { era, untilMs: nowMs() + keptMs });
  };
  const known: EraBook["known"] = (endpoint) => {
    const entry = eras.get(endpoint.url);
    return entry !== undefined && entry.untilMs > nowMs() ? entry.era : null;
  };
  return {
    known,
    learn,
    async ask(endpoint, connectMs, signal) {
      const before = known(endpoint);
      if (before !== null) return before;
      const body = {
        jsonrpc: "2.0",
        id: "mcpf-discover",
        method: "server/discover",
        params: {
          _meta: {
            [versionKey]: firstModernVersion,
            [clientInfoKey]: { name: "mcp-failover", version: "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
          },
        },
      };
      const response = await client.send({
        endpoint,
        method: "POST",
        headers: {
          "content-type": "application/json",
          accept: "application/json, text/event-stream",
          "mcp-protocol-version": firstModernVersion,
          "mcp-method": "server/discover",
        },
        body: Buffer.from(JSON.stringify(body)),
        connectMs,
        signal,
        lane: "call",
      });
      if (refusing.has(response.status)) {
        response.discard(250);
        throw new DiscoverRefused(endpoint.name, response.status, retryAfterMsOf(response.headers, nowMs()));
      }
      const answer = response.status < 500 ? await firstAnswer(response) : null;
      if (answer === null) response.discard(250);
      const era: Era = response.status === 200 && answer?.error === null ? "modern" : "legacy";
      if (provesEra(response.status, answer !== null)) learn(endpoint, era);
      return era;
    },
  };
}
