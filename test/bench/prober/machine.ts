import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** Which core is measured, and which one carries everything else; null where processes cannot be pinned. */
export const cores = canPin() ? { measured: "0", others: "1" } : null;

function canPin(): boolean {
  // Tried, not counted: a container may have other cores than the first two, and sees all of the machine's.
  return ["0", "1"].every((core) => spawnSync("taskset", ["-c", core, "true"]).status === 0);
}

/** The words that start a program on a core. */
export function pinned(core: "measured" | "others", program: string, args: readonly string[]): readonly [string, readonly string[]] {
  return cores === null ? [program, args] : ["taskset", ["-c", cores[core], program, ...args]];
}

/** Moves this process away from the core that is measured. */
export function stepAside(): void {
  if (cores !== null) execFileSync("taskset", ["-a", "-c", "-p", cores.others, String(process.pid)], { stdio: "ignore" });
}

/** Seconds of CPU that a process and its threads have used, and its resident MiB. */
export function usageOf(pid: number): { readonly cpuS: number; readonly rssMib: number } {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  // Clock ticks are 10 ms on every Linux that Node runs on.
  const cpuS = (Number(fields[11]) + Number(fields[12])) / 100;
  return { cpuS, rssMib: (Number(fields[21]) * 4096) / 1024 / 1024 };
}

/** Seconds of all cores since the machine's start, and those that its host gave to other machines while they were wanted here. */
export function machineTime(): { readonly allS: number; readonly stolenS: number } {
  const ticks = readFileSync("/proc/stat", "utf8").split("\n", 1)[0]?.trim().split(/\s+/).slice(1, 9).map(Number) ?? [];
  return { allS: ticks.reduce((sum, one) => sum + one, 0) / 100, stolenS: (ticks[7] ?? 0) / 100 };
}
