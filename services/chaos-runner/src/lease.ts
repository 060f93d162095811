import { type Bucket, type Bus, BusError } from "@mcp-failover/bus";
import { experimentPolicy } from "@mcp-failover/domain";

/**
 * One experiment at a time, in the whole fleet: a key that expires unless it is renewed. Its revision is the fencing token: a runner that
 * was taken for dead finds another revision and knows that it has lost.
 */
export interface Lease {
  /** False once it may belong to somebody else. */
  readonly held: boolean;
  release(): Promise<void>;
}
export interface Holder {
  readonly experiment: string;
  readonly instance: string;
}

const bucketName = "chaos-lease";
const key = "active";

/** The lease, or who has it. With `takeOver`, that of a former life of this instance is taken over at once. Throws {@link BusError}. */
export async function acquireLease(
  bus: Bus,
  holder: Holder,
  options: { readonly takeOver: boolean },
): Promise<{ lease: Lease } | { heldBy: Holder }> {
  const bucket = await bus.bucket(bucketName, { ttlMs: experimentPolicy.leaseMs, maxValueBytes: 1024 });
  const value = JSON.stringify(holder);
  let token = await bucket.create(key, value);
  if (token === null) {
    const found = await bucket.get(key);
    const heldBy = found === null ? null : readHolder(found.value);
    // Gone between the two questions, or left by our own former life.
    if (found === null) token = await bucket.create(key, value);
    else if (options.takeOver && heldBy?.instance === holder.instance) token = await bucket.update(key, value, found.revision);
    if (token === null) return { heldBy: heldBy ?? { experiment: "unknown", instance: "another chaos-runner" } };
  }
  return { lease: keep(bus, bucket, value, token) };
}

function keep(bus: Bus, bucket: Bucket, value: string, first: number): Lease {
  const { leaseMs, leaseRenewMs } = experimentPolicy;
  let token = first;
  let renewedMs = performance.now();
  let lost = false;
  let renewing: Promise<void> = Promise.resolve();
  const renew = async (): Promise<void> => {
    const startedMs = performance.now();
    try {
      const next = await bucket.update(key, value, token);
      if (next === null) lost = true;
      else {
        token = next;
        renewedMs = startedMs;
      }
    } catch (error) {
      // Not known whether it was renewed: it counts as not.
      if (!(error instanceof BusError)) throw error;
    }
  };
  const timer = setInterval(() => {
    renewing = renewing.then(() => (lost ? undefined : renew()));
  }, leaseRenewMs);
  return {
    get held() {
      return !lost && performance.now() - renewedMs < leaseMs;
    },
    async release() {
      clearInterval(timer);
      await renewing;
      if (lost || bus.status.kind !== "connected") return; // It expires by itself.
      lost = true;
      try {
        // Only what is still ours may be deleted.
        const found = await bucket.get(key);
        if (found?.revision === token) await bucket.delete(key);
      } catch (error) {
        if (!(error instanceof BusError)) throw error; // As above.
      }
    },
  };
}

function readHolder(text: string): Holder | null {
  try {
    const value = JSON.parse(text) as Partial<Holder> | null;
    return typeof value?.experiment === "string" && typeof value.instance === "string"
      ? { experiment: value.experiment, instance: value.instance }
      : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}
