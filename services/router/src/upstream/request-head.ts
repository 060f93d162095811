import type { EndpointView } from "../control/port.ts";
import { tlsKey } from "../tls/client-tls.ts";
import type { Origin } from "./connection.ts";

/** Where requests to one endpoint go, and what they all begin with. */
interface EndpointOrigin extends Origin {
  /** Names of the pools of calls and of streams. */
  readonly callKey: string;
  readonly streamKey: string;
}

interface Prepared {
  readonly origin: EndpointOrigin;
  readonly path: string;
  readonly search: string;
  /** The endpoint's own headers, ready to be written, and their names. */
  readonly own: string;
  readonly ownNames: ReadonlySet<string>;
}

/** What of a request its head is made of. */
interface HeadParts {
  readonly endpoint: EndpointView;
  readonly method: string;
  readonly suffix?: string;
  readonly headers: Readonly<Record<string, string | string[]>>;
  readonly body: Buffer | null;
}

export interface RequestHeads {
  originOf(endpoint: EndpointView): EndpointOrigin;
  /**
   * The request line and the headers, as text of single bytes. Throws {@link UnsendableRequest} for what could be read as more than one
   * request, or as one with another body: no byte of a request is written by hand elsewhere.
   */
  headOf(parts: HeadParts): string;
}

/** A request that cannot be written as HTTP/1.1. The message holds no value, because values may be secrets. */
class UnsendableRequest extends Error {
  override readonly name = "UnsendableRequest";
  readonly code = "unsendable_request";
  readonly retriable = false;
}

const token = /^[!#$%&'*+\-.^_`|~\da-zA-Z]+$/;
const valueForbidden = /[^\t\x20-\x7e\x80-\xff]/;
const pathForbidden = /[^\x21-\x7e\x80-\xff]/;
/** The framing and the connection are this side's business alone. */
const reserved = new Set(["content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer", "expect"]);
const withoutLength = new Set(["GET", "HEAD", "DELETE", "OPTIONS", "TRACE"]);

/** What depends on an endpoint alone is made once. */
export function requestHeads(): RequestHeads {
  const prepared = new WeakMap<EndpointView, Prepared>();
  const lineOf = knownLines();
  const preparedOf = (endpoint: EndpointView): Prepared => {
    let known = prepared.get(endpoint);
    if (known === undefined) {
      known = prepare(endpoint);
      prepared.set(endpoint, known);
    }
    return known;
  };
  return {
    originOf: (endpoint) => preparedOf(endpoint).origin,
    headOf({ endpoint, method, suffix = "", headers, body }) {
      const { path, search, own, ownNames } = preparedOf(endpoint);
      const target = joinPath(path, search, suffix);
      if (method === "CONNECT" || !token.test(method)) throw new UnsendableRequest("its method cannot be passed on");
      if (pathForbidden.test(target)) throw new UnsendableRequest("its path has a character that has to be encoded");
      let head = `${method} ${target} HTTP/1.1\r\n${own}`;
      for (const name in headers) if (!ownNames.has(name)) head += lineOf(name, headers[name]);
      if (body !== null) return `${head}content-length: ${body.length}\r\n\r\n`;
      return withoutLength.has(method) ? `${head}\r\n` : `${head}content-length: 0\r\n\r\n`;
    },
  };
}

function prepare(endpoint: EndpointView): Prepared {
  const url = new URL(endpoint.url);
  const secure = url.protocol === "https:";
  if (!secure && url.protocol !== "http:") throw new UnsendableRequest(`its endpoint has the scheme ${url.protocol}, not http: or https:`);
  const host = url.hostname.startsWith("[") ? url.hostname.slice(1, -1) : url.hostname;
  const port = url.port === "" ? (secure ? 443 : 80) : Number(url.port);
  const tls = secure ? (endpoint.tls ?? null) : null;
  // A connection on which the router showed a certificate is for the endpoint alone that names it.
  const place = tls === null ? url.origin : `${url.origin} ${tlsKey(tls)}`;
  const own = Object.entries(endpoint.headers).map(([name, value]) => [name.toLowerCase(), value] as const);
  const names = new Set(own.map(([name]) => name));
  const hostLine = names.has("host") ? "" : `host: ${url.host}\r\n`;
  return {
    origin: { secure, host, port, tls, callKey: `call ${place}`, streamKey: `stream ${place}` },
    path: url.pathname,
    search: url.search,
    own: hostLine + own.map(([name, value]) => line(name, value)).join(""),
    ownNames: names.add("host"),
  };
}

const namesKeptMax = 256;
const charsKeptMax = 256;

/** Most headers of a call say what they said in the call before it: what was found to be one line is not looked through again. */
function knownLines(): (name: string, value: string | string[] | undefined) => string {
  const known = new Map<string, { value: string; text: string }>();
  return (name, value) => {
    const last = known.get(name);
    if (last !== undefined && last.value === value) return last.text;
    const text = line(name, value);
    if (typeof value !== "string" || value.length > charsKeptMax) return text;
    if (last !== undefined) {
      last.value = value;
      last.text = text;
    } else if (known.size < namesKeptMax) known.set(name, { value, text });
    return text;
  };
}

function line(name: string, value: string | string[] | undefined): string {
  if (value === undefined) return "";
  if (typeof value !== "string") return value.map((one) => line(name, one)).join("");
  if (reserved.has(name) || !token.test(name))
    throw new UnsendableRequest(`its header ${JSON.stringify(name.slice(0, 64))} cannot be passed on`);
  if (valueForbidden.test(value)) throw new UnsendableRequest(`its header ${name} has a control character or one beyond latin1 in it`);
  return `${name}: ${value}\r\n`;
}

function joinPath(path: string, search: string, suffix: string): string {
  if (suffix === "") return search === "" ? path : path + search;
  if (suffix.startsWith("?")) return search === "" ? path + suffix : `${path}${search}&${suffix.slice(1)}`;
  return (path.endsWith("/") ? path.slice(0, -1) : path) + suffix;
}
