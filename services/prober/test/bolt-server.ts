import { type AddressInfo, createServer, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { unpackMessage } from "../src/probes/pack-stream.ts";

/** A server that speaks Bolt as far as logging on, as Neo4j 5 does; the driver of Neo4j is what says that it does (`bolt.test.ts`). */
export interface BoltServer {
  readonly port: number;
  /** What clients sent: names of messages with their scheme and user. */
  readonly heard: string[];
  /** Version to answer a handshake with; null: none of those offered. */
  version: readonly [major: number, minor: number] | null;
  password: string;
  /** Answers HELLO with this failure. */
  failing: { readonly code: string; readonly message: string } | null;
  close(): Promise<void>;
}

const names: Readonly<Record<number, string>> = { 1: "HELLO", 2: "GOODBYE", 15: "RESET", 106: "LOGON", 107: "LOGOFF", 84: "TELEMETRY" };

export async function boltServer(tls?: { key: string; cert: string }): Promise<BoltServer> {
  const sockets = new Set<Socket>();
  const accept = (socket: Socket): void => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    socket.on("error", () => undefined);
    serve(socket, bolt);
  };
  const server = tls === undefined ? createServer(accept) : createTlsServer(tls, accept);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const bolt: BoltServer = {
    port: (server.address() as AddressInfo).port,
    heard: [],
    version: [5, 8],
    password: "right-password",
    failing: null,
    close: () =>
      new Promise((resolve) => {
        for (const socket of sockets) socket.destroy();
        server.close(() => resolve());
      }),
  };
  return bolt;
}

function serve(socket: Socket, bolt: BoltServer): void {
  let buffered: Buffer = Buffer.alloc(0);
  let isGreeted = false;
  socket.on("data", (chunk: Buffer) => {
    buffered = Buffer.concat([buffered, chunk]);
    if (!isGreeted) {
      if (buffered.length < 20) return;
      if (buffered.readUInt32BE(0) !== 0x6060b017) {
        socket.end("HTTP/1.1 400 Bad Request\r\n\r\n");
        return;
      }
      isGreeted = true;
      socket.write(choose(buffered.subarray(4, 20), bolt.version));
      buffered = buffered.subarray(20);
    }
    for (;;) {
      const message = takeMessage(buffered);
      if (message === null) return;
      buffered = message.rest;
      answer(socket, bolt, message.bytes);
    }
  });
}

/** The version, where one of the four offers has it in its range. */
function choose(offers: Buffer, version: BoltServer["version"]): Buffer {
  if (version !== null) {
    const [major, minor] = version;
    for (let at = 0; at < 16; at += 4) {
      const [, range = 0, highest = 0, offered = 0] = offers.subarray(at, at + 4);
      if (offered === major && minor <= highest && minor >= highest - range) return Buffer.from([0, 0, minor, major]);
    }
  }
  return Buffer.from([0, 0, 0, 0]);
}

function takeMessage(bytes: Buffer): { bytes: Buffer; rest: Buffer } | null {
  const chunks: Buffer[] = [];
  let at = 0;
  while (bytes.length >= at + 2) {
    const length = bytes.readUInt16BE(at);
    at += 2;
    if (length === 0) return { bytes: Buffer.concat(chunks), rest: bytes.subarray(at) };
    if (bytes.length < at + length) return null;
    chunks.push(bytes.subarray(at, at + length));
    at += length;
  }
  return null;
}

function answer(socket: Socket, bolt: BoltServer, bytes: Buffer): void {
  const { tag, fields } = unpackMessage(bytes);
  bolt.heard.push([names[tag] ?? `0x${tag.toString(16)}`, fields["scheme"], fields["principal"]].filter(Boolean).join(" "));
  const isWrong = fields["credentials"] !== undefined && fields["credentials"] !== bolt.password;
  const failure = isWrong
    ? { code: "Neo.ClientError.Security.Unauthorized", message: "The client is unauthorized due to authentication failure." }
    : tag === 0x01
      ? bolt.failing
      : null;
  if (tag === 0x02) socket.end();
  else if (failure !== null) send(socket, 0x7f, { code: failure.code, message: failure.message });
  else send(socket, 0x70, tag === 0x01 ? { server: "Neo4j/5.26.0", connection_id: "bolt-1" } : {});
}

function send(socket: Socket, tag: number, fields: Record<string, string>): void {
  const text = (value: string): Buffer => Buffer.concat([Buffer.from([0xd0, Buffer.byteLength(value)]), Buffer.from(value)]);
  const packed = Object.entries(fields).flatMap(([key, value]) => [text(key), text(value)]);
  const message = Buffer.concat([Buffer.from([0xb1, tag, 0xa0 | Object.keys(fields).length]), ...packed]);
  socket.write(Buffer.concat([Buffer.from([0, message.length]), message, Buffer.from([0, 0])]));
}
