import { startOf } from "./process-identity.ts";

/**
 * Ends what the launcher left behind, should the launcher be killed. It is told over standard input what runs, one JSON value a line:
 * `{"add": pid, "start": "...", "rank": n}`, `{"remove": pid}`, `{"bye": true}`. When the input ends without a bye, it stops the
 * processes, highest rank first: SIGTERM, then SIGKILL.
 */
interface Ward {
  readonly start: string;
  readonly rank: number;
}
const graceMs = 4000;
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
process.stdin.on("end", () => {
  if (!dismissed) void clear();
});

function hear(said: { add?: number; start?: string; rank?: number; remove?: number; bye?: boolean }): void {
  if (said.add !== undefined) wards.set(said.add, { start: said.start ?? "", rank: said.rank ?? 0 });
  if (said.remove !== undefined) wards.delete(said.remove);
  if (said.bye) dismissed = true;
}

async function clear(): Promise<void> {
  const ranks = [...new Set([...wards.values()].map((ward) => ward.rank))].sort((a, b) => b - a);
  for (const rank of ranks) {
    const living = (): number[] =>
      [...wards].filter(([pid, ward]) => ward.rank === rank && startOf(pid) === ward.start).map(([pid]) => pid);
    for (const pid of living()) signal(pid, "SIGTERM");
    const endMs = performance.now() + graceMs;
    while (living().length > 0 && performance.now() < endMs) await new Promise((resolve) => setTimeout(resolve, lookMs));
    for (const pid of living()) signal(-pid, "SIGKILL");
  }
}

function signal(pid: number, name: "SIGTERM" | "SIGKILL"): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
