import { type Bucket, BusError } from "@mcp-failover/bus";

export interface SharedBucketOptions {
  readonly bucket: () => Promise<Bucket>;
  /** Spares the wait while the bus is known to be away. */
  readonly reachable: () => boolean;
  readonly timeoutMs: number;
  readonly onTrouble: (error: unknown) => void;
}
interface TroubleLog {
  debug(details: object, message: string): void;
  warn(details: object, message: string): void;
}
const warnedAgainMs = 60_000;

/**
 * That the bus is away is said elsewhere, and passes. What a bucket refuses, because it is full or not there, lasts, and the processes
 * share nothing of it meanwhile, each in good health: somebody has to hear of that, and not with every request.
 */
export function troubleTeller(name: string, log: TroubleLog, nowMs: () => number): (error: unknown) => void {
  let warnedAtMs = Number.NEGATIVE_INFINITY;
  return (error) => {
    if (!(error instanceof BusError && error.code === "rejected")) {
      log.debug({ err: error, bucket: name }, "a bucket is out of reach; this process goes on with what it knows");
    } else if (nowMs() - warnedAtMs >= warnedAgainMs) {
      warnedAtMs = nowMs();
      const message =
        "a bucket refuses what the routers have in common; each goes on with what it knows: is it there, and is there room in it?";
      log.warn({ err: error, bucket: name }, message);
    }
  };
}

/** Null: it is out of reach, or did not answer in time. */
export type SharedBucket = <T>(work: (bucket: Bucket) => Promise<T>) => Promise<{ readonly value: T } | null>;

/** What router processes have in common, for which nobody waits longer than `timeoutMs`. */
export function sharedBucket(options: SharedBucketOptions): SharedBucket {
  let opened: Promise<Bucket> | null = null;
  const open = (): Promise<Bucket> => {
    opened ??= options.bucket().catch((error: unknown) => {
      opened = null;
      throw error;
    });
    return opened;
  };
  return async (work) => {
    if (!options.reachable()) return null;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new Error(`what the routers have in common did not answer within ${options.timeoutMs} ms`)),
        options.timeoutMs,
      );
    });
    try {
      return { value: await Promise.race([open().then(work), late]) };
    } catch (error) {
      options.onTrouble(error);
      return null;
    } finally {
      clearTimeout(timer);
    }
  };
}
