import { readdir, readFile } from "node:fs/promises";

/** Resident memory of the processes of a stdio endpoint, each with all that it started, in bytes. */
export interface StdioMemory {
  readonly processes: number;
  /** Null: this machine has no `/proc` that says so. */
  readonly largestBytes: number | null;
  readonly allBytes: number | null;
}

/** A process that starts others without end is measured up to so many. */
const treeMax = 256;

/** Measures processes by their ids; one that has ended meanwhile counts for nothing. */
export async function memoryOf(pids: readonly number[]): Promise<StdioMemory> {
  if ((await ownBytes("self")) === null) return { processes: pids.length, largestBytes: null, allBytes: null };
  const trees = (await Promise.all(pids.map(treeBytes))).filter((bytes) => bytes > 0);
  return { processes: trees.length, largestBytes: Math.max(0, ...trees), allBytes: trees.reduce((sum, bytes) => sum + bytes, 0) };
}

/** Of a process and of what runs below it. What was started by a wrapper (`npx`, a shell script) is the server itself. */
async function treeBytes(pid: number): Promise<number> {
  const tree = new Set([pid]);
  let bytes = 0;
  // What is added on the way is visited, too.
  for (const one of tree) {
    bytes += (await ownBytes(one)) ?? 0;
    for (const child of await childrenOf(one)) if (tree.size < treeMax) tree.add(child);
  }
  return bytes;
}

/** `VmRSS` of proc_pid_status(5); null: there is no such process, or no `/proc`. */
async function ownBytes(pid: number | "self"): Promise<number | null> {
  const found = /^VmRSS:\s+(\d+) kB$/m.exec(await textOf(`/proc/${pid}/status`));
  return found === null ? null : Number(found[1]) * 1024;
}

/** Each thread has a list of what it started: proc_tid_children(5). */
async function childrenOf(pid: number): Promise<number[]> {
  const threads = await readdir(`/proc/${pid}/task`).catch(() => []);
  const lists = await Promise.all(threads.map((thread) => textOf(`/proc/${pid}/task/${thread}/children`)));
  return lists.flatMap((list) => list.split(" ").filter(Boolean).map(Number));
}

/** Empty: it has ended. */
function textOf(path: string): Promise<string> {
  return readFile(path, "utf8").catch(() => "");
}
