import type { Entry, World } from "../world-types.ts";

/** What observers said in SIGNALS, read anew: nothing here asks the production code what it made of it. */
export interface Word {
  readonly seq: number;
  readonly atMs: number;
  /** `prober:a` */
  readonly observer: string;
  readonly endpoint: string;
  readonly fails: boolean;
  readonly answers: boolean;
  readonly confirms: boolean;
}

/** Words stored within `backMs` before SIGNALS `seq`, by true time and by the store's own, which deciders go by; that one included, newest first. */
export function wordsBefore(world: World, seq: number, backMs: number): Word[] {
  const last = world.signal(seq);
  if (last === null) return [];
  const words: Word[] = [];
  for (let at = seq; at > 0; at -= 1) {
    const entry = world.signal(at);
    if (entry === null || entry.atMs < last.atMs - backMs) break;
    if (entry.timeMs >= last.timeMs - backMs) words.push(...wordsOf(entry));
  }
  return words;
}

/** The probers (`prober:a`) of which the process that came last under the name has said, up to SIGNALS `seq`, that it leaves. */
export function probersLeft(world: World, seq: number): Set<string> {
  const latest = new Map<string, number>();
  const known = new Set<string>();
  const gone = new Set<string>();
  for (let at = 1; at <= seq; at += 1) {
    const entry = world.signal(at);
    if (entry?.event.type !== "probe.observed") continue;
    const { observer, startedAtMs = 0, leaving } = entry.event.data;
    const run = `${observer} ${startedAtMs}`;
    if (!known.has(run)) latest.set(observer, startedAtMs);
    known.add(run);
    if (leaving === true) gone.add(run);
  }
  return new Set([...latest].filter(([observer, run]) => gone.has(`${observer} ${run}`)).map(([observer]) => `prober:${observer}`));
}

/** When each router was last heard before SIGNALS `seq`, whatever it said, as far back as `backMs`. */
export function routersHeard(world: World, seq: number, backMs: number): Map<string, number> {
  const heard = new Map<string, number>();
  const last = world.signal(seq);
  if (last === null) return heard;
  for (let at = seq; at > 0; at -= 1) {
    const entry = world.signal(at);
    if (entry === null || entry.atMs < last.atMs - backMs) break;
    if (entry.event.type !== "traffic.observed") continue;
    const key = `router:${entry.event.data.router}`;
    if (!heard.has(key)) heard.set(key, entry.atMs);
  }
  return heard;
}

/** What routers said of their calls to one endpoint. */
export interface CallsSaid {
  readonly atMs: number;
  readonly router: string;
  readonly epoch: number;
  readonly calls: number;
  readonly hard: number;
  /** Calls are out that hang. */
  readonly hangs: boolean;
}

/** What routers said within `backMs` before SIGNALS `seq`, by both times too, that one included, newest first. */
export function callsBefore(world: World, seq: number, backMs: number, key: string): CallsSaid[] {
  const last = world.signal(seq);
  const said: CallsSaid[] = [];
  for (let at = seq; at > 0 && last !== null; at -= 1) {
    const entry = world.signal(at);
    if (entry === null || entry.atMs < last.atMs - backMs) break;
    if (entry.event.type !== "traffic.observed" || entry.timeMs < last.timeMs - backMs) continue;
    const { router, endpoints, routes } = entry.event.data;
    for (const { upstream, endpoint, ok, hard, soft, auth, caller, hung, slowInFlight = 0 } of endpoints) {
      if (`${upstream}/${endpoint}` !== key) continue;
      const epoch = routes[upstream]?.epoch ?? -1;
      const hangs = hung === true || slowInFlight > 0;
      said.push({ atMs: entry.atMs, router, epoch, calls: ok + hard + soft + auth + caller, hard, hangs });
    }
  }
  return said;
}

function wordsOf({ seq, atMs, event }: Entry): Word[] {
  if (event.type === "probe.observed") {
    return event.data.observations.map(({ upstream, endpoint, observer, outcome, purpose }) => ({
      seq,
      atMs,
      observer: `prober:${observer}`,
      endpoint: `${upstream}/${endpoint}`,
      fails: outcome === "hard",
      answers: outcome === "ok",
      confirms: purpose === "confirm" || purpose === "requested",
    }));
  }
  if (event.type !== "traffic.observed") return [];
  const { router, endpoints } = event.data;
  return endpoints.map(({ upstream, endpoint, ok, hard, hung, slowInFlight }) => ({
    seq,
    atMs,
    observer: `router:${router}`,
    endpoint: `${upstream}/${endpoint}`,
    fails: hard > 0 || hung === true || (slowInFlight ?? 0) > 0,
    answers: ok > 0,
    confirms: false,
  }));
}
