import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";

/** One notification as it came in. */
interface Notification {
  readonly atMs: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  readonly body: unknown;
  /** The status that it was answered with. */
  readonly status: number;
}
export interface WebhookReceiver {
  readonly url: string;
  /** Every request, refused ones too. */
  readonly received: readonly Notification[];
  /** Those that were accepted. */
  accepted(): readonly Notification[];
  /** Refuses the next `count` requests with 503. */
  refuse(count: number): void;
  close(): Promise<void>;
}

const bodyBytesMax = 1024 * 1024;

/** Receives notifications on a free port of this machine; refuses the first `refuseFirst` of them. */
export async function startWebhook(options: { refuseFirst?: number } = {}): Promise<WebhookReceiver> {
  let toRefuse = options.refuseFirst ?? 0;
  const received: Notification[] = [];
  const server = createServer((request, response) => {
    let text = "";
    request.setEncoding("utf8");
    request.on("data", (chunk: string) => {
      if (text.length < bodyBytesMax) text += chunk;
    });
    request.on("end", () => {
      const status = toRefuse > 0 ? 503 : 200;
      if (toRefuse > 0) toRefuse -= 1;
      received.push({ atMs: Date.now(), headers: request.headers, text, body: parsed(text), status });
      response.writeHead(status).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`,
    received,
    accepted: () => received.filter(({ status }) => status === 200),
    refuse: (count) => {
      toRefuse = count;
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null; // What came is in `text`; a test that wants JSON sees null.
  }
}
