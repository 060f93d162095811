import { probeCheckPolicy } from "@mcp-failover/domain";
import { type CheckContext, type CheckFound, MalformedError } from "./check.ts";
import { authResult, hardResult, okResult } from "./result.ts";
import { type Connection, withConnection } from "./socket.ts";

const lineBytesMax = 64 * 1024;

/**
 * Probes Redis (and Valkey, KeyDB): AUTH where there are credentials, then PING, and INFO where an assertion looks at its fields. A server
 * that still loads its data, or a replica cut off from its master, says so itself and is down.
 */
export async function probeRedis(context: CheckContext): Promise<CheckFound> {
  const { check, auth } = context;
  const { hostname, port, protocol } = new URL(check.url);
  const wantsInfo = check.expect.some(({ of }) => of === "json" || of === "protocol_version");
  return withConnection(
    { host: hostname, port: port === "" ? 6379 : Number(port), isTls: protocol === "rediss:" },
    context,
    async (connection) => {
      const { certificateDays } = connection;
      if (auth !== null) {
        const refused = await ask(connection, ["AUTH", ...(auth.username === null ? [] : [auth.username]), auth.password]);
        if (refused.isError) return { result: byError(refused.text), seen: { certificateDays } };
      }
      const startedMs = performance.now();
      const pong = await ask(connection, ["PING"]);
      const latencyMs = performance.now() - startedMs;
      if (pong.isError) return { result: byError(pong.text), seen: { certificateDays, latencyMs } };
      if (pong.text !== "PONG") throw new MalformedError("an answer to PING that is not PONG");
      const info = wantsInfo ? await ask(connection, ["INFO"]) : null;
      if (info?.isError) return { result: byError(info.text), seen: { certificateDays, latencyMs } };
      const fields = info === null ? undefined : fieldsOf(info.text);
      const version = fields?.["redis_version"];
      return {
        result: okResult(latencyMs),
        seen: {
          certificateDays,
          latencyMs,
          json: fields,
          jsonProblem: null,
          protocolVersion: typeof version === "string" ? version : null,
        },
      };
    },
  );
}

/** In the words of Redis 6, and of those before, which know neither users nor words of their own for it. */
const refusals = /invalid password|without any password|no password is set|wrong number of arguments for 'auth'/i;

/** Only the first word of an error is said: the rest may repeat what was sent. */
function byError(text: string) {
  const word = /^[A-Z]{2,20}/.exec(text)?.[0] ?? "ERR";
  if (["NOAUTH", "WRONGPASS", "NOPERM"].includes(word) || refusals.test(text)) {
    return authResult(`Redis says ${word}: it refuses our credentials`);
  }
  return hardResult("other", `Redis says ${word}`);
}

async function ask(connection: Connection, words: readonly string[]): Promise<{ readonly isError: boolean; readonly text: string }> {
  const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
  connection.write(`*${words.length}\r\n${parts.join("")}`);
  const line = await connection.readLine(lineBytesMax);
  const rest = line.slice(1);
  switch (line[0]) {
    case "+":
      return { isError: false, text: rest };
    case "-":
      return { isError: true, text: rest };
    case "$": {
      const length = Number(rest);
      if (!Number.isInteger(length) || length < 0 || length > probeCheckPolicy.documentBytesMax)
        throw new MalformedError("a length that cannot be");
      const bytes = await connection.read(length + 2);
      return { isError: false, text: bytes.subarray(0, length).toString("utf8") };
    }
    default:
      throw new MalformedError("an answer that is not Redis'");
  }
}

/** `role:master` by line; numbers as numbers. */
function fieldsOf(info: string): Record<string, string | number> {
  const fields: Record<string, string | number> = {};
  for (const line of info.split(/\r?\n/)) {
    const colon = line.indexOf(":");
    if (colon <= 0 || line.startsWith("#")) continue;
    const value = line.slice(colon + 1);
    fields[line.slice(0, colon)] = /^-?\d{1,15}(\.\d{1,6})?$/.test(value) ? Number(value) : value;
  }
  return fields;
}
