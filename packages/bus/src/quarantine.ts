import { sha256 } from "@mcp-failover/contracts";
import { publishFenced } from "./append.ts";
import type { Stored } from "./bus.ts";
import type { LogPort } from "./log-port.ts";
import { decode, type Outgoing, outgoing, type RawMessage } from "./message.ts";

/** Messages already reported by this connection, by place and hash; the fence makes it once in the fleet, this only saves work. */
const seenMax = 1000;
/** Under way at a time; more than this are left to the next reader. */
const pendingMax = 64;
const timeoutMs = 10_000;
/** Somebody waits for these, and tries again by himself. */
const keepMs = 3000;
/** Base64 makes 3 bytes 4, and the record has to fit into the stream. */
const payloadBytesMax = 512 * 1024;

interface QuarantineRecord {
  readonly subject: string;
  readonly reason: string;
  readonly headers: Readonly<Record<string, string>>;
}

export interface Quarantine {
  /** Looks into a message; a malformed one is put into QUARANTINE behind the reader's back. */
  look(raw: RawMessage): Stored;
  /** Makes a message malformed that was read, for what it points at. */
  refuse(stored: Stored, reason: string): Stored;
  /** Resolves when the message stands in QUARANTINE, whoever put it there. Throws {@link BusError} when it cannot be stored. */
  keep(stored: Stored, reason: string): Promise<void>;
  /** The same for a message that is in no stream. */
  core(subject: string, bytes: Uint8Array, headers: Readonly<Record<string, string>>, reason: string): void;
}

/** B5. A failure here is reported and never stops the reader: the next one that sees the message tries again. */
export function quarantine(log: LogPort, onError: (error: unknown, place: string) => void): Quarantine {
  const seen = new Set<string>();
  let pending = 0;

  function put(place: string, record: QuarantineRecord, bytes: Uint8Array): void {
    const known = knownAs(place, bytes);
    if (seen.has(known)) return;
    if (pending >= pendingMax) {
      onError(new Error(`${pendingMax} messages are on their way to QUARANTINE already`), place);
      return;
    }
    if (seen.size >= seenMax) for (const oldest of seen) if (seen.delete(oldest)) break;
    seen.add(known);
    pending += 1;
    Promise.resolve()
      .then(() => store(log, place, record, bytes, timeoutMs))
      .catch((error: unknown) => {
        seen.delete(known);
        onError(error, place);
      })
      .finally(() => {
        pending -= 1;
      });
  }

  function refuse(stored: Stored, reason: string): Stored {
    const { stream, seq, subject, headers, bytes } = stored;
    put(`quarantine.${stream}.${seq}`, { subject, reason, headers }, bytes);
    return { ...stored, content: { kind: "malformed", reason } };
  }

  return {
    look(raw) {
      const stored = decode(raw);
      return stored.content.kind === "malformed" && raw.stream !== "QUARANTINE" ? refuse(stored, stored.content.reason) : stored;
    },
    refuse,
    async keep({ stream, seq, subject, headers, bytes }, reason) {
      const at = `quarantine.${stream}.${seq}`;
      await store(log, at, { subject, reason, headers }, bytes, keepMs);
      if (seen.size < seenMax) seen.add(knownAs(at, bytes));
    },
    core(subject, bytes, headers, reason) {
      put(`quarantine.core.${sha256(bytes).slice(0, 16)}`, { subject, reason, headers }, bytes);
    },
  };
}

function knownAs(place: string, bytes: Uint8Array): string {
  return `${place}-${sha256(bytes).slice(0, 16)}`;
}

/** In a stream that was made again sequences come a second time: what had the place before it stays, and it stands beside that. */
async function store(log: LogPort, place: string, record: QuarantineRecord, bytes: Uint8Array, withinMs: number): Promise<void> {
  const message = outgoingRecord(place, place, record, bytes);
  const fenced = await publishFenced(log, message, withinMs);
  if (fenced.outcome === "won" || fenced.last === null || isOfSame(fenced.last.bytes, message.bytes)) return;
  await publishFenced(log, outgoingRecord(knownAs(place, bytes), place, record, bytes), withinMs);
}

/** Whether two records are of one message, whatever each reader had against it. */
function isOfSame(there: Uint8Array, own: Uint8Array): boolean {
  const [a, b] = [there, own].map((bytes) => {
    try {
      const { subject, payload } = JSON.parse(new TextDecoder().decode(bytes)) as { subject?: unknown; payload?: unknown };
      return JSON.stringify([subject, payload]);
    } catch {
      return ""; // Not one of ours: nothing that could be said to be this message.
    }
  });
  return a === b;
}

/** Fenced with 0, so that it stands there once. `at`: its subject and id; `place`: where the message stands. */
function outgoingRecord(at: string, place: string, record: QuarantineRecord, bytes: Uint8Array): Outgoing {
  const [, stream = "", seq = ""] = place.split(".");
  const payload = Buffer.from(bytes.subarray(0, payloadBytesMax)).toString("base64");
  const body = { stream, seq: stream === "core" ? null : Number(seq), ...record, truncated: bytes.length > payloadBytesMax, payload };
  const encoded = new TextEncoder().encode(JSON.stringify(body));
  return outgoing("QUARANTINE", at, encoded, at, "application/json", { expectedSeq: 0 });
}
