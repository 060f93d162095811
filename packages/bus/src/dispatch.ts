import { type Reply, type RequestSubject, requestFixOf, requests, sayIssues } from "@mcp-failover/contracts";
import { RefusedError, type ServiceDefinition } from "./bus.ts";

/** Requests that one instance works on at a time; more are refused, and may be asked again. */
const inFlightMax = 256;

/** Answers the requests of one instance. */
export function dispatcher(service: ServiceDefinition, onError: (error: unknown, subject: string) => void) {
  let inFlight = 0;
  return async (subject: RequestSubject, bytes: Uint8Array): Promise<Reply> => {
    if (inFlight >= inFlightMax) return refusal("busy", `${service.name} works on ${inFlightMax} requests already: ask again`, true);
    inFlight += 1;
    try {
      return await dispatch(service, subject, bytes, (error) => onError(error, subject));
    } finally {
      inFlight -= 1;
    }
  };
}

/** Reads and checks the body, calls the handler, never throws. */
async function dispatch(
  service: ServiceDefinition,
  subject: RequestSubject,
  bytes: Uint8Array,
  onError: (error: unknown) => void,
): Promise<Reply> {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    return refusal("bad_request", `${subject} takes a JSON body`, false); // The parser's own words could quote a secret.
  }
  const body = requests[subject].schema.safeParse(json, { error: requestFixOf });
  if (!body.success) return refusal("bad_request", `${subject}: ${sayIssues(body.error)}`, false);
  const handler = service.handlers[subject] as ((body: unknown) => Promise<unknown>) | undefined;
  if (handler === undefined) return refusal("not_served", `${service.name} does not answer ${subject}`, false);
  try {
    return { ok: true, result: (await handler(body.data)) ?? null };
  } catch (error) {
    if (error instanceof RefusedError) return refusal(error.code, error.message, error.retriable);
    onError(error);
    return refusal("internal", `${service.name} failed on ${subject}: see its log`, true);
  }
}

export function refusal(code: string, message: string, retriable: boolean): Reply {
  return { ok: false, error: { code, message, retriable } };
}
