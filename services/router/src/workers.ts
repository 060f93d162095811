import cluster, { type Worker } from "node:cluster";
import { randomUUID } from "node:crypto";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/**
 * Several router processes behind one port. Guarantees:
 * K1  The port is this process's: it takes the connections and hands them out by turns, so that none is refused while a worker dies or is
 *     replaced, and none is reset by a replacement. A worker that is killed takes with it what it had, also what was just being handed to it.
 * K2  A worker that ends is started again, after a time that doubles from 250 ms to 30 s while it keeps ending within that time.
 * K3  SIGTERM and SIGINT are passed on: what is in flight ends within the workers' own grace, also at one that is just being replaced.
 * K4  SIGHUP replaces the workers one after the other, by the code that is on disk then: the new one listens before the old one is stopped.
 * K5  A worker that has given signs of life and gives none for `hungMs` is killed, and K2 is for it then. Time in which this process stood still itself
 *     counts as one question: an interval that is late fires once, and what was answered is read before it fires again.
 */
export async function runWorkers(count: number, hungMs = hungMsMax): Promise<void> {
  cluster.schedulingPolicy = cluster.SCHED_RR;
  cluster.setupPrimary({ stdio: ["ignore", "inherit", "inherit", "ipc"] });
  const base = process.env["MCPF_INSTANCE"] ?? `router-${randomUUID().slice(0, 8)}`;
  const healthPort = Number(process.env["MCPF_HEALTH_PORT"] ?? 0);
  const slots: Slot[] = [];
  for (let index = 1; index <= count; index += 1) {
    slots.push(new Slot(`${base}-${index}`, healthPort === 0 ? await freePort() : healthPort + index - 1));
  }
  for (const slot of slots) slot.start();
  setInterval(() => {
    for (const slot of slots) slot.ask();
  }, hungMs / asksMax);

  let stopping = false;
  const stop = async (): Promise<void> => {
    if (stopping) return;
    stopping = true;
    await Promise.all(slots.map((slot) => slot.stop()));
    process.exit(0);
  };
  const stopFor = (): void => void stop();
  process.on("SIGTERM", stopFor);
  process.on("SIGINT", stopFor);
  if (process.env["MCPF_PARENT_PIPE"] === "1") process.stdin.on("end", stopFor).on("error", stopFor).resume();
  let replacing = Promise.resolve();
  process.on("SIGHUP", () => {
    replacing = replacing.then(async () => {
      for (const slot of slots) if (!stopping && !(await slot.replace())) return;
    });
  });
}

/** For a worker: answers its parent, so that it is not taken for one that hangs (K5). */
export function answerParent(): void {
  process.on("message", (message) => {
    // A parent that is gone ends its workers; nothing is left to be done for an answer that does not reach it.
    if (message === question && process.connected) process.send?.(answer, () => undefined);
  });
}

const question = "mcpf: are you there?";
const answer = "mcpf: I am";
/** Far beyond what collecting garbage, or a crowded machine, takes from a process at once. */
const hungMsMax = 15_000;
/** So many in a row without an answer are a worker that hangs. */
const asksMax = 15;
const restartMsMin = 250;
const restartMsMax = 30_000;
const readyMsMax = 30_000;
/** Longer than a service takes to stop in good order. */
const stopMsMax = 10_000;
/** A wrong environment is not cured by another start; but new code on disk may want more of it than the one that runs. */
const environmentIsWrong = 2;

/** One place for a worker: its name and its health port stay with it. */
class Slot {
  readonly #name: string;
  readonly #healthPort: number;
  /** All that live, also those that are being replaced: the questions that each has left without an answer; null: it has never given one. */
  readonly #live = new Map<Worker, number | null>();
  readonly #ends = new WeakMap<Worker, Promise<void>>();
  #generation = 0;
  #worker: Worker | null = null;
  #restartMs = restartMsMin;
  #stopping = false;
  #replacing = false;
  /** A worker of this place has served: what a later one lacks is no reason to end those that serve. */
  #hasServed = false;

  constructor(name: string, healthPort: number) {
    this.#name = name;
    this.#healthPort = healthPort;
  }

  start(): void {
    this.#worker = this.#fork();
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all([...this.#live.keys()].map((worker) => this.#end(worker)));
  }

  /** Asks for a sign of life. */
  ask(): void {
    for (const [worker, missed] of this.#live) {
      if (!worker.isConnected()) continue;
      if (missed !== null && missed >= asksMax) {
        say("error", `worker ${this.#name} hangs: it has given no sign of life for ${asksMax} times; it is killed`);
        worker.process.kill("SIGKILL");
        this.#live.set(worker, null);
        continue;
      }
      if (missed !== null) this.#live.set(worker, missed + 1);
      // One that is about to end may not take it any more.
      worker.send(question, () => undefined);
    }
  }

  /** Once, whoever wants it: a second signal is not to cut off what the first lets end. */
  #end(worker: Worker): Promise<void> {
    const ending = this.#ends.get(worker) ?? end(worker);
    this.#ends.set(worker, ending);
    return ending;
  }

  /** Returns whether the new worker came up; if not, the old one stays. */
  async replace(): Promise<boolean> {
    this.#replacing = true;
    const next = this.#fork();
    const isUp = await listening(next);
    this.#replacing = false;
    if (!isUp) {
      if (!this.#stopping) say("error", `the new worker ${this.#nameNow} did not come up; the old one stays`);
      await this.#end(next);
      if (this.#worker === null && !this.#stopping) this.start();
      return false;
    }
    const old = this.#worker;
    this.#worker = next;
    if (old !== null) await this.#end(old);
    return true;
  }

  get #nameNow(): string {
    // The old and the new one live side by side for a while, and must not speak with one name.
    return `${this.#name}${this.#generation % 2 === 0 ? "a" : "b"}`;
  }

  #fork(): Worker {
    this.#generation += 1;
    const worker = cluster.fork({
      MCPF_INSTANCE: this.#nameNow,
      MCPF_HEALTH_PORT: String(this.#healthPort),
      MCPF_PARENT_PIPE: "0",
    });
    const startedAtMs = performance.now();
    this.#live.set(worker, null);
    worker.on("message", (message) => {
      if (message === answer && this.#live.has(worker)) this.#live.set(worker, 0);
    });
    worker.on("error", (error) => say("error", `worker ${this.#name}: ${error.message}`));
    worker.once("listening", () => {
      this.#hasServed = true;
    });
    worker.once("exit", (code, signal) => {
      this.#live.delete(worker);
      if (this.#stopping || this.#worker !== worker) return;
      if (code === environmentIsWrong && !this.#hasServed) process.exit(environmentIsWrong);
      this.#worker = null;
      if (performance.now() - startedAtMs > restartMsMax) this.#restartMs = restartMsMin;
      say("warn", `worker ${this.#name} ended (${signal ?? code}); the next one starts in ${this.#restartMs} ms`);
      setTimeout(() => {
        if (!this.#stopping && !this.#replacing && this.#worker === null) this.start();
      }, this.#restartMs);
      this.#restartMs = Math.min(restartMsMax, this.#restartMs * 2);
    });
    return worker;
  }
}

/** Whether it takes connections on the router's port within a time; it does so once it has routes. */
async function listening(worker: Worker): Promise<boolean> {
  const port = Number(process.env["MCPF_ROUTER_PORT"] ?? 7300);
  const { promise, resolve } = Promise.withResolvers<boolean>();
  worker.on("listening", (address) => address.port === port && resolve(true));
  worker.once("exit", () => resolve(false));
  const late = setTimeout(() => resolve(false), readyMsMax);
  try {
    return await promise;
  } finally {
    clearTimeout(late);
  }
}

async function end(worker: Worker): Promise<void> {
  if (worker.isDead()) return;
  const ended = new Promise((resolve) => worker.once("exit", resolve));
  worker.process.kill("SIGTERM");
  const late = new AbortController();
  await Promise.race([ended, sleep(stopMsMax, null, { signal: late.signal }).catch(() => null)]);
  late.abort();
  if (!worker.isDead()) worker.process.kill("SIGKILL");
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === "object" && address !== null ? address.port : 0;
}

function say(level: "warn" | "error", msg: string): void {
  process.stdout.write(`${JSON.stringify({ level, time: new Date().toISOString(), service: "router", msg })}\n`);
}
