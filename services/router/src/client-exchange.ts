import type { IncomingHttpHeaders } from "node:http";

/**
 * One request of a client, as far as the data plane reads it. `IncomingMessage` is one, and so is what the front reads (`front/`), a message of
 * a batch, and a request that the router makes to itself.
 */
export interface ClientRequest {
  readonly method?: string | undefined;
  /** Names in lower case. */
  readonly headers: IncomingHttpHeaders;
}

/** Its answer. `ServerResponse` is one. */
export interface ClientResponse {
  readonly headersSent: boolean;
  /** Also when the client is gone. */
  readonly destroyed: boolean;
  readonly writableEnded: boolean;
  readonly writableFinished: boolean;
  setHeader(name: string, value: string): unknown;
  /** Nothing is sent before the first part of the body, `flushHeaders` or the end. */
  writeHead(status: number, headers?: Readonly<Record<string, string | number | string[] | undefined>>): { end(): unknown };
  flushHeaders(): void;
  /** Returns false when the client reads too slowly; `drain` tells when to go on. */
  write(part: string | Buffer): boolean;
  end(rest?: string | Buffer, encoding?: BufferEncoding): unknown;
  destroy(): unknown;
  on(event: "close" | "drain", listener: () => void): unknown;
  once(event: "close" | "drain", listener: () => void): unknown;
  off(event: "close" | "drain", listener: () => void): unknown;
  setMaxListeners(count: number): unknown;
}
