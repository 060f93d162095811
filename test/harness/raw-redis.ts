import { readFileSync } from "node:fs";
import { connect as tcpConnect } from "node:net";
import { join } from "node:path";
import { connect as tlsConnect } from "node:tls";
import { redisCredentialFiles } from "@mcp-failover/contracts";
import { patientMs } from "@mcp-failover/testkit";

/** What a connection shows, and whom it trusts. */
interface RedisTls {
  readonly ca: string;
  readonly cert?: string;
  readonly key?: string;
}
interface Proofs {
  readonly user: string;
  readonly password: string;
}
/** A connection that says exactly what it is told to: a client library keeps back or adds words of its own. */
export interface RawRedis {
  /** The first line of the answer. */
  ask(...words: string[]): Promise<string>;
  close(): void;
}

/** The certificate and the authority in a user's folder of credentials. */
export function tlsOf(folder: string): Required<RedisTls> {
  const read = (name: "ca" | "cert" | "key"): string => readFileSync(join(folder, redisCredentialFiles[name]), "utf8");
  return { ca: read("ca"), cert: read("cert"), key: read("key") };
}

/** Who the user of a folder of credentials is. */
export function proofsOf(folder: string): Proofs {
  const read = (name: "user" | "password"): string => readFileSync(join(folder, redisCredentialFiles[name]), "utf8").trim();
  return { user: read("user"), password: read("password") };
}

/** Connects to 127.0.0.1; without TLS where that is null, and as nobody without proofs. Throws what the server or TLS refuses. */
export async function connectRaw(port: number, tls: RedisTls | null, proofs: Proofs | null): Promise<RawRedis> {
  const to = { host: "127.0.0.1", port };
  const socket = tls === null ? tcpConnect(to) : tlsConnect({ ...to, ...tls });
  let problem: Error | null = null;
  let text = "";
  let wake = (): void => undefined;
  socket.setTimeout(patientMs(20_000), () => socket.destroy(new Error("no answer within 20 s")));
  socket.on("error", (error) => {
    problem = error;
  });
  socket.on("close", () => {
    problem ??= new Error("the connection was closed");
    wake();
  });
  socket.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk;
    wake();
  });
  const redis: RawRedis = {
    async ask(...words) {
      if (problem !== null) throw problem;
      text = "";
      socket.write(`*${words.length}\r\n${words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("")}`);
      while (!text.includes("\r\n")) {
        if (problem !== null) throw problem;
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      return text.slice(0, text.indexOf("\r\n"));
    },
    close: () => void socket.destroy(),
  };
  if (proofs !== null) {
    const said = await redis.ask("AUTH", proofs.user, proofs.password);
    if (said !== "+OK") {
      socket.destroy();
      throw new Error(said);
    }
  }
  return redis;
}
