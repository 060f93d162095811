import type { ChannelConfig, Notification } from "@mcp-failover/contracts";
import { type Kit, MissingSecretError } from "@mcp-failover/service-kit";
import axios from "axios";

/** How a delivery ended: sent, or to be tried again after at least so long. */
export type Outcome =
  | { readonly kind: "sent" }
  | {
      readonly kind: "refused";
      readonly error: string;
      readonly retryAfterMs: number | null;
      /** Whether the receiver said something, or was not asked; false where it could not be reached or kept silent. */
      readonly answered: boolean;
    };

const requestMsMax = 10_000;
const retryAfterMsMax = 3_600_000;

/** Sends one notification to one channel. Never throws for what a receiver does; no error holds the channel's URL or a secret's value. */
export async function deliver(
  kit: Pick<Kit, "log" | "secrets" | "nowMs">,
  channel: ChannelConfig,
  notification: Notification,
): Promise<Outcome> {
  if (channel.type === "log") {
    kit.log.warn({ notification }, `NOTIFICATION: ${notification.title}`);
    return { kind: "sent" };
  }
  try {
    const url = kit.secrets.resolve(channel.url);
    if (typeof channel.url !== "string" && !isHttp(url)) {
      const error = `${channel.name}: the secret ${channel.url.secret} is no URL that begins with http:// or https://: correct it`;
      return { kind: "refused", error, retryAfterMs: null, answered: true };
    }
    const headers = Object.fromEntries(Object.entries(channel.headers).map(([key, value]) => [key, kit.secrets.resolve(value)]));
    const response = await axios.post<{ destroy(): void }>(url, body(notification), {
      headers: { "content-type": "application/json", "idempotency-key": notification.id, ...headers },
      timeout: requestMsMax,
      signal: AbortSignal.timeout(requestMsMax),
      maxRedirects: 0,
      proxy: false,
      // Only the status counts: a large or broken body of a receiver that took the message must not have it sent again.
      responseType: "stream",
      validateStatus: () => true,
    });
    response.data.destroy();
    if (response.status >= 200 && response.status < 300) return { kind: "sent" };
    return {
      kind: "refused",
      error: `${channel.name} answered ${response.status}`,
      retryAfterMs: retryAfterOf(response.headers["retry-after"], kit.nowMs()),
      answered: true,
    };
  } catch (error) {
    if (error instanceof MissingSecretError) {
      return { kind: "refused", error: `${channel.name}: ${error.message}`, retryAfterMs: null, answered: true };
    }
    // The message of a transport error may hold the URL, and a webhook's URL is often its secret.
    const code = (error as { code?: unknown }).code;
    return {
      kind: "refused",
      error: `${channel.name} could not be reached${typeof code === "string" ? ` (${code})` : ""}`,
      retryAfterMs: null,
      answered: false,
    };
  }
}

function isHttp(url: string): boolean {
  return URL.canParse(url) && /^https?:$/.test(new URL(url).protocol);
}

function body(notification: Notification): object {
  const { id, incidentId, kind, severity, title, text, upstream, atMs } = notification;
  return { id, incident: incidentId, kind, severity, title, text, service: upstream, timestamp: new Date(atMs).toISOString() };
}

/** `Retry-After` in seconds or as a date (RFC 9110, 10.2.3), bounded. */
function retryAfterOf(header: unknown, nowMs: number): number | null {
  if (typeof header !== "string") return null;
  const seconds = Number(header);
  const waitMs = Number.isFinite(seconds) ? seconds * 1000 : Date.parse(header) - nowMs;
  return Number.isFinite(waitMs) && waitMs > 0 ? Math.min(waitMs, retryAfterMsMax) : null;
}
