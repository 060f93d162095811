import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";

/**
 * When a process began, as text to compare, so that a number that was given to another process since is not taken for it.
 * Null when no such process lives.
 */
export function startOf(pid: number): string | null {
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: it lives, and belongs to somebody else.
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return null;
  }
  if (isLinux) return readStat(pid)?.start ?? null;
  const { stdout } = spawnSync("ps", ["-o", "lstart=", "-p", String(pid)], { encoding: "utf8" });
  return stdout.trim() || null;
}

/** Now, in the unit of a start time of Linux: hundredths of a second since the machine was started (proc(5)). Elsewhere 0. */
export function startClock(): number {
  return isLinux ? Math.floor(Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]) * 100) : 0;
}

/**
 * Whether the process group of number `pid` is still that of the process that had the number, led a session of its own, began at `start`,
 * and lived at `aliveAt` of {@link startClock}. A number is given to nobody else while a process, a group or a session has it, and a session is
 * entered by being born into it alone: so who is in that session, and began while the leader lived, is of its making. What cannot be known is no.
 */
export function isGroupOf(pid: number, start: string, aliveAt: number): boolean {
  const now = startOf(pid);
  if (now !== null) return now === start;
  if (!isLinux || aliveAt === 0) return false;
  const numbers = readdirSync("/proc").map(Number).filter(Number.isInteger);
  return numbers.map(readStat).some((one) => one !== null && one.group === pid && one.session === pid && Number(one.start) < aliveAt);
}

const isLinux = process.platform === "linux";

/** What /proc says of a living process. */
function readStat(pid: number): { readonly group: number; readonly session: number; readonly start: string } | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold spaces; fields count from after it. State is the 3rd, group and session are the 5th and 6th, start time the 22nd.
    const [state, , group, session, ...more] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    const start = more[15];
    return state === "Z" || start === undefined ? null : { group: Number(group), session: Number(session), start };
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return null;
    throw error;
  }
}
