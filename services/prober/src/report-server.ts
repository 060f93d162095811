import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { isOneOf } from "@mcp-failover/service-kit";
import { z } from "zod";

/**
 * Where endpoints report that they are well: `POST /report/<upstream>/<endpoint>` with `Authorization: Bearer <token>`, answered 204.
 * The body may be empty, or `{ "status": "ok" | "degraded" | "failing", "detail": "..." }`.
 *
 * R1  The token is the one that this endpoint's `probe.heartbeat.token` names; a wrong one, and one for an endpoint that has none, are
 *     answered alike (401), in a time that does not tell how much of it was right. It goes nowhere else.
 * R2  Sizes, times and connections are bounded.
 */
export interface ReportServer {
  readonly url: string;
  close(): Promise<void>;
}

export interface ReportServerOptions {
  readonly host: string;
  readonly port: number;
  /** The token of an endpoint; null: it has none, or its secret is missing here. */
  readonly tokenOf: (upstream: string, endpoint: string) => string | null;
  readonly onReport: (upstream: string, endpoint: string, report: z.infer<typeof reportBody>) => void;
  /** A connection could not be accepted; the server goes on. */
  readonly onError: (error: Error) => void;
}

const bodyBytesMax = 4096;
const connectionsMax = 512;
const reportBody = z.looseObject({
  status: z.enum(["ok", "degraded", "failing"]).default("ok"),
  detail: z.string().max(200).nullable().default(null),
});

class RefusedError extends Error {
  override readonly name = "RefusedError";
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

export async function startReportServer(options: ReportServerOptions): Promise<ReportServer> {
  const server = createServer((request, response) => {
    take(request, options).then(
      () => response.writeHead(204).end(),
      (error: unknown) => {
        const { status, message } = error instanceof RefusedError ? error : { status: 400, message: "the request ended too early" };
        if (!response.headersSent) response.writeHead(status, { "content-type": "application/json", connection: "close" });
        response.end(JSON.stringify({ error: message }));
      },
    );
  });
  server.maxConnections = connectionsMax;
  server.headersTimeout = 5000;
  server.requestTimeout = 10_000;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port, options.host, () => {
      server.off("error", reject);
      // One connection that could not be accepted (no file descriptors, say) is no reason to stop.
      server.on("error", options.onError);
      resolve();
    });
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${options.host.includes(":") ? `[${options.host}]` : options.host}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function take(request: IncomingMessage, { tokenOf, onReport }: ReportServerOptions): Promise<void> {
  const [, word, upstream = "", endpoint = "", ...rest] = (request.url ?? "").split("?")[0]?.split("/") ?? [];
  if (word !== "report" || endpoint === "" || rest.length > 0) throw new RefusedError(404, "not found: POST /report/<upstream>/<endpoint>");
  if (request.method !== "POST") throw new RefusedError(405, "use POST");
  const given = /^Bearer (.+)$/i.exec(request.headers.authorization ?? "")?.[1] ?? "";
  const token = tokenOf(upstream, endpoint);
  // R1.
  if (token === null || !isOneOf([token], given)) throw new RefusedError(401, "the token is not that of this endpoint's probe.heartbeat");
  const text = await bodyOf(request);
  let body: unknown = {};
  try {
    body = text.trim() === "" ? {} : JSON.parse(text);
  } catch {
    throw new RefusedError(400, "the body is no JSON");
  }
  const parsed = reportBody.safeParse(body);
  if (!parsed.success)
    throw new RefusedError(400, 'the body is not { "status": "ok" | "degraded" | "failing", "detail": "at most 200 characters" }');
  onReport(upstream, endpoint, parsed.data);
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request) {
    bytes += (chunk as Buffer).length;
    if (bytes > bodyBytesMax) throw new RefusedError(413, `the body is over ${bodyBytesMax} bytes`);
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks).toString("utf8");
}
