import type { RouterError } from "../errors.ts";
import type { DiscoverRefused } from "./era.ts";

/** What an upstream refuses by its status, in the router's own words: its own are about another resource than the client asked (R22, R24). */

/** 401 or 403. */
export function credentialRefused(endpoint: string, httpStatus: number): RouterError {
  return {
    code: "upstream_auth",
    message: `${endpoint} refused the credential that the router has for it (${httpStatus}); an operator has to renew it`,
    retriable: false,
  };
}

/** {@link DiscoverRefused}. */
export function discoverRefused({ httpStatus, retryAfterMs }: DiscoverRefused, endpoint: string): RouterError {
  return httpStatus === 429 ? loadShed(endpoint, retryAfterMs) : credentialRefused(endpoint, httpStatus);
}

/** 429. */
export function loadShed(endpoint: string, retryAfterMs: number | null): RouterError {
  return {
    code: "overloaded",
    message: `${endpoint} sheds load; try again later`,
    retriable: true,
    ...(retryAfterMs === null ? {} : { retryAfterMs }),
  };
}
