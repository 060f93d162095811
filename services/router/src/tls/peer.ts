import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";

/** What a client's certificate says, once the authority that the port was given has vouched for it. */
export interface Peer {
  readonly dns: readonly string[];
  readonly uris: readonly string[];
  readonly commonName: string | null;
  /** Of the whole certificate, in lower-case hex. */
  readonly sha256: string;
  readonly untilMs: number;
}

const peers = new WeakMap<Socket, { readonly peer: Peer | null }>();

/** Null: no TLS, or no certificate that was vouched for. Read once a connection. */
export function peerOf(socket: Socket): Peer | null {
  let known = peers.get(socket);
  if (known === undefined) {
    known = { peer: read(socket) };
    peers.set(socket, known);
  }
  return known.peer;
}

function read(socket: Socket): Peer | null {
  if (!(socket instanceof TLSSocket) || !socket.authorized) return null;
  const { subject, subjectaltname, fingerprint256, valid_to: until } = socket.getPeerCertificate();
  if (fingerprint256 === undefined) return null;
  const names = namesOf(subjectaltname ?? "");
  // With two of them, readers differ on which is meant.
  const commonName: unknown = subject?.CN;
  return {
    dns: names.flatMap(([kind, name]) => (kind === "DNS" ? [name.toLowerCase()] : [])),
    uris: names.flatMap(([kind, name]) => (kind === "URI" ? [name] : [])),
    commonName: typeof commonName === "string" ? commonName : null,
    sha256: fingerprint256.replaceAll(":", "").toLowerCase(),
    untilMs: Date.parse(until),
  };
}

/**
 * `DNS:a, URI:"b, DNS:c"` as Node writes it: what could be taken for more than one name is in quotes, as JSON (CVE-2021-44532). Of a text that is
 * written in another way nothing is believed.
 */
export function namesOf(text: string): readonly (readonly [kind: string, name: string])[] {
  const names: [string, string][] = [];
  const one = /([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^",]*)(?:, |$)/y;
  while (one.lastIndex < text.length) {
    const found = one.exec(text);
    if (found === null) return [];
    const [, kind = "", name = ""] = found;
    names.push([kind, name.startsWith('"') ? String(JSON.parse(name)) : name]);
  }
  return names;
}
