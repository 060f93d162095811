/**
 * Subject tokens. NATS splits subjects at "." and reads "*" and ">" as wildcards, so an id may stand in a
 * subject as it is only when it has none of them. Everything else is encoded: "~" and base64url of its UTF-8.
 */
const plainToken = /^[A-Za-z0-9_/-]{1,128}$/;

/** Encodes any non-empty id as one valid subject token. Reversed by {@link decodeToken}. */
export function encodeToken(id: string): string {
  if (id.length === 0) throw new RangeError("an empty id cannot be a subject token: give the id at least one character");
  return plainToken.test(id) ? id : `~${Buffer.from(id, "utf8").toString("base64url")}`;
}

/** The id that {@link encodeToken} was given. */
export function decodeToken(token: string): string {
  return token.startsWith("~") ? Buffer.from(token.slice(1), "base64url").toString("utf8") : token;
}

/** `subjectOf("health.changed", "pinecone", "primary")` is `health.changed.pinecone.primary`. */
export function subjectOf(type: string, ...keys: string[]): string {
  return [type, ...keys.map(encodeToken)].join(".");
}

/** The decoded key tokens of a subject of the given event type, or null when the subject is of another type. */
export function keysOf(type: string, subject: string): string[] | null {
  if (subject === type) return [];
  if (!subject.startsWith(`${type}.`)) return null;
  return subject
    .slice(type.length + 1)
    .split(".")
    .map(decodeToken);
}

/** The key under which one endpoint of one upstream is kept in maps: `upstream/endpoint`. Names never contain "/". */
export function endpointKey(upstream: string, endpoint: string): string {
  return `${upstream}/${endpoint}`;
}
