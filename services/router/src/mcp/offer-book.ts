import { isObject } from "./envelope.ts";
import { capabilityPaths } from "./seal.ts";

/**
 * What the endpoints of an upstream offer to clients of one protocol version, to tell the operator which of them sessions cannot move to
 * (requirement R3). Guarantees:
 * O1  It only tells. A client is offered what its own endpoint offers, as without the router: nothing is taken away for the sake of another
 *     endpoint (docs/adr/0003).
 * O2  What an endpoint lacks beside another one is told once, and again when it has become something else.
 */
export interface OfferBook {
  /** The result of an `initialize` that asked for a version. */
  learn(upstream: string, endpoint: string, asked: unknown, result: unknown): void;
}

export interface OfferDifference {
  readonly upstream: string;
  /** Sessions that began on `other` do not move here... */
  readonly endpoint: string;
  readonly other: string;
  /** ...for these are missing: capabilities, or the version itself. */
  readonly lacks: readonly string[];
}
interface Offer {
  readonly version: string;
  readonly capabilities: readonly string[];
}

const endpointsMax = 10_000;
/** Of one upstream; clients choose what they ask for. */
const versionsMax = 16;

export function createOfferBook(onDifference: (found: OfferDifference) => void): OfferBook {
  /** Offers by endpoint, by the version that was asked for, by upstream. */
  const offers = new Map<string, Map<string, Map<string, Offer>>>();
  const told = new Set<string>();

  const tell = (upstream: string, asked: string, [endpoint, offer]: [string, Offer], [other, others]: [string, Offer]): void => {
    const lacks = lacking(asked, offer, others);
    const difference = JSON.stringify([upstream, asked, endpoint, other, lacks]);
    if (lacks.length === 0 || told.has(difference)) return;
    if (told.size >= endpointsMax) told.clear();
    told.add(difference);
    onDifference({ upstream, endpoint, other, lacks });
  };
  const note = (upstream: string, endpoint: string, asked: string, offer: Offer): void => {
    if (!offers.has(upstream) && offers.size >= endpointsMax) return;
    const byVersion = offers.get(upstream) ?? new Map<string, Map<string, Offer>>();
    offers.set(upstream, byVersion);
    if (!byVersion.has(asked) && byVersion.size >= versionsMax) return;
    const byEndpoint = byVersion.get(asked) ?? new Map<string, Offer>();
    byVersion.set(asked, byEndpoint);
    if (!byEndpoint.has(endpoint) && byEndpoint.size >= endpointsMax) return;
    byEndpoint.set(endpoint, offer);
    for (const one of byEndpoint) {
      if (one[0] === endpoint) continue;
      tell(upstream, asked, [endpoint, offer], one);
      tell(upstream, asked, one, [endpoint, offer]);
    }
  };
  return {
    learn(upstream, endpoint, asked, result) {
      if (!isObject(result) || !isVersion(asked) || !isVersion(result["protocolVersion"])) return;
      const version = result["protocolVersion"];
      const offer = { version, capabilities: capabilityPaths(result["capabilities"]) };
      note(upstream, endpoint, asked, offer);
      // Who comes down to a version speaks it; the session is replayed with this one.
      if (version !== asked) note(upstream, endpoint, version, offer);
    },
  };
}

/** What an offer has not that another one has, for a session that speaks `asked`. */
function lacking(asked: string, offer: Offer, other: Offer): readonly string[] {
  // No session speaks it on an endpoint that comes down from it.
  if (other.version !== asked) return [];
  const has = new Set(offer.capabilities);
  return [...(offer.version === asked ? [] : [`protocol ${asked}`]), ...other.capabilities.filter((path) => !has.has(path))];
}

function isVersion(value: unknown): value is string {
  return typeof value === "string" && /^\d{4}-\d{2}-\d{2}$/.test(value);
}
