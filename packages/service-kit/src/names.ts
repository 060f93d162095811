import dns, { type LookupAddress, type LookupOptions } from "node:dns";

type Told = (error: NodeJS.ErrnoException | null, address: string | LookupAddress[], family?: number) => void;
/** As `net.connect` takes one. */
export type LookUp = (hostname: string, options: LookupOptions, told: Told) => void;

/**
 * Looks up the names of all that a service connects to beside the bus. The system's resolver keeps a thread for as long as a name server is silent, ten seconds
 * and more, and Node has two for it (half of `UV_THREADPOOL_SIZE`): what waits for one name that hangs would soon have both, and every endpoint with a name be
 * out of reach.
 *
 * N1  A name is looked up once at a time, and who asks meanwhile hears the same. Nothing is kept: a name may mean another address now.
 * N2  Names of which it is not known that they are answered at once (the last time they were not, or there was none) have half of the places at most. Those that
 *     were go first, into any.
 */
export function openNames({
  lookUp = bySystem,
  places = placesOf(process.env["UV_THREADPOOL_SIZE"]),
  clockMs = () => performance.now(),
} = {}): LookUp {
  const asked = new Map<string, Question>();
  const prompt = new Set<string>();
  const lines: { readonly prompt: Question[]; readonly other: Question[] } = { prompt: [], other: [] };
  const otherMax = Math.max(1, Math.floor(places / 2));
  let underWay = 0;
  let otherUnderWay = 0;

  function begin(question: Question, isPrompt: boolean): void {
    const { hostname, options } = question;
    const beganMs = clockMs();
    underWay += 1;
    if (!isPrompt) otherUnderWay += 1;
    lookUp(hostname, options, (error, address, family) => {
      underWay -= 1;
      if (!isPrompt) otherUnderWay -= 1;
      asked.delete(question.key);
      prompt.delete(hostname);
      if (clockMs() - beganMs <= promptMs) keep(hostname);
      for (const told of question.told) told(error, address, family);
      go();
    });
  }

  function keep(hostname: string): void {
    prompt.add(hostname);
    if (prompt.size > promptMax) prompt.delete(prompt.values().next().value as string);
  }

  function go(): void {
    while (underWay < places) {
      const first = lines.prompt.shift();
      const question = first ?? (otherUnderWay < otherMax ? lines.other.shift() : undefined);
      if (question === undefined) return;
      begin(question, first !== undefined);
    }
  }

  return (hostname, options, told) => {
    const key = `${hostname} ${options.family ?? 0} ${options.hints ?? 0} ${options.all === true}`;
    const known = asked.get(key);
    if (known !== undefined) {
      known.told.push(told);
      return;
    }
    const question = { key, hostname, options, told: [told] };
    asked.set(key, question);
    lines[prompt.has(hostname) ? "prompt" : "other"].push(question);
    go();
  };
}

/** One name, for all who ask for it now. */
interface Question {
  readonly key: string;
  readonly hostname: string;
  readonly options: LookupOptions;
  readonly told: Told[];
}

/** An answer that took longer is no prompt one: a resolver that has lost a packet asks again after five seconds. */
const promptMs = 1000;
const promptMax = 50_000;
/** Of libuv. */
const threadsDefault = 4;

/** How many names libuv looks up at once: slow work may have half of its threads, rounded up. */
function placesOf(threads: string | undefined): number {
  const given = Number(threads);
  return Math.ceil((Number.isInteger(given) && given > 0 ? given : threadsDefault) / 2);
}

function bySystem(hostname: string, options: LookupOptions, told: Told): void {
  dns.lookup(hostname, options, told);
}

/** Of this process, because its threads are. */
export const lookUp: LookUp = openNames();
