import { startOf } from "./process-start.ts";

/**
 * Ends the processes that a router left behind, should it be killed. It is told over standard input what runs, one JSON value a line:
 * `{"add": pid, "start": "..."}`, `{"remove": pid}`. When the input ends, each has the time that it needs to see the end of its own input;
 * then its group gets SIGTERM, then SIGKILL.
 */
const ownEndMs = 1500;
const graceMs = 2000;
const lookMs = 50;
const wards = new Map<number, string>();
let rest = "";

// A Ctrl-C is for the router; this process ends after it.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => undefined);
process.stdin.setEncoding("utf8");
process.stdin.on("data", (text: string) => {
  const lines = (rest + text).split("\n");
  rest = lines.pop() ?? "";
  for (const line of lines) {
    const said = JSON.parse(line) as { add?: number; start?: string; remove?: number };
    if (said.add !== undefined) wards.set(said.add, said.start ?? "");
    if (said.remove !== undefined) wards.delete(said.remove);
  }
});
process.stdin.on("end", () => void clear());

async function clear(): Promise<void> {
  await gone(ownEndMs);
  signalAll("SIGTERM");
  await gone(graceMs);
  signalAll("SIGKILL");
}

async function gone(withinMs: number): Promise<void> {
  const endMs = performance.now() + withinMs;
  while (performance.now() < endMs && [...wards].some(([pid, start]) => startOf(pid) === start)) {
    await new Promise((resolve) => setTimeout(resolve, lookMs));
  }
}

/** The whole group. A number that another process has now is left alone; one that nobody has may still name a group of children. */
function signalAll(signal: "SIGTERM" | "SIGKILL"): void {
  for (const [pid, start] of wards) {
    const now = startOf(pid);
    if (now !== null && now !== start) continue;
    try {
      process.kill(-pid, signal);
    } catch (error) {
      if (!["ESRCH", "EPERM"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
    }
  }
}
