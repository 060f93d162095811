import type { Bucket } from "@mcp-failover/bus";

export interface SharedBucketOptions {
  readonly bucket: () => Promise<Bucket>;
  /** Spares the wait while the bus is known to be away. */
  readonly reachable: () => boolean;
  readonly timeoutMs: number;
  readonly onTrouble: (error: unknown) => void;
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
