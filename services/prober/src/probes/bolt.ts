import { type CheckContext, type CheckFound, MalformedError } from "./check.ts";
import { type PackMap, packMessage, unpackMessage } from "./pack-stream.ts";
import { authResult, hardResult, okResult, type ProbeResult } from "./result.ts";
import { type Connection, withConnection } from "./socket.ts";

/**
 * Probes Neo4j (and Memgraph) by Bolt: the version handshake, and where there are credentials HELLO and LOGON, as a driver does before its
 * first query. https://neo4j.com/docs/bolt/current/bolt/handshake/
 *
 * Versions offered: 5.0 to 5.8, 4.2 to 4.4, and 6.0 to 6.1; servers answer with one of them, or with four zeros.
 */
const hello = Buffer.from([0x60, 0x60, 0xb0, 0x17, 0, 8, 8, 5, 0, 2, 4, 4, 0, 1, 1, 6, 0, 0, 0, 0]);
/** The same, each major version with its lowest and highest minor one. */
const offered: readonly (readonly [major: number, lowest: number, highest: number])[] = [
  [5, 0, 8],
  [4, 2, 4],
  [6, 0, 1],
];
const tags = { hello: 0x01, goodbye: 0x02, logon: 0x6a, success: 0x70, failure: 0x7f } as const;
const agent = "mcp-failover-prober/0.1.0";
const messageBytesMax = 64 * 1024;

export async function probeBolt(context: CheckContext): Promise<CheckFound> {
  const { hostname, port, protocol } = new URL(context.check.url);
  const startedMs = performance.now();
  return withConnection(
    { host: hostname, port: port === "" ? 7687 : Number(port), isTls: protocol === "bolt+s:" },
    context,
    async (connection) => {
      const { certificateDays } = connection;
      connection.write(hello);
      const answer = await connection.read(4);
      if (answer.toString("latin1") === "HTTP") throw new MalformedError("HTTP at a Bolt port (Bolt is at 7687, HTTP at 7474)");
      const minor = answer.readUInt8(2);
      const major = answer.readUInt8(3);
      const isNone = answer.every((byte) => byte === 0);
      // Many a server that speaks first, as SSH and MySQL do, has sent four bytes by then.
      const isOne = answer.readUInt16BE(0) === 0 && offered.some(([of, low, high]) => major === of && minor >= low && minor <= high);
      if (!isNone && !isOne) throw new MalformedError("an answer to the handshake that is none of Bolt's");
      const version = `${major}.${minor}`;
      const seen = { certificateDays, protocolVersion: version };
      if (isNone) {
        const error = "it speaks Bolt, but none of 4.2 to 4.4, 5.0 to 5.8, 6.0 to 6.1";
        return { result: { ...okResult(performance.now() - startedMs), outcome: "caller", error }, seen: { certificateDays } };
      }
      const { result, server } =
        context.auth === null ? { result: okResult(), server: null } : await logOn(connection, context.auth, major, minor);
      const latencyMs = performance.now() - startedMs;
      return {
        result: result.outcome === "ok" ? { ...result, responseTimeMs: latencyMs } : result,
        seen: { ...seen, latencyMs, json: { version, server }, jsonProblem: null },
      };
    },
  );
}

async function logOn(
  connection: Connection,
  { username, password }: NonNullable<CheckContext["auth"]>,
  major: number,
  minor: number,
): Promise<{ result: ProbeResult; server: string | null }> {
  const credentials: PackMap = { scheme: "basic", principal: username ?? "neo4j", credentials: password };
  // Since 5.1 credentials have a message of their own, since 5.3 the agent is described.
  const isSplit = major > 5 || (major === 5 && minor >= 1);
  const isDescribed = major > 5 || (major === 5 && minor >= 3);
  const described: PackMap = isDescribed ? { bolt_agent: { product: agent } } : {};
  send(connection, packMessage(tags.hello, { user_agent: agent, ...described, ...(isSplit ? {} : credentials) }));
  let answer = await receive(connection);
  const server = typeof answer.fields["server"] === "string" ? answer.fields["server"] : null;
  if (answer.tag === tags.success && isSplit) {
    send(connection, packMessage(tags.logon, credentials));
    answer = await receive(connection);
  }
  if (answer.tag === tags.success) {
    send(connection, packMessage(tags.goodbye));
    return { result: okResult(), server };
  }
  if (answer.tag !== tags.failure) throw new MalformedError("an answer that is neither SUCCESS nor FAILURE");
  const code = String(answer.fields["neo4j_code"] ?? answer.fields["code"] ?? "");
  const said = /^[A-Za-z.]{1,100}$/.test(code) ? code : "a failure without code";
  return {
    result: code.startsWith("Neo.ClientError.Security.") ? authResult(`Neo4j says ${said}`) : hardResult("other", `Neo4j says ${said}`),
    server,
  };
}

/** A message is sent in one chunk, with an empty one after it. */
function send(connection: Connection, message: Buffer): void {
  const head = Buffer.alloc(2);
  head.writeUInt16BE(message.length);
  connection.write(Buffer.concat([head, message, Buffer.from([0, 0])]));
}

async function receive(connection: Connection): Promise<ReturnType<typeof unpackMessage>> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for (;;) {
    const length = (await connection.read(2)).readUInt16BE(0);
    // An empty chunk before a message is a sign of life.
    if (length === 0 && bytes === 0) continue;
    if (length === 0) return unpackMessage(Buffer.concat(chunks));
    bytes += length;
    if (bytes > messageBytesMax) throw new MalformedError(`a message of over ${messageBytesMax} bytes`);
    chunks.push(await connection.read(length));
  }
}
