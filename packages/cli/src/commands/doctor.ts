import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, BusError, clientOf, connectBus, type Stored } from "@mcp-failover/bus";
import { type ProberHeartbeat, residentServices, type StreamDefinition, streams } from "@mcp-failover/contracts";
import { z } from "zod";
import type { Context } from "../context.ts";
import { CliError, type ExitCode } from "../errors.ts";
import { table } from "../output.ts";
import { configuredUpstreams } from "../read-log.ts";

interface Finding {
  readonly check: string;
  readonly ok: boolean;
  readonly detail: string;
  /** What to do, when it is not well. */
  readonly fix: string | null;
}

const fillWarn = 0.7;
/** What does not parse is a fault of now for so long. */
const quarantineMs = 3_600_000;
const requestMsMax = 2000;
/** Two heartbeats of each prober come in this time. */
const listenMs = 1200;
const probersMax = 1000;

/** The last word of each prober that is heard now. */
async function heartbeats(bus: Bus): Promise<readonly ProberHeartbeat[]> {
  const last = new Map<string, ProberHeartbeat>();
  const heard = bus.subscribe("prober.heartbeat", ({ data }) => {
    if (last.has(data.prober) || last.size < probersMax) last.set(data.prober, data);
  });
  await sleep(listenMs);
  heard.stop();
  return [...last.values()].sort((a, b) => a.prober.localeCompare(b.prober));
}

/** `mcpf doctor`: looks at every part and says what to do; 3 when something is wrong. */
export async function doctor(context: Context): Promise<ExitCode> {
  const findings: Finding[] = [];
  const add = (check: string, ok: boolean, detail: string, fix: string): void => {
    findings.push({ check, ok, detail, fix: ok ? null : fix });
  };
  try {
    const bus = await context.bus();
    const { status } = bus;
    add(
      "nats",
      status.kind === "connected",
      status.kind === "connected" ? `nats-server ${status.serverVersion}` : status.kind,
      "start the stack with `npm start`",
    );
    for (const stream of streams) await checkStream(context, stream, add);
    const upstreams = await configuredUpstreams(bus);
    const last = await bus.lastOf("AUDIT", "config.applied");
    const unusable = last?.content.kind === "malformed" ? last.content.reason : null;
    add(
      "configuration",
      upstreams.length > 0,
      upstreams.length > 0 ? `upstreams: ${upstreams.join(", ")}` : (unusable ?? "none is applied"),
      "apply one: mcpf config apply FILE --reason TEXT",
    );
    await checkKeeper(bus, add);
    const [services, beats] = await Promise.all([bus.services({ timeoutMs: 1000, examine: true }), heartbeats(bus)]);
    for (const name of residentServices) {
      const instances = services.filter((one) => one.name === name).length;
      add(`service ${name}`, instances > 0, `${instances} running`, `start it; its log says why it ended (${context.dataDir}/logs)`);
    }
    for (const { prober, isolated = false, overloaded = false } of beats) {
      const said = [
        ...(isolated ? ["isolated: it reaches none of its references"] : []),
        ...(overloaded ? ["overloaded: it runs late"] : []),
      ];
      const fix = isolated ? "look at the network of its machine" : "give it more processor time, or start more probers";
      add(`prober ${prober}`, said.length === 0, said.join("; ") || "probes as it should", fix);
    }
    await checkReadiness(services, add);
  } catch (error) {
    if (!(error instanceof CliError) && !(error instanceof BusError)) throw error;
    add("nats", false, error.message, "start the stack with `npm start`, or give NATS_URL");
  }
  await checkStrangers(context, add);
  await checkWeb(context, add);
  context.out.print(
    { ok: findings.every(({ ok }) => ok), findings },
    () =>
      table(
        ["", "CHECK", "DETAIL", "WHAT TO DO"],
        findings.map(({ check, ok, detail, fix }) => [ok ? "ok" : "NOT OK", check, detail, fix ?? ""]),
      ),
    findings,
  );
  return findings.every(({ ok }) => ok) ? 0 : 3;
}

type Add = (check: string, ok: boolean, detail: string, fix: string) => void;

/**
 * A stream that takes nothing more when it is full stops what writes to it: AUDIT the decisions, OUTBOX the messages to people. The others are
 * made to be full: they drop their oldest.
 */
async function checkStream(context: Context, { name, discard }: StreamDefinition, add: Add): Promise<void> {
  const bus = await context.bus();
  const check = `stream ${name}`;
  try {
    const info = await bus.info(name);
    const part = (is: number, max: number): number => (max > 0 ? is / max : 0);
    const fill = Math.max(part(info.bytes, info.maxBytes), part(info.messages, info.maxMessages ?? 0));
    const oldest = discard === "old" && info.messages > 0 ? await bus.at(name, info.firstSeq) : null;
    const size = `${info.messages} messages, ${(fill * 100).toFixed(1)} % full`;
    const reach = oldest === null ? "" : `, reaches back ${sayAge(context.nowMs() - oldest.timeMs)}`;
    add(
      check,
      discard === "old" || fill < fillWarn,
      `${size}${reach}${discard === "old" ? ", drops its oldest" : ""}, ${info.replicas} replica(s)`,
      "make room: raise max_bytes or max_msgs, or export and trim the oldest events",
    );
    if (name === "QUARANTINE" && info.messages > 0) addQuarantine(context, info.messages, await bus.at(name, info.lastSeq), add);
  } catch (error) {
    if (!(error instanceof BusError)) throw error;
    add(check, false, error.message, "run the bootstrap service: it makes the streams");
  }
}

/** What was put there long ago was seen to, or comes no more: it stays for a month, and would hide what goes wrong today. */
function addQuarantine(context: Context, messages: number, newest: Stored | null, add: Add): void {
  const ageMs = newest === null ? null : context.nowMs() - newest.timeMs;
  const reason = newest?.content.kind === "malformed" ? newest.content.reason : "";
  const place = newest?.subject.slice("quarantine.".length);
  const last = ageMs === null ? "" : `, the newest ${sayAge(ageMs)} ago (${place}): ${reason}`;
  add(
    "quarantine",
    ageMs === null || ageMs >= quarantineMs,
    `${messages} messages that do not parse or that nobody could handle${last}`,
    "look at them: what publishes them does not speak version 1 of the events, or the reader's log says what it failed of",
  );
}

function sayAge(ms: number): string {
  const minutes = Math.max(0, Math.floor(ms / 60_000));
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h`;
}

/** A service that works, and says that something about it is dangerous. */
const warning = "warning: ";
const whatToDo: Readonly<Record<string, string>> = {
  identity: "give agents tokens (agents.<name>.tokens in failover.yaml), or listen on 127.0.0.1 (MCPF_ROUTER_HOST)",
};

/** What a service says of itself on the bus and on `/readyz`. */
const readiness = z.object({ conditions: z.record(z.string(), z.object({ ok: z.boolean(), reason: z.string() })) });
type Conditions = z.infer<typeof readiness>["conditions"];

async function checkReadiness(services: readonly { name: string; metadata: Record<string, string> }[], add: Add): Promise<void> {
  for (const { name, metadata } of services) {
    const health = metadata["health"];
    const onBus = readConditions(metadata["readiness"]);
    if (onBus === null && (health === undefined || health.endsWith(":0"))) continue;
    const who = metadata["instance"] ?? name;
    const found = onBus ?? (await askForConditions(health ?? ""));
    if (typeof found === "string") {
      add(
        `readiness of ${who}`,
        false,
        found,
        "ask on its own machine; a service of this version says it on the bus, where the accounts are of this version",
      );
      continue;
    }
    for (const [key, { ok, reason }] of Object.entries(found)) {
      if (ok && reason.startsWith(warning)) add(`${key} of ${who}`, false, reason.slice(warning.length), whatToDo[key] ?? "see its log");
    }
    const reasons = Object.entries(found).flatMap(([key, { ok, reason }]) => (ok ? [] : [`${key}: ${reason}`]));
    if (reasons.length > 0)
      add(`readiness of ${who}`, false, reasons.join("; "), "see its log; the reason names the neighbour that is missing");
  }
}

/** For services that say nothing of it on the bus. A text: why that is not known. */
async function askForConditions(health: string): Promise<Conditions | string> {
  const url = URL.parse(`${health}/readyz`);
  // Every machine and every container has these addresses: what answers here is another one's, if anything.
  if (url === null || ["0.0.0.0", "[::]"].includes(url.hostname)) return `cannot be asked from here (${health})`;
  const { status, detail, body } = await get(url.href);
  const said = readiness.safeParse(body);
  return said.success ? said.data.conditions : status === 0 ? detail : `${url.href} is answered by something else (${status})`;
}

function readConditions(text: string | undefined): Conditions | null {
  try {
    return text === undefined ? null : readiness.parse(JSON.parse(text)).conditions;
  } catch {
    return null; // Somebody else's word for it.
  }
}

/** Where the bus has accounts, nobody but a keeper makes consumers, and without any nothing new is read after the next restart of NATS. */
async function checkKeeper(bus: Bus, add: Add): Promise<void> {
  if (clientOf(bus) === null) return;
  const fix = "start the keeper, and see its log: without one services read nothing any more once NATS was restarted";
  try {
    const { lastSeq } = await bus.info("AUDIT");
    for await (const _ of bus.read("AUDIT", { fromSeq: lastSeq })) break;
    add("keeper", true, "makes consumers", fix);
  } catch (error) {
    if (!(error instanceof BusError)) throw error;
    add("keeper", false, error.message, fix);
  }
}

/** What NATS lets somebody do who brings nothing: tried, because only the server knows. */
async function checkStrangers(context: Context, add: Add): Promise<void> {
  const stack = await context.stack().catch(() => null);
  if (stack === null) return;
  const servers = stack.natsUrl.replaceAll(/\/\/[^@/,]*@/g, "//");
  const stranger = connectBus({ servers, name: "mcpf/stranger", instance: `mcpf-${process.pid}-stranger` });
  try {
    const asBegun = stranger.status;
    for (const endMs = performance.now() + requestMsMax; stranger.status === asBegun && performance.now() < endMs; ) await sleep(20);
    const { status } = stranger;
    const refused = status.kind === "disconnected" && /refuses the credentials|TLS|certificate|user|password/i.test(status.reason);
    const detail =
      status.kind !== "connected"
        ? `who brings no key is ${refused ? "refused" : "not let in now"}`
        : clientOf(stranger) === null
          ? "off: whoever reaches NATS may say and change anything"
          : "who brings no key may listen and read, and say nothing";
    add("permissions", true, detail, "");
  } finally {
    await stranger.close();
  }
}

async function checkWeb(context: Context, add: Add): Promise<void> {
  const stack = await context.stack().catch(() => null);
  if (stack === null) return;
  for (const [check, url] of [
    ["router", stack.routerUrl],
    ["console", stack.consoleUrl],
  ] as const) {
    if (url === null) continue;
    const answer = await get(`${url}/readyz`);
    add(check, answer.status === 200, answer.detail, `see ${context.dataDir}/logs`);
  }
}

async function get(url: string): Promise<{ status: number; detail: string; body: unknown }> {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(requestMsMax), redirect: "error" });
    return { status: response.status, detail: `${url} answers ${response.status}`, body: await response.json().catch(() => null) };
  } catch (error) {
    return { status: 0, detail: `${url} does not answer (${(error as Error).name})`, body: null };
  }
}
