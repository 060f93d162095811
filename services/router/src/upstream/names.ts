import dns, { type LookupAddress, type LookupOptions } from "node:dns";

type Told = (error: NodeJS.ErrnoException | null, address: string | LookupAddress[], family?: number) => void;
/** As `net.connect` takes one. */
export type LookUp = (hostname: string, options: LookupOptions, told: Told) => void;

/**
 * Looks up the names of servers. The system's resolver keeps a thread for as long as a name server is silent, and all the connections that wait for one name would
 * have every thread there is (`threads.ts`): no other endpoint with a name could be reached then.
 *
 * N1  A name is looked up once at a time, and who asks meanwhile hears the same. Nothing is kept: a name may mean another address now.
 */
export function joinLookUps(lookUp: LookUp): LookUp {
  const asked = new Map<string, Told[]>();
  return (hostname, options, told) => {
    const key = `${hostname} ${options.family ?? 0} ${options.hints ?? 0} ${options.all === true}`;
    const waiting = asked.get(key);
    if (waiting !== undefined) {
      waiting.push(told);
      return;
    }
    const all = [told];
    asked.set(key, all);
    lookUp(hostname, options, (error, address, family) => {
      asked.delete(key);
      for (const one of all) one(error, address, family);
    });
  };
}

/** Of this process, because its threads are. */
export const lookUp: LookUp = joinLookUps((hostname, options, told) => dns.lookup(hostname, options, told));
