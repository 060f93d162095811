import { table } from "../../bench/table.ts";
import { mib } from "./judge.ts";
import type { MixedResult } from "./mixed.ts";

const problemsShown = 40;

/** The result for people; a failed one with its seed and what was done when. */
export function tell(result: MixedResult, say: (line: string) => void): void {
  const outcomes = [...new Set(Object.values(result.byKind).flatMap((of) => Object.keys(of)))].sort();
  const rows = Object.entries(result.byKind)
    .sort(([a], [b]) => a.localeCompare(b))
    .map(([kind, of]) => [kind, ...outcomes.map((outcome) => String(of[outcome] ?? ""))]);
  say(`\n${table(["requests", ...outcomes], rows)}`);
  const memory = [
    ...result.memory.heap.map((one) => ["heap", one] as const),
    ...result.memory.rss.map((one) => ["resident", one] as const),
  ];
  const memoryRows = memory.map(([what, { name, samples, fromBytes, toBytes }]) => [
    name,
    what,
    mib(fromBytes),
    mib(toBytes),
    mib(toBytes - fromBytes),
    String(samples),
  ]);
  say(`\n${table(["process", "MiB", "warm", "at the end", "more", "looks"], memoryRows)}`);
  const held = Object.entries(result.before.routers).map(([name, was]) => {
    const is = result.after.routers[name];
    const pair = (of: (look: typeof was) => number): string => `${of(was)} / ${is === undefined ? "-" : of(is)}`;
    return [
      name,
      ...(
        [(one) => one.sessions, (one) => one.sockets, (one) => one.fds, (one) => one.children, (one) => one.timers] as ((
          look: typeof was,
        ) => number)[]
      ).map(pair),
    ];
  });
  say(`\n${table(["before / after", "sessions", "sockets", "files", "children", "timers"], held)}`);
  const undone = result.faults.filter(({ problem }) => problem !== null).length;
  say(
    `\n${result.sent} requests in ${result.seconds} s with ${result.faults.length} faults, of which ${undone} could not be done; ${result.notificationsHeard} messages of servers heard; ${result.brokenByRouterEnds} connections broke with their router; ${result.late} answers came after the deadline, the slowest after ${result.slowestMs} ms`,
  );
  if (result.problems.length === 0) return;
  say(`\nseed ${result.seed} (--seed ${result.seed}); what was done:`);
  for (const { atS, what, problem } of result.faults) say(`  ${atS} s: ${what}${problem === null ? "" : ` (not done: ${problem})`}`);
  say(`${result.problems.length} PROBLEMS:`);
  for (const problem of result.problems.slice(0, problemsShown)) say(`  ${problem}`);
}
