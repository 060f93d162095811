import type { Look, RouterLook } from "./look.ts";

/**
 * What the faults were (F), and what routers and services hold (issue 4, must show 4):
 * F   The faults were done: an hour of peace shows nothing.
 * M1  Memory is flat: what a router keeps after it has collected its garbage does not grow once it is warm, nor what a service has resident. router-1, which lives
 *     through it all, was looked at often enough to say so.
 * M2  Nothing is left when traffic has ended: sessions, sockets, file descriptors, children and timers are again what they were before.
 */
const heapGrowthBytesMax = 24 * 1024 * 1024;
const rssGrowthBytesMax = 128 * 1024 * 1024;
/** What may be more than before: connections of probes, health ports and the bus come and go, and a timer with each. */
const slack = { sessions: 0, sockets: 12, fds: 24, children: 1, timers: 8, tcp: 12 } as const;
/** Some meet what is just down, or find nothing to act on. */
const undoneShareMax = 0.2;
const undoneMin = 2;
const serviceSlack = { fds: 12, children: 0 } as const;
/** Problems that say of a run that too little was done or seen in it, and nothing of the stack. */
const tooLittle = [/^F: /, /^M1: .* was looked at too seldom to say anything$/];

/** What speaks against the faults of a run: that too few were done. */
export function faultProblems(faults: readonly { readonly problem: string | null }[], durationMs: number, everyMs: number): string[] {
  const done = faults.filter(({ problem }) => problem === null).length;
  const due = Math.max(1, Math.floor(durationMs / (2 * everyMs)), faults.length - Math.max(undoneMin, faults.length * undoneShareMax));
  return done < due ? [`F: ${done} of ${faults.length} faults were done, in ${Math.round(durationMs / 1000)} s`] : [];
}

export interface Growth {
  readonly name: string;
  readonly samples: number;
  readonly fromBytes: number;
  readonly toBytes: number;
}

/** Heap of the routers, and resident memory of all, of the processes that lived from the end of the warm-up to the end. */
export function growthOf(looks: readonly Look[], warmUntilMs: number): { heap: Growth[]; rss: Growth[] } {
  const warm = looks.filter(({ atMs }) => atMs >= warmUntilMs);
  const last = warm.at(-1);
  const heap: Growth[] = [];
  const rss: Growth[] = [];
  for (const [name, { pid }] of Object.entries({ ...last?.services, ...last?.routers })) {
    const of = warm.flatMap((look) => look.routers[name] ?? look.services[name] ?? []).filter((one) => one.pid === pid);
    // Too young to say anything.
    if (of.length < warm.length / 2 || of.length < 4) continue;
    rss.push({ name, ...ends(of.map(({ rssBytes }) => rssBytes)) });
    const heaps = of.flatMap((one) => (one as RouterLook).heapBytes ?? []);
    if (heaps.length > 0) heap.push({ name, ...ends(heaps) });
  }
  return { heap, rss };
}

/** Means of the first and of the last quarter: single looks have a call more or less in them. */
function ends(values: readonly number[]): Omit<Growth, "name"> {
  const quarter = Math.max(1, Math.floor(values.length / 4));
  const mean = (some: readonly number[]): number => some.reduce((sum, value) => sum + value, 0) / some.length;
  return { samples: values.length, fromBytes: mean(values.slice(0, quarter)), toBytes: mean(values.slice(-quarter)) };
}

export function growthProblems({ heap, rss }: ReturnType<typeof growthOf>): string[] {
  const over = (what: string, max: number, all: readonly Growth[]): string[] =>
    all
      .filter(({ fromBytes, toBytes }) => toBytes - fromBytes > max)
      .map(({ name, fromBytes, toBytes }) => `M1: ${what} of ${name} grew from ${mib(fromBytes)} to ${mib(toBytes)} MiB`);
  const unmeasured = heap.some(({ name }) => name === "router-1") ? [] : ["M1: router-1 was looked at too seldom to say anything"];
  return [...unmeasured, ...over("the heap", heapGrowthBytesMax, heap), ...over("the resident memory", rssGrowthBytesMax, rss)];
}

/** What is more than it was before. */
export function leftovers(before: Look, after: Look): string[] {
  const problems: string[] = [];
  const compare = (name: string, what: string, was: number | undefined, is: number | undefined, more: number): void => {
    if (was === undefined || is === undefined) problems.push(`M2: ${name} could not be asked for ${what}`);
    else if (is > was + more) problems.push(`M2: ${name} has ${is} ${what}, and had ${was}`);
  };
  for (const [name, was] of Object.entries(before.routers)) {
    for (const [what, more] of Object.entries(slack) as [keyof typeof slack, number][]) {
      compare(name, what, was[what], after.routers[name]?.[what], more);
    }
  }
  for (const [name, was] of Object.entries(before.services)) {
    for (const [what, more] of Object.entries(serviceSlack) as [keyof typeof serviceSlack, number][]) {
      compare(name, what, was[what], after.services[name]?.[what], more);
    }
  }
  return problems;
}

/** How a run ends. `nothingShown` is EX_TEMPFAIL of sysexits.h: it may be tried again, and nothing else may (.ci/run). */
export const soakEnds = { passed: 0, failed: 1, nothingShown: 75 } as const;

/** The run could not begin: a machine too busy to say anything of the stack. */
export class NothingShownError extends Error {
  readonly code = "soak_nothing_shown";
  readonly retriable = true;
}

/** One broken invariant is a failure, whatever else there was too little of. */
export function endOf(problems: readonly string[]): (typeof soakEnds)[keyof typeof soakEnds] {
  if (problems.length === 0) return soakEnds.passed;
  return problems.every((problem) => tooLittle.some((kind) => kind.test(problem))) ? soakEnds.nothingShown : soakEnds.failed;
}

export const mib = (bytes: number): string => (bytes / 1024 / 1024).toFixed(1);
