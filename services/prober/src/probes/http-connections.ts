import { connect as connectTcp, isIP, type Socket } from "node:net";
import { type ConnectionOptions, connect as connectTls } from "node:tls";
import type { EndpointTls } from "@mcp-failover/contracts";
import { fractionOf } from "@mcp-failover/domain";
import { lookUp, tlsKey } from "@mcp-failover/service-kit";
import type { Ending } from "./deadline.ts";
import { HttpAnswer } from "./http-answer.ts";
import { secured } from "./secured.ts";

/**
 * Sends small requests of HTTP/1.1 and reads their answers, straight on sockets: a fleet's probes are all alike, and a client for every
 * case costs several times what they need.
 *
 * C1  A request goes to one connection, once; a connection carries one request at a time.
 * C2  An origin has at most so many kept connections; whoever finds them taken waits, in order.
 * C3  A kept connection on which anything comes unasked, or that ends, is not used again; one idle for `keepMs`, or for what its server
 *     said it keeps it, is closed, and so is one that is as old as a kept connection may be: its name may mean another address by then,
 *     which is where new callers go.
 * C4  A request that is given up ends at once, whatever it waits for, and so does its connection.
 */
export interface HttpConnections {
  /** The answer, with at most so much of its body. Throws what the transport threw, and {@link HttpParserError}. */
  ask(request: HttpRequest, limits: AnswerLimits): Promise<HttpAnswer>;
  close(): void;
}

export interface HttpRequest {
  readonly url: string;
  readonly method: "GET" | "HEAD" | "POST" | "DELETE";
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string | undefined;
  /** The endpoint's own, where it has some. */
  readonly tls?: EndpointTls | null;
  readonly fresh: boolean;
  readonly signal: Ending;
}

export interface AnswerLimits {
  readonly bytesMax: number;
  readonly keepsBody: boolean;
}

interface Address {
  readonly originKey: string;
  readonly host: string;
  readonly port: number;
  readonly serverName: string | null;
  readonly tls: EndpointTls | null;
  readonly hostHeader: string;
  readonly path: string;
}
const addressesMax = 50_000;
const waitingMax = 256;
const keepMs = 30_000;
/** Of the time that a connection may be used, so much is spread by its host, so that not all are made anew at once. */
const lifeSpread = 0.25;
/** A server's word on how long it keeps a connection is taken so much shorter: its close may be on its way. */
const keepMarginMs = 1000;
const sweepMs = 5000;

const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const fieldValue = /^[\t\x20-\x7e\x80-\xff]*$/;
/** Who probes; some firewalls refuse whoever does not say. The operator's headers stand over it. */
export const userAgent = "mcp-failover/0.1.0";
/** Whoever says nothing of it takes every coding (RFC 9110, 12.5.3), and bodies are read as they come. */
export const coding = "identity";
/** What this client says itself. */
const ownHeaders: ReadonlySet<string> = new Set(["connection", "content-length", "expect", "keep-alive", "transfer-encoding", "upgrade"]);

/** Bytes are looked at as soon as they were read, and what is kept of them is copied: one buffer serves all sockets. */
const readBuffer = Buffer.allocUnsafeSlow(64 * 1024);

interface Origin {
  readonly idle: Connection[];
  readonly waiting: Exchange[];
  open: number;
}

/** `lifeMs`: how long a kept connection is used at most. */
export function openHttpConnections(connectionsPerOrigin: number, lifeMs: number): HttpConnections {
  const origins = new Map<string, Origin>();
  const addresses = new Map<string, Address>();
  const connections = new Set<Connection>();
  let closed = false;

  /** The same few URLs are asked for again and again, and taking one apart costs as much as a small request. */
  function addressOf(url: string, hostHeader: string | undefined, tls: EndpointTls | null): Address {
    const secured = tls === null ? "" : ` ${tlsKey(tls)}`;
    const name = hostHeader === undefined ? `${url}${secured}` : `${url} ${hostHeader}${secured}`;
    const known = addresses.get(name);
    if (known !== undefined) return known;
    const { protocol, hostname, port, host, pathname, search } = new URL(url);
    if (protocol !== "http:" && protocol !== "https:") throw new TypeError(`${protocol} is not http: or https:`);
    const isTls = protocol === "https:";
    const bare = hostname.replace(/^\[(.*)\]$/, "$1");
    const said = hostHeader ?? host;
    const address = {
      originKey: `${protocol}//${host} ${said}${secured}`,
      host: bare,
      port: port === "" ? (isTls ? 443 : 80) : Number(port),
      tls,
      serverName: isTls ? said.replace(/:\d+$/, "").replace(/^\[(.*)\]$/, "$1") : null,
      hostHeader: said,
      path: `${pathname}${search}`,
    };
    if (addresses.size >= addressesMax) addresses.clear();
    addresses.set(name, address);
    return address;
  }

  function originOf(key: string): Origin {
    let origin = origins.get(key);
    if (origin === undefined) {
      origin = { idle: [], waiting: [], open: 0 };
      origins.set(key, origin);
    }
    return origin;
  }

  /** A new connection for a request; null where none can be made, which the request is told. */
  function connect(exchange: Exchange, usedMs: number, onFree: (connection: Connection) => void): Connection | null {
    try {
      const connection = new Connection(exchange.address, usedMs, onFree);
      connections.add(connection);
      connection.carry(exchange);
      return connection;
    } catch (error) {
      exchange.fail(error);
      return null;
    }
  }

  /** Gives a request that may use a kept connection one, or a place in the queue (C2). */
  function place(exchange: Exchange, origin: Origin): void {
    for (let kept = origin.idle.pop(); kept !== undefined; kept = origin.idle.pop()) {
      if (performance.now() < kept.keptUntilMs) {
        kept.carry(exchange);
        return;
      }
      kept.drop();
    }
    if (origin.open < connectionsPerOrigin) {
      const usedMs = lifeMs * (1 - lifeSpread * fractionOf(exchange.address.originKey));
      const connection = connect(exchange, usedMs, (ended) => release(ended, origin));
      if (connection !== null) origin.open += 1;
    } else if (origin.waiting.length >= waitingMax) exchange.fail(new RangeError("too many requests wait for a connection to one host"));
    else {
      exchange.leave = () => {
        const at = origin.waiting.indexOf(exchange);
        if (at >= 0) origin.waiting.splice(at, 1);
      };
      origin.waiting.push(exchange);
    }
  }

  /** A connection is free, or gone. */
  function release(connection: Connection, origin: Origin): void {
    if (connection.gone) {
      if (!connections.delete(connection)) return;
      origin.open -= 1;
      const at = origin.idle.indexOf(connection);
      if (at >= 0) origin.idle.splice(at, 1);
    } else origin.idle.push(connection);
    const next = origin.waiting.shift();
    if (next !== undefined) place(next, origin);
  }

  function sweep(): void {
    const nowMs = performance.now();
    for (const [key, origin] of origins) {
      for (const idle of origin.idle.slice()) if (nowMs >= idle.keptUntilMs) idle.drop();
      if (origin.open === 0 && origin.waiting.length === 0) origins.delete(key);
    }
  }
  const sweeping = setInterval(sweep, sweepMs);
  sweeping.unref();

  return {
    ask(request, limits) {
      return new Promise((resolve, reject) => {
        if (request.signal.aborted || closed) return reject(request.signal.reason ?? new Error("the prober stops"));
        const address = addressOf(request.url, hostOf(request.headers), request.tls ?? null);
        const exchange = new Exchange(request, limits, address, resolve, reject);
        if (!request.fresh) return place(exchange, originOf(address.originKey));
        connect(exchange, 0, (ended) => {
          if (ended.gone) connections.delete(ended);
          else ended.drop();
        });
      });
    },
    close() {
      closed = true;
      clearInterval(sweeping);
      for (const origin of origins.values()) for (const one of origin.waiting.splice(0)) one.fail(new Error("the prober stops"));
      for (const connection of [...connections]) connection.drop(new Error("the prober stops"));
    },
  };
}

/** The host that a configuration gives; header names are written as people like. */
function hostOf(headers: HttpRequest["headers"]): string | undefined {
  for (const name in headers) if (name.length === 4 && name.toLowerCase() === "host") return headers[name];
  return undefined;
}

/** One request and what has come of its answer. */
class Exchange {
  readonly request: HttpRequest;
  readonly address: Address;
  readonly answer: HttpAnswer;
  /** Its head. */
  readonly text: string;
  /** Takes it out of what it waits for. */
  leave: () => void = () => undefined;
  readonly #resolve: (answer: HttpAnswer) => void;
  readonly #reject: (error: unknown) => void;
  readonly #giveUp = (): void => this.fail(this.request.signal.reason);

  constructor(
    request: HttpRequest,
    limits: AnswerLimits,
    address: Address,
    resolve: (answer: HttpAnswer) => void,
    reject: (error: unknown) => void,
  ) {
    this.request = request;
    this.address = address;
    this.answer = new HttpAnswer({ toHead: request.method === "HEAD", ...limits });
    this.#resolve = resolve;
    this.#reject = reject;
    this.text = textOf(request, address);
    request.signal.addEventListener("abort", this.#giveUp);
  }

  succeed(): void {
    this.request.signal.removeEventListener("abort", this.#giveUp);
    this.#resolve(this.answer);
  }
  fail(error: unknown): void {
    this.request.signal.removeEventListener("abort", this.#giveUp);
    this.#reject(error);
    this.leave();
  }
}

/** The head of a request. Throws {@link TypeError} on what cannot stand in one. */
function textOf({ method, headers, body, fresh }: HttpRequest, { path, hostHeader }: Address): string {
  let text = `${method} ${path} HTTP/1.1\r\nhost: ${hostHeader}\r\nconnection: ${fresh ? "close" : "keep-alive"}\r\n`;
  let isNamed = false;
  let isCoded = false;
  for (const name in headers) {
    const value = headers[name] as string;
    const lower = name.toLowerCase();
    // The value may be a secret, and is not told.
    if (!token.test(name) || !fieldValue.test(value)) throw new TypeError(`the header ${lower} has characters that no header may have`);
    if (ownHeaders.has(lower)) throw new TypeError(`the header ${lower} is not for a probe to say`);
    isNamed ||= lower === "user-agent";
    isCoded ||= lower === "accept-encoding";
    if (lower !== "host") text += `${name}: ${value}\r\n`;
  }
  if (!isNamed) text += `user-agent: ${userAgent}\r\n`;
  if (!isCoded) text += `accept-encoding: ${coding}\r\n`;
  if (body !== undefined) text += `content-length: ${Buffer.byteLength(body, "utf8")}\r\n`;
  else if (method === "POST") text += "content-length: 0\r\n";
  return `${text}\r\n`;
}

/** One socket. `onFree` hears when it may carry another request, and when it is gone. */
class Connection {
  gone = false;
  keptUntilMs = 0;
  readonly #socket: Socket;
  readonly #onFree: (connection: Connection) => void;
  #exchange: Exchange | null = null;
  #isOpen = false;
  readonly #endsMs: number;

  /** After `usedMs` it carries no further request; 0: one is all. */
  constructor({ host, port, serverName, tls }: Address, usedMs: number, onFree: (connection: Connection) => void) {
    this.#endsMs = performance.now() + usedMs;
    this.#onFree = onFree;
    const onread = {
      buffer: readBuffer,
      callback: (count: number): boolean => {
        this.#take(count);
        return true;
      },
    };
    if (serverName === null) this.#socket = connectTcp({ host, port, lookup: lookUp, onread });
    else {
      const name = isIP(serverName) === 0 ? { servername: serverName } : {};
      const own = tls === null ? {} : secured(tls);
      // Documented for tls.connect too, and missing in its types.
      const options: ConnectionOptions & { onread: typeof onread } = {
        host,
        port,
        lookup: lookUp,
        onread,
        ALPNProtocols: ["http/1.1"],
        ...name,
        ...own,
      };
      this.#socket = connectTls(options);
    }
    // What is written before costs the socket more, and could reach a server whose certificate does not verify.
    this.#socket.on(serverName === null ? "connect" : "secureConnect", () => {
      this.#isOpen = true;
      if (this.#exchange !== null) this.#send(this.#exchange);
    });
    this.#socket.on("error", (error) => this.drop(error));
    this.#socket.on("end", () => this.#end());
    this.#socket.on("close", () => this.#end());
  }

  carry(exchange: Exchange): void {
    this.#exchange = exchange;
    // Written straight into the property it would be taken for a method, and each be put where V8 seldom collects.
    const leave = (): void => this.drop();
    exchange.leave = leave;
    if (this.#isOpen) this.#send(exchange);
  }

  #send({ text, request: { body } }: Exchange): void {
    if (body === undefined) this.#socket.write(text, "latin1");
    else {
      // Its last packet would wait for the other side's delayed acknowledgement.
      this.#socket.setNoDelay(true);
      this.#socket.write(Buffer.concat([Buffer.from(text, "latin1"), Buffer.from(body, "utf8")]));
    }
  }

  /** Closes it; who waits for an answer on it gets the error. */
  drop(error?: unknown): void {
    if (this.gone) return;
    this.gone = true;
    this.#socket.destroy();
    const exchange = this.#exchange;
    this.#exchange = null;
    this.#onFree(this);
    if (exchange === null) return;
    exchange.leave = () => undefined;
    exchange.fail(error ?? closedError());
  }

  #take(count: number): void {
    const exchange = this.#exchange;
    if (exchange === null) {
      this.drop();
      return;
    }
    try {
      exchange.answer.take(readBuffer.subarray(0, count));
    } catch (error) {
      this.drop(error);
      return;
    }
    if (exchange.answer.done) this.#succeed(exchange);
  }

  #succeed(exchange: Exchange): void {
    this.#exchange = null;
    const { answer } = exchange;
    const nowMs = performance.now();
    if (answer.reusable && nowMs < this.#endsMs) {
      const keptMs = Math.min(keepMs, answer.keepsForMs === null ? keepMs : answer.keepsForMs - keepMarginMs);
      this.keptUntilMs = Math.min(nowMs + keptMs, this.#endsMs);
      this.#onFree(this);
    } else this.drop();
    exchange.succeed();
  }

  /** The other side has said all that it will say. */
  #end(): void {
    const exchange = this.#exchange;
    if (exchange?.answer.close() === true) this.#succeed(exchange);
    else this.drop();
  }
}

/** As undici calls it, so that both wires are judged alike. */
function closedError(): Error {
  return Object.assign(new Error("the other side closed the connection"), { code: "UND_ERR_SOCKET" });
}
