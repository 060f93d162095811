import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { userInfo } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline/promises";
import {
  type Bus,
  type BusCredentials,
  BusError,
  CredentialsError,
  connectBus,
  NoResponderError,
  readCredentials,
} from "@mcp-failover/bus";
import { type Client, connect, NotReadyError } from "@mcp-failover/client";
import type { Actor, Reply, RequestInput, RequestSubject } from "@mcp-failover/contracts";
import { CliError, usageError } from "./errors.ts";
import type { Output } from "./output.ts";

/** How to reach a stack, as `npm start` writes it into its data directory. */
interface Stack {
  readonly natsUrl: string;
  readonly routerUrl: string | null;
  readonly consoleUrl: string | null;
  readonly redisUrl: string | null;
  /** The folder of our own credentials; null: a bus without permissions. */
  readonly credentials: string | null;
  /** `MCPF_PORT_<NAME>` of the stack's local processes, for `${...}` in a configuration. */
  readonly ports: Readonly<Record<string, string>>;
}

/** What a command is given. */
export interface Context {
  readonly out: Output;
  readonly dataDir: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Standard output is a terminal, where a person reads it. */
  readonly terminal: boolean;
  stack(): Promise<Stack>;
  /** Connected, or a {@link CliError} within {@link connectMsMax}; {@link dialMsMax} while the first connection is being made. */
  bus(): Promise<Bus>;
  /** The fleet as the SDK sees it; it also begins with the routes that were kept last, when NATS is out of reach. Closed with the context. */
  fleet(): Promise<Client>;
  by(): Actor;
  newId(): string;
  nowMs(): number;
  /** Asks a person at the terminal; without one, `--yes` has to say it. */
  confirm(question: string, yes: boolean): Promise<void>;
  close(): Promise<void>;
}

const connectMsMax = 3000;
/** For a first connection that nobody has refused yet: on a busy machine the proof of who we are takes its time. */
const dialMsMax = 10_000;

export function openContext(options: {
  out: Output;
  dataDir: string;
  env: Readonly<Record<string, string | undefined>>;
  terminal: boolean;
  /** A test's bus instead of one from the stack. */
  bus?: Bus;
}): Context {
  let bus: Bus | null = options.bus ?? null;
  let client: Client | null = null;
  const stack = async (): Promise<Stack> => readStack(options.dataDir, options.env);
  return {
    out: options.out,
    dataDir: options.dataDir,
    env: options.env,
    terminal: options.terminal,
    stack,
    async bus() {
      if (bus !== null) return bus;
      const { natsUrl, credentials } = await stack();
      bus = connectBus({
        servers: natsUrl,
        name: "mcpf",
        instance: `mcpf-${process.pid}`,
        ...proof(credentials),
        log: { warn: () => undefined, debug: () => undefined },
      });
      await untilConnected(bus, natsUrl);
      return bus;
    },
    async fleet() {
      const found = options.bus === undefined ? await stack() : null;
      const source = found === null ? { bus: options.bus as Bus } : { servers: found.natsUrl, ...proof(found.credentials) };
      // Beside the stack's own files, so that what it keeps goes with it.
      client ??= connect({ ...source, name: "mcpf", cacheFile: join(options.dataDir, "mcpf-routes.json") });
      try {
        await client.ready(connectMsMax);
      } catch (error) {
        if (error instanceof NotReadyError) throw new CliError(1, error.code, error.message, true);
        throw error;
      }
      return client;
    },
    by: () => ({ kind: "operator", id: options.env["MCPF_OPERATOR"] ?? userName() }),
    newId: () => `mcpf-${randomUUID()}`,
    nowMs: () => Date.now(),
    confirm,
    async close() {
      await client?.close();
      if (options.bus === undefined) await bus?.close();
    },
  };
}

/** Throws a {@link CliError} for a folder that does not hold them. */
function proof(folder: string | null): { readonly credentials?: BusCredentials } {
  if (folder === null) return {};
  try {
    return { credentials: readCredentials(folder) };
  } catch (error) {
    if (error instanceof CredentialsError) throw new CliError(1, error.code, error.message);
    throw error;
  }
}

async function readStack(dataDir: string, env: Readonly<Record<string, string | undefined>>): Promise<Stack> {
  const file = join(dataDir, "stack.json");
  let found: Partial<Record<Exclude<keyof Stack, "ports"> | "credentialsDir", string>> & { readonly ports?: Record<string, number> } = {};
  try {
    found = JSON.parse(await readFile(file, "utf8")) as typeof found;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" || env["NATS_URL"] === undefined) {
      throw new CliError(
        1,
        "no_stack",
        `no running stack is known in ${dataDir} (${file} cannot be read): start one with \`npm start\`, or name it with --data-dir DIR or NATS_URL`,
      );
    }
  }
  const natsUrl = env["NATS_URL"] ?? found.natsUrl;
  if (natsUrl !== undefined && hostsOf(natsUrl) === null)
    throw usageError(
      `${env["NATS_URL"] === undefined ? file : "NATS_URL"} does not give a URL like nats://127.0.0.1:7302: correct it`,
      "bad_url",
    );
  if (natsUrl === undefined)
    throw new CliError(1, "no_stack", `${file} does not say where NATS is: start the stack anew with \`npm start\``);
  const given = env["MCPF_CREDENTIALS_DIR"];
  // Those of the stack are for its own server, and so are its ports.
  const isOwn = natsUrl === found.natsUrl;
  const own = found.credentialsDir === undefined || !isOwn ? null : join(found.credentialsDir, "cli");
  return {
    natsUrl,
    routerUrl: found.routerUrl ?? null,
    consoleUrl: found.consoleUrl ?? null,
    redisUrl: found.redisUrl ?? null,
    credentials: given ?? own,
    ports: isOwn ? Object.fromEntries(Object.entries(found.ports ?? {}).map(([name, port]) => [name, String(port)])) : {},
  };
}

/** The servers of a NATS URL, or of several with commas between, without their credentials; null when it is none. */
function hostsOf(urls: string): string | null {
  const whole = urls.split(",").map((url) => (url.includes("://") ? url.trim() : `nats://${url.trim()}`));
  const parsed = whole.map((url) => (URL.canParse(url) ? new URL(url) : null));
  const hosts = parsed.map((url) => (url === null || !["nats:", "tls:"].includes(url.protocol) ? "" : url.host));
  return hosts.every((host) => host !== "") ? hosts.join(", ") : null;
}

async function untilConnected(bus: Bus, url: string): Promise<void> {
  if (bus.status.kind === "connected") return;
  const asBegun = bus.status;
  const connected = await new Promise<boolean>((resolve) => {
    let timer = setTimeout(() => {
      if (bus.status !== asBegun) resolve(false);
      else timer = setTimeout(() => resolve(false), dialMsMax - connectMsMax);
    }, connectMsMax);
    const stop = bus.onStatus((status) => {
      if (status.kind !== "connected") return;
      clearTimeout(timer);
      stop();
      resolve(true);
    });
  });
  if (connected) return;
  await bus.close();
  throw new CliError(
    1,
    "unreachable",
    `NATS does not answer at ${hostsOf(url) ?? "that address"}: see that the stack runs (\`npm start\`), or give NATS_URL`,
    true,
  );
}

async function confirm(question: string, yes: boolean): Promise<void> {
  if (yes) return;
  if (!process.stdin.isTTY) throw usageError("a change needs --yes where there is no terminal to ask at");
  const prompt = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await prompt.question(`${question} [y/N] `);
    if (!/^y(es)?$/i.test(answer.trim())) throw new CliError(1, "cancelled", "nothing was changed");
  } finally {
    prompt.close();
  }
}

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    // A container's user id may have no name.
    return "operator";
  }
}

/** Codes of refusals that mean "you asked for something that does not exist": exit code 2. */
const usageCodes = new Set([
  "unknown_upstream",
  "unknown_endpoint",
  "unknown_tool",
  "unknown_agent",
  "unknown_scope",
  "unknown_scenario",
  "unknown_incident",
  "unknown_target",
  "until_over",
  "bad_request",
  "invalid_request",
]);

/** Asks a service; a refusal ends the command with its code and text. */
export async function ask<S extends RequestSubject>(
  context: Context,
  subject: S,
  body: RequestInput<S>,
  timeoutMs = 10_000,
): Promise<unknown> {
  const bus = await context.bus();
  let reply: Reply;
  try {
    reply = await bus.request(subject, body, { timeoutMs });
  } catch (error) {
    if (error instanceof NoResponderError || error instanceof BusError) throw new CliError(1, error.code, error.message, error.retriable);
    throw error;
  }
  if (reply.ok) return reply.result;
  throw new CliError(usageCodes.has(reply.error.code) ? 2 : 1, reply.error.code, reply.error.message, reply.error.retriable);
}
