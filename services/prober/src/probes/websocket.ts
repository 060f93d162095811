import { probeCheckPolicy } from "@mcp-failover/domain";
import { lookUp } from "@mcp-failover/service-kit";
import WebSocket from "ws";
import { type CheckContext, type CheckFound, documentOf } from "./check.ts";
import { hardResult, okResult, resultOfStatus } from "./result.ts";
import { secured } from "./secured.ts";

/**
 * Probes a WebSocket: the upgrade, then a ping that must come back; or, where the probe has a `body` or looks at an answer, the first message.
 * What refuses the upgrade is judged by its HTTP status.
 */
export async function probeWebSocket(context: CheckContext): Promise<CheckFound> {
  const { check, headers, signal, ca } = context;
  const wantsMessage = check.body !== null || check.expect.some(({ of }) => of === "body" || of === "json");
  const startedMs = performance.now();
  const socket = new WebSocket(check.url, {
    headers,
    maxPayload: probeCheckPolicy.documentBytesMax,
    followRedirects: false,
    perMessageDeflate: false,
    lookup: lookUp,
    ...(ca !== null ? { ca } : check.tls === null ? {} : secured(check.tls)),
    ...(check.serverName === null ? {} : { servername: check.serverName }),
  });
  const abort = (): void => socket.terminate();
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort, { once: true });
  try {
    return await new Promise<CheckFound>((resolve, reject) => {
      const done = (text: string | null): void => {
        const latencyMs = performance.now() - startedMs;
        resolve({ result: okResult(latencyMs), seen: { latencyMs, body: text, status: 101, ...(text === null ? {} : documentOf(text)) } });
      };
      socket.on("unexpected-response", (_request, response) => {
        const status = response.statusCode ?? 0;
        const retryAfter = response.headers["retry-after"] ?? null;
        response.destroy();
        const judged = resultOfStatus(status, retryAfter, performance.now() - startedMs, null);
        // Anything but 101 is no WebSocket, whatever it would be elsewhere.
        const refused = judged.outcome === "ok" || judged.outcome === "caller";
        const error = `HTTP ${status} instead of an upgrade: no WebSocket is at this URL`;
        resolve({ result: refused ? { ...judged, outcome: "hard", code: "malformed", error } : judged, seen: { status } });
      });
      let opened = false;
      socket.on("open", () => {
        opened = true;
        if (check.body !== null) socket.send(check.body);
        if (!wantsMessage) socket.ping();
      });
      socket.on("pong", () => {
        if (!wantsMessage) done(null);
      });
      socket.on("message", (data) => {
        if (wantsMessage) done(String(data));
      });
      socket.on("error", reject);
      socket.on("close", (code) => {
        // What it says in parting is worth more than that it went: 1013 is overload, 1008 and 4401 often credentials. 1006 is said by nobody.
        if (opened && code !== 1006) resolve({ result: hardResult("closed", `it closed the WebSocket, with the code ${code}`), seen: {} });
        else reject(Object.assign(new Error("the connection was closed"), { code: "UND_ERR_SOCKET" }));
      });
    });
  } finally {
    signal.removeEventListener("abort", abort);
    socket.close();
    // A server that does not close in turn must not keep this connection.
    const timer = setTimeout(() => socket.terminate(), closeMs);
    timer.unref();
    socket.once("close", () => clearTimeout(timer));
  }
}

const closeMs = 1000;
