import { readdirSync, readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { until } from "../harness/wait.ts";
import { routerWorld } from "../integration/router-world.ts";
import { Random, seedOf } from "../sim/random.ts";
import { type Exchanged, exchange } from "./exchange.ts";
import { httpKinds, slowHead } from "./http-kinds.ts";
import { mcpKinds } from "./mcp-kinds.ts";
import { poison, secondAnswer } from "./odd-answers.ts";
import { type FuzzRequest, hidden, type Kind, type KindWorld } from "./request.ts";
import { credential, type FuzzUpstream, startFuzzUpstream } from "./upstream.ts";

/**
 * Malformed requests and answers against a real router process. What is checked:
 * Z1  The process lives, its log knows of no failure of its own, and it answers well-formed requests all the time.
 * Z2  Every whole request gets its answers, well-formed, in time; none is a 500, and none a 5xx unless its upstream misbehaved.
 * Z3  Every request that an upstream received belongs to one request of a client that was to be sent on, and came once; one that was
 *     hidden in another one never came. It was well-formed, within the endpoint's path, with its credential and nothing of the client's.
 * Z4  No client gets what was said to another one, or to nobody.
 * Z5  Heads that are never finished hold nothing up; afterwards no connection and no memory is left.
 */
export interface FuzzOptions {
  readonly requests: number;
  readonly seed: number;
  /** Only this one. */
  readonly only?: number;
  readonly say?: (line: string) => void;
  /** Ends the run early, with its report. */
  readonly signal?: AbortSignal;
}
export interface FuzzReport {
  readonly requests: number;
  readonly forwarded: number;
  readonly kinds: ReadonlyMap<string, number>;
  readonly statuses: ReadonlyMap<number, number>;
  readonly violations: readonly string[];
  readonly seconds: number;
}

const atOnce = 24;
const slowHeads = 20;
const violationsMax = 30;
const memoryBytesMax = 512 * 1024 * 1024;
const kinds: readonly (readonly [Kind, number])[] = [...httpKinds, ...mcpKinds].map((kind) => [kind, kind.weight] as const);

/** Request number `mark` of a seed; always the same. */
export function requestOf(seed: number, mark: number, world: KindWorld): FuzzRequest {
  const random = new Random(seedOf(seed, `request ${mark}`));
  const kind = random.weighted(kinds);
  return { mark, kind: kind.name, ...kind.make(random, mark, world) };
}

export async function fuzz(options: FuzzOptions): Promise<FuzzReport> {
  const { seed } = options;
  const world = await routerWorld();
  const [good, odd] = await Promise.all([startFuzzUpstream("good"), startFuzzUpstream("odd")]);
  const violations: string[] = [];
  const statuses = new Map<number, number>();
  const kindCounts = new Map<string, number>();
  const slow: Socket[] = [];
  const violate = (request: FuzzRequest, what: string): void => {
    if (violations.length < violationsMax)
      violations.push(
        `request ${request.mark} (${request.kind}): ${what}; ${oddityOf(request)}again: npm run fuzz -- --seed ${seed} --only ${request.mark}`,
      );
  };
  try {
    await world.configure(configuration(good, odd));
    const router = await world.startRouter("router-fuzz", { MCPF_ROUTER_HEARTBEAT_MS: "1000", MCPF_LOG_LEVEL: "warn" });
    const { port } = new URL(world.url);
    const sessions = [await openSession(world.url, "good"), await openSession(world.url, "odd")];
    for (const random = new Random(seedOf(seed, "slow")); slow.length < slowHeads; ) {
      const socket = connect(Number(port), "127.0.0.1");
      socket.on("error", () => undefined);
      socket.write(slowHead(random));
      slow.push(socket);
    }
    const dripping = setInterval(() => {
      for (const socket of slow) if (!socket.destroyed) socket.write("a");
    }, 500);
    const startedMs = Date.now();
    const descriptors = countDescriptors(router.pid);
    const allowed = new Map<number, number>();
    let loose = 0;
    let next = options.only ?? 1;
    const last = options.only ?? options.requests;
    const worker = async (): Promise<void> => {
      while (next <= last && violations.length < violationsMax && options.signal?.aborted !== true) {
        const mark = next++;
        const request = requestOf(seed, mark, { sessions });
        kindCounts.set(request.kind, (kindCounts.get(request.kind) ?? 0) + 1);
        for (const one of request.expect.marks) {
          if (one < 0) loose += request.expect.answers;
          else allowed.set(one, (allowed.get(one) ?? 0) + 1);
        }
        const exchanged = await exchange(Number(port), request);
        for (const { status } of exchanged.answers) statuses.set(status, (statuses.get(status) ?? 0) + 1);
        judge(request, exchanged, violate);
        if (mark % 10_000 === 0) options.say?.(`${mark} requests in ${Math.round((Date.now() - startedMs) / 1000)} s`);
      }
    };
    await Promise.all(Array.from({ length: atOnce }, worker));
    clearInterval(dripping);
    // What arrived more often than it was sent has to be explained by requests whose numbers were changed at random.
    let unexplained = 0;
    for (const upstream of [good, odd]) {
      violations.push(...upstream.violations);
      for (const [mark, times] of upstream.marks) if (mark < hidden) unexplained += Math.max(0, times - (allowed.get(mark) ?? 0));
    }
    if (unexplained > loose)
      violations.push(
        `${unexplained} requests reached an upstream that nobody sent, more than the ${loose} that may have changed their number`,
      );
    for (const socket of slow) socket.destroy();
    await checkProcess(world.url, router, descriptors, violations);
    return {
      requests: next - (options.only ?? 1),
      forwarded: good.requests + odd.requests,
      kinds: kindCounts,
      statuses,
      violations,
      seconds: (Date.now() - startedMs) / 1000,
    };
  } finally {
    for (const socket of slow) socket.destroy();
    await world.stop();
    await Promise.all([good.close(), odd.close()]);
  }
}

function configuration(good: FuzzUpstream, odd: FuzzUpstream): { upstreams: Record<string, unknown>; router: object } {
  const to = (port: number, path: string) => [
    { name: "only", url: `http://127.0.0.1:${port}${path}`, tier: 0, headers: { authorization: credential } },
  ];
  return {
    upstreams: {
      good: { kind: "mcp", endpoints: to(good.port, "/base/"), call_timeout_ms: 5000 },
      odd: { kind: "mcp", endpoints: to(odd.port, "/base/mcp"), call_timeout_ms: 700 },
      strange: { kind: "http", endpoints: to(odd.port, "/base"), call_timeout_ms: 700 },
    },
    router: { body_bytes_max: 65_536 },
  };
}

async function openSession(url: string, upstream: string): Promise<string> {
  const answer = await fetch(`${url}/mcp/${upstream}`, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json, text/event-stream" },
    body: JSON.stringify({
      jsonrpc: "2.0",
      id: 0,
      method: "initialize",
      params: { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "fuzz", version: "1" } },
    }),
  });
  const id = answer.headers.get("mcp-session-id");
  if (id === null) throw new Error(`${upstream} began no session: ${answer.status} ${await answer.text()}`);
  return id;
}

function oddityOf(request: FuzzRequest): string {
  const text = request.parts.map(({ bytes }) => bytes.toString("latin1")).join("");
  const odd = /mcp-odd: ([^\r]*)/.exec(text)?.[1];
  return odd === undefined ? "" : `asked for ${JSON.stringify(odd)}; `;
}

/** What came back, against what may (Z2, Z4). */
function judge(request: FuzzRequest, exchanged: Exchanged, violate: (request: FuzzRequest, what: string) => void): void {
  const { answers, malformed, closedBy } = exchanged;
  const { outcome, mayWait, leaves } = request.expect;
  if (malformed !== null) violate(request, `an answer that is no HTTP: ${malformed}`);
  if (answers.length > request.expect.answers) violate(request, `${answers.length} answers to ${request.expect.answers} requests`);
  if (closedBy === "client" && mayWait !== true && leaves !== true)
    violate(request, `no end: ${JSON.stringify(exchanged.rest.slice(0, 200))}`);
  for (const { status, body, headers } of answers) {
    if (status === 500) violate(request, `500: ${body.slice(0, 200)}`);
    else if (status >= 500 && outcome !== "odd") violate(request, `${status}: ${body.slice(0, 200)}`);
    if (request.kind === "odd upstream: call" && body.includes(secondAnswer)) violate(request, "two answers to one call");
    if (headers.has("x-injected") || headers.has("set-cookie")) violate(request, "a header of the upstream that was to stay there");
    for (const [, mark = ""] of body.matchAll(/mark:(\d+)/g)) {
      if (Number(mark) === poison || (outcome !== "lenient" && Number(mark) !== request.mark))
        violate(request, `it got the answer of ${mark}: ${status} ${JSON.stringify(body.slice(0, 300))}`);
    }
    if (outcome === "answered" && (status !== 200 || !body.includes(`mark:${request.mark}`)))
      violate(request, `${status}: ${body.slice(0, 200)}`);
    if (outcome === "refused" && (status < 400 || status >= 500)) violate(request, `it was not refused but answered with ${status}`);
  }
  if (outcome === "answered" && answers.length !== request.expect.answers)
    violate(request, `${answers.length} of ${request.expect.answers} answers`);
}

/** The process itself (Z1, Z5). */
async function checkProcess(
  url: string,
  router: { readonly pid: number; output(): string },
  before: number,
  violations: string[],
): Promise<void> {
  try {
    const answer = await fetch(`${url}/http/good/m/0`, { signal: AbortSignal.timeout(5000) });
    if (answer.status !== 200) violations.push(`a well-formed request at the end got ${answer.status}`);
    await answer.text();
  } catch (error) {
    violations.push(`the router does not answer any more: ${String(error)}`);
    return;
  }
  for (const line of router.output().split("\n")) {
    if (/failed inside the router|uncaught|unhandled|"level":(50|60)|"level":"(error|fatal)"/i.test(line)) {
      if (violations.length < violationsMax) violations.push(`the log of the router: ${line.slice(0, 600)}`);
    }
  }
  const memory = memoryOf(router.pid);
  if (memory > memoryBytesMax) violations.push(`the router holds ${Math.round(memory / 1_048_576)} MiB`);
  await until(
    () => countDescriptors(router.pid) <= before + 12,
    15_000,
    () => `connections are left: ${before} descriptors before, ${countDescriptors(router.pid)} now`,
  ).catch((error: Error) => violations.push(error.message));
}

/** Linux tells; elsewhere these two checks are left out. */
function countDescriptors(pid: number): number {
  try {
    return readdirSync(`/proc/${pid}/fd`).length;
  } catch {
    return 0;
  }
}
function memoryOf(pid: number): number {
  try {
    return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}
