import type { Random } from "../sim/random.ts";

/** One thing that a client does on one connection. */
export interface FuzzRequest {
  /** Its number in the run; every upstream request that it may cause carries it. */
  readonly mark: number;
  readonly kind: string;
  /** What is written, in order, with a pause after each part. */
  readonly parts: readonly { readonly bytes: Buffer; readonly pauseMs: number }[];
  readonly expect: Expectation;
}

/**
 * What may become of it. `marks` are the requests that may reach an upstream; anything else that does was smuggled.
 *   answered   every request in it gets one answer, and none of them is a 5xx
 *   refused    it gets a 4xx, or its connection is closed; nothing of it reaches an upstream
 *   lenient    readers differ on it: an answer below 500, a closed connection, or (`mayWait`) a router that waits for the rest
 *   odd        the upstream misbehaves: an answer of any status but 500, in time
 */
export interface Expectation {
  readonly outcome: "answered" | "refused" | "lenient" | "odd";
  readonly marks: readonly number[];
  readonly answers: number;
  /** The router may go on waiting for what the client did not send. */
  readonly mayWait?: boolean;
  /** The client leaves without waiting for an answer. */
  readonly leaves?: boolean;
}

export interface Kind {
  readonly name: string;
  readonly weight: number;
  make(random: Random, mark: number, world: KindWorld): Omit<FuzzRequest, "mark" | "kind">;
}
export interface KindWorld {
  /** Ids of sessions that are open. */
  readonly sessions: readonly string[];
}

/** Added to a mark, it names a request that is hidden in another one and must never reach an upstream. */
export const hidden = 1_000_000_000;

export const crlf = "\r\n";

export function latin(text: string): Buffer {
  return Buffer.from(text, "latin1");
}
export function once(text: string | Buffer): { readonly bytes: Buffer; readonly pauseMs: number }[] {
  return [{ bytes: typeof text === "string" ? latin(text) : text, pauseMs: 0 }];
}

export function head(method: string, target: string, headers: readonly string[], version = "HTTP/1.1"): string {
  return [`${method} ${target} ${version}`, ...headers, "", ""].join(crlf);
}

export function hiddenRequest(mark: number): string {
  return head("GET", `/http/good/m/${mark + hidden}`, ["host: localhost"]);
}

/** A well-formed request to the HTTP upstream; the connection ends after its answer unless it goes on. */
export function plain(mark: number, random: Random, goesOn = false): string {
  const connection = goesOn ? [] : ["connection: close"];
  if (random.chance(0.5)) return head("GET", `/http/good/m/${mark}`, ["host: localhost", ...connection]);
  const body = `b=${mark}${"x".repeat(random.whole(0, 300))}`;
  if (random.chance(0.5))
    return head("POST", `/http/good/m/${mark}`, ["host: localhost", `content-length: ${body.length}`, ...connection]) + body;
  const chunked = `${body.length.toString(16)}${crlf}${body}${crlf}0${crlf}${crlf}`;
  return head("POST", `/http/good/m/${mark}`, ["host: localhost", "transfer-encoding: chunked", ...connection]) + chunked;
}

/** Cuts bytes at random places, with pauses. */
export function cut(bytes: Buffer, random: Random): { readonly bytes: Buffer; readonly pauseMs: number }[] {
  const parts: { bytes: Buffer; pauseMs: number }[] = [];
  for (let from = 0; from < bytes.length; ) {
    const to = Math.min(bytes.length, from + random.whole(1, Math.max(1, Math.ceil(bytes.length / 4))));
    parts.push({ bytes: bytes.subarray(from, to), pauseMs: random.whole(0, 3) });
    from = to;
  }
  return parts;
}

/** Some random changes of bytes: flips, cuts, repeats, insertions of what parsers stumble over. */
export function mutate(bytes: Buffer, random: Random): Buffer {
  let changed = Buffer.from(bytes);
  for (let times = random.whole(1, 4); times > 0; times--) {
    const at = random.whole(0, Math.max(0, changed.length - 1));
    const [before, after] = [changed.subarray(0, at), changed.subarray(at)];
    switch (random.whole(0, 4)) {
      case 0:
        if (changed.length > 0) changed[at] = random.whole(0, 255);
        break;
      case 1:
        changed = Buffer.concat([before, after.subarray(random.whole(1, 8))]);
        break;
      case 2:
        changed = Buffer.concat([before, after.subarray(0, random.whole(1, 40)), after]);
        break;
      case 3:
        changed = Buffer.concat([before, latin(random.pick(stumblingBlocks)), after]);
        break;
      default:
        changed = Buffer.from(before);
    }
  }
  return changed;
}
const stumblingBlocks = [
  "\0",
  "\r",
  "\n",
  "\r\n",
  "\r\n\r\n",
  " ",
  "\t",
  "\x0b",
  ":",
  ",",
  ";",
  '"',
  "{",
  "[",
  "\xff\xfe",
  "\xc0\xaf",
  "%00",
  "\\u0000",
  "1e999",
  "null",
];
