import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { tempDir } from "@mcp-failover/testkit";
import { type RunningStack, startStack } from "../../harness/stack.ts";
import { until } from "../../harness/wait.ts";
import { Random } from "../../sim/random.ts";
import { type Agents, startAgents } from "./agents.ts";
import { Book } from "./book.ts";
import { mixedConfig, stdioAllow } from "./config.ts";
import { drawFault, type FaultWorld } from "./faults.ts";
import { faultProblems, growthOf, growthProblems, leftovers, mib, NothingShownError } from "./judge.ts";
import { type Look, lookAt } from "./look.ts";
import { deadlineMs, patienceMs } from "./session-agent.ts";

export interface MixedOptions {
  readonly seed: number;
  /** Of traffic with faults. */
  readonly durationMs: number;
  readonly callsPerSecond: number;
  readonly faultEveryMs: number;
  say(line: string): void;
}
export interface MixedResult {
  readonly seed: number;
  readonly seconds: number;
  readonly samples: Readonly<Record<string, string>>;
  readonly sent: number;
  readonly notificationsHeard: number;
  /** Answers that came later than agents had said they would wait. */
  readonly late: number;
  readonly slowestMs: number;
  readonly byKind: Readonly<Record<string, Readonly<Record<string, number>>>>;
  /** Connections that broke with the router process at their end. */
  readonly brokenByRouterEnds: number;
  readonly faults: readonly { readonly atS: number; readonly what: string; readonly problem: string | null }[];
  readonly memory: ReturnType<typeof growthOf>;
  readonly before: Look;
  readonly after: Look;
  readonly problems: readonly string[];
  /** Of each badness so many as are kept. */
  readonly bad: Book["bad"];
}

const healthyMs = 60_000;
const warmUpMs = 8000;
/** Traffic without faults at the end, in which everything has to work again. */
const recoveryMs = 60_000;
const settleMs = 90_000;
const lookEveryMs = 10_000;
const sayEveryMs = 30_000;
const inFlightMax = 2000;

/**
 * Mixed traffic with a fault every so often; what became of every request, and what is left in the end. Throws {@link NothingShownError} where no
 * traffic could begin.
 */
export async function runMixed(options: MixedOptions): Promise<MixedResult> {
  const { say, seed } = options;
  const dir = await tempDir("mcpf-mixed-");
  const opsFile = join(dir.path, "ops");
  const preload = new URL("./settle.ts", import.meta.url).href;
  const stack = await startStack({
    config: mixedConfig(opsFile),
    readyMs: 180_000,
    env: { NODE_OPTIONS: `--import=${preload}`, MCPF_STDIO_ALLOW: stdioAllow, MCPF_ROUTER_SESSION_IDLE_MS: "20000" },
  }).catch(notReady);
  let isOver = false;
  try {
    await until(() => allHealthy(stack), healthyMs, "every endpoint healthy").catch(notReady);
    const book = new Book(`m${seed}`, deadlineMs);
    const world: FaultWorld = { stack, book, opsFile };
    // What is made once and kept (connections to NATS, code, standby processes) is there before anything is counted.
    const warm = startAgents(stack.routerUrl, book);
    await traffic(warm, book, new Random(seed + 1), options.callsPerSecond, () => performance.now(), warmUpMs);
    await drained(book);
    await warm.stop();
    const before = await settled(stack, null);
    say(`  warm: ${book.sent} requests; ${told(before)}`);

    const agents = startAgents(stack.routerUrl, book);
    const beganMs = performance.now();
    const looks: Look[] = [];
    const faults: { atS: number; what: string; problem: string | null }[] = [];
    const atS = (): number => Math.round((performance.now() - beganMs) / 1000);
    const faultChance = new Random(seed);
    const faultsOut: Promise<void>[] = [];
    const background = [
      every(
        options.faultEveryMs,
        () => isOver,
        async () => {
          const fault = drawFault(faultChance);
          const noted = { atS: atS(), what: fault.what, problem: null as string | null };
          faults.push(noted);
          say(`  ${noted.atS} s: ${fault.what}`);
          // The next one does not wait for its end.
          const over = fault.act(world).catch((error: unknown) => {
            noted.problem = error instanceof Error ? error.message : String(error);
            say(`    it could not be done: ${noted.problem}`);
          });
          faultsOut.push(over);
        },
      ),
      every(
        lookEveryMs,
        () => isOver,
        async () => void looks.push(await lookAt(stack)),
      ),
      every(
        sayEveryMs,
        () => isOver,
        async () => {
          const look = looks.at(-1);
          say(`  ${atS()} s: ${book.sent} requests, ${book.inFlight} in flight, ${problemsNow(book)}${look ? `; ${told(look)}` : ""}`);
          // Said as soon as it is known: this run may be ended before it judges.
          for (const problem of book.problems([]).filter(isFinal).slice(0, 3)) say(`  PROBLEM: ${problem}`);
        },
      ),
    ];
    await traffic(agents, book, new Random(seed + 2), options.callsPerSecond, () => performance.now(), options.durationMs);
    isOver = true;
    await Promise.all([...background, ...faultsOut]);
    say(`  ${atS()} s: no more faults`);
    const problems: string[] = [];
    await recovered(agents, book, options).catch((error: Error) => problems.push(`S5: ${error.message}`));
    await drained(book);
    await agents.stop();
    const after = await settled(stack, before);
    const warmUntilMs = (looks[0]?.atMs ?? 0) + Math.min(300_000, Math.max(30_000, options.durationMs / 5));
    const memory = growthOf(looks, warmUntilMs);
    problems.push(...faultProblems(faults, options.durationMs, options.faultEveryMs));
    problems.push(...book.problems(readLines(opsFile)), ...growthProblems(memory), ...leftovers(before, after));
    return {
      seed,
      seconds: atS(),
      samples: book.samples,
      sent: book.sent,
      notificationsHeard: agents.heard,
      late: book.late,
      slowestMs: book.slowestMs,
      byKind: Object.fromEntries([...book.counts].map(([kind, of]) => [kind, Object.fromEntries(of)])),
      brokenByRouterEnds: book.bad.filter((entry) => entry.outcome === "broken" && book.isByRouterEnd(entry)).length,
      faults,
      memory,
      before,
      after,
      problems,
      bad: book.bad,
    };
  } finally {
    isOver = true;
    await stack.stop();
    await dir.remove();
  }
}

function notReady(cause: Error): never {
  throw new NothingShownError(`the stack did not get ready: ${cause.message}`, { cause });
}

async function allHealthy(stack: RunningStack): Promise<boolean> {
  const { upstreams } = await stack.status();
  return upstreams.length > 0 && upstreams.every(({ endpoints }) => endpoints.every(({ health }) => health === "healthy"));
}

/** An open loop: nobody waits for somebody else's answer. */
async function traffic(
  agents: Agents,
  book: Book,
  random: Random,
  perSecond: number,
  nowMs: () => number,
  durationMs: number,
): Promise<void> {
  const beganMs = nowMs();
  for (let sent = 0; nowMs() < beganMs + durationMs; ) {
    for (const due = ((nowMs() - beganMs) / 1000) * perSecond; sent < due; sent += 1) {
      if (book.inFlight < inFlightMax) void agents.next(random);
    }
    await sleep(Math.max(1, 500 / perSecond));
  }
}

/** Waits for what is still out; its own patience ends it. */
async function drained(book: Book): Promise<void> {
  await until(
    () => book.inFlight === 0,
    2 * patienceMs,
    () => `every request ended; still out: ${book.openKinds.join(", ")}`,
  ).catch(() => undefined); // The book tells which.
}

/** Everything works again: for some seconds in a row nothing but good answers. */
async function recovered(agents: Agents, book: Book, { callsPerSecond, seed }: MixedOptions): Promise<void> {
  const random = new Random(seed + 3);
  const good = (): number => book.total((outcome) => outcome === "ok" || outcome === "left");
  const ended = (): number => book.total(() => true);
  await until(
    async () => {
      const [goodBefore, endedBefore] = [good(), ended()];
      await traffic(agents, book, random, callsPerSecond, () => performance.now(), 4000);
      return good() - goodBefore === ended() - endedBefore && ended() > endedBefore;
    },
    recoveryMs,
    () => `only good answers again after the last fault; the last others: ${JSON.stringify(book.bad.slice(-3))}`,
  );
}

/** As soon as it is what it was, and at the latest after {@link settleMs}. */
async function settled(stack: RunningStack, before: Look | null): Promise<Look> {
  await sleep(before === null ? 8000 : 1000);
  const endMs = performance.now() + settleMs;
  for (;;) {
    const look = await lookAt(stack);
    const isComplete = Object.keys(look.routers).length >= 2;
    const isSettled =
      before === null ? Object.values(look.routers).every(({ sessions }) => sessions === 0) : leftovers(before, look).length === 0;
    if ((isComplete && isSettled) || performance.now() > endMs) return look;
    await sleep(2000);
  }
}

async function every(ms: number, isOver: () => boolean, act: () => Promise<void>): Promise<void> {
  for (;;) {
    for (const nextMs = performance.now() + ms; performance.now() < nextMs; ) {
      if (isOver()) return;
      await sleep(100);
    }
    await act();
  }
}

/** What nothing that comes later can put right. */
const isFinal = (problem: string): boolean => /^S1: answered twice|^S3: /.test(problem);

function problemsNow(book: Book): string {
  const count = (name: string): number => book.total((outcome) => outcome === name);
  return `${count("ok")} good, ${count("unanswered")} unanswered, ${count("wrong")} wrong, ${count("broken")} broken`;
}

function told({ routers }: Look): string {
  return Object.entries(routers)
    .map(
      ([name, one]) =>
        `${name} heap ${mib(one.heapBytes)} rss ${mib(one.rssBytes)} MiB, ${one.sessions} sessions, ${one.sockets} sockets, ${one.children} children, ${one.timers} timers`,
    )
    .join("; ");
}

function readLines(file: string): string[] {
  return (
    readFileSync(file, "utf8")
      .split("\n")
      .map((line) => line.replace(/^POST \/order\//, ""))
      // The plain API notes other requests too, such as those by which the router looks whether it is there.
      .filter((line) => /^m\d+-\d+$/.test(line))
  );
}
