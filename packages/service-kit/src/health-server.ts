import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Registry } from "prom-client";

/** What `/readyz` says: ready, degraded (works, but a neighbour is gone) or not ready, with the reasons. */
export interface Readiness {
  readonly status: "ready" | "degraded" | "not_ready";
  readonly conditions: Readonly<Record<string, { ok: boolean; required: boolean; reason: string }>>;
}

export interface HealthServer {
  readonly url: string;
  close(): Promise<void>;
}

/** Answers one of `/healthz`, `/readyz`, `/metrics`; null for any other path. The router and the console use it on their own ports. */
export async function healthAnswer(
  path: string,
  readiness: () => Readiness,
  registry: Registry,
): Promise<{ status: number; type: string; body: string } | null> {
  switch (path) {
    case "/healthz":
      return { status: 200, type: "application/json", body: '{"status":"alive"}' };
    case "/readyz": {
      const now = readiness();
      return { status: now.status === "not_ready" ? 503 : 200, type: "application/json", body: JSON.stringify(now) };
    }
    case "/metrics":
      return { status: 200, type: registry.contentType, body: await registry.metrics() };
    default:
      return null;
  }
}

/** Serves health and metrics on a port of their own. */
export async function startHealthServer(options: {
  host: string;
  port: number;
  readiness: () => Readiness;
  registry: Registry;
}): Promise<HealthServer> {
  const server: Server = createServer((request, response) => {
    healthAnswer((request.url ?? "/").split("?")[0] ?? "/", options.readiness, options.registry).then(
      (answer) => {
        const { status, type, body } = answer ?? {
          status: 404,
          type: "application/json",
          body: '{"error":"not found: try /healthz, /readyz or /metrics"}',
        };
        response.writeHead(status, { "content-type": type }).end(body);
      },
      () => response.writeHead(500).end(),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port, options.host, () => {
      server.off("error", reject);
      resolve();
    });
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${options.host}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
