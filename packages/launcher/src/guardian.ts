import { isGroupOf, startClock, startOf } from "./process-identity.ts";

/**
 * Ends what the launcher left behind, should the launcher be killed. It is told over standard input what runs, one JSON value a line:
 * `{"add": pid, "start": "...", "rank": n}`, `{"remove": pid}`, `{"bye": true}`. When the input ends without a bye, it stops the
 * processes, highest rank first: SIGTERM, then SIGKILL to whatever is left of their groups.
 */
interface Ward {
  readonly start: string;
  readonly rank: number;
  /** When it was last seen alive, by {@link startClock}; 0: never. What it began before that is known for its own when it is gone. */
  aliveAt: number;
}
const graceMs = 4000;
const watchMs = 1000;
const lookMs = 50;
const wards = new Map<number, Ward>();
let rest = "";
let dismissed = false;

// A Ctrl-C is for the launcher; we end with it, or after it.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => undefined);
process.stdin.setEncoding("utf8");
process.stdin.on("data", (text: string) => {
  const lines = (rest + text).split("\n");
  rest = lines.pop() ?? "";
  for (const line of lines) hear(JSON.parse(line));
});
const watching = setInterval(watch, watchMs).unref();
process.stdin.on("end", () => {
  clearInterval(watching);
  if (!dismissed) void clear();
});

function hear(said: { add?: number; start?: string; rank?: number; remove?: number; bye?: boolean }): void {
  if (said.add !== undefined) wards.set(said.add, { start: said.start ?? "", rank: said.rank ?? 0, aliveAt: 0 });
  if (said.remove !== undefined) wards.delete(said.remove);
  if (said.bye) dismissed = true;
}

/** On Linux alone: elsewhere it takes a process for each. */
function watch(): void {
  if (process.platform !== "linux") return;
  const nowAt = startClock();
  for (const [pid, ward] of wards) if (startOf(pid) === ward.start) ward.aliveAt = nowAt;
}

async function clear(): Promise<void> {
  watch();
  const ranks = [...new Set([...wards.values()].map((ward) => ward.rank))].sort((a, b) => b - a);
  for (const rank of ranks) {
    const ofRank = [...wards].filter(([, ward]) => ward.rank === rank);
    const living = (): number[] => ofRank.filter(([pid, ward]) => startOf(pid) === ward.start).map(([pid]) => pid);
    for (const pid of living()) signal(pid, "SIGTERM");
    // Those of lower ranks may end meanwhile, because they see their input end.
    for (const endMs = performance.now() + graceMs; living().length > 0 && performance.now() < endMs; ) {
      watch();
      await new Promise((resolve) => setTimeout(resolve, lookMs));
    }
    // As the launcher does at the end of a process: what a wrapper script started has to end with it.
    for (const [pid, ward] of ofRank) if (isGroupOf(pid, ward.start, ward.aliveAt)) signal(-pid, "SIGKILL");
  }
}

function signal(pid: number, name: "SIGTERM" | "SIGKILL"): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    // EPERM: it has become somebody else's (sudo); the others are to be ended all the same.
    if (!["ESRCH", "EPERM"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
  }
}
