import { type Bucket, type Bus, BusError } from "@mcp-failover/bus";
import { experimentPolicy } from "@mcp-failover/domain";

/**
 * One experiment at a time, in the whole fleet: a key that expires unless it is renewed. Its revision is the fencing token: a runner that
 * was taken for dead finds another revision and knows that it has lost.
 */
export interface Lease {
  /** False once it may belong to somebody else. */
  readonly held: boolean;
  /** Renews it now; whether that was done, and it is ours therefore. */
  renew(): Promise<boolean>;
  release(): Promise<void>;
}
export interface Holder {
  readonly experiment: string;
  readonly instance: string;
  /** Drawn at each start: an instance's name alone does not tell a former life from the present one. */
  readonly life: string;
}

const bucketName = "chaos-lease";
const key = "active";

/** What a lease is for that no command asked for. */
export const recovery = "recovery";

/**
 * The lease, or who has it. That which a former life of this instance left is taken over at once, where it was for a recovery or for one of the
 * experiments `takeOver`. Throws {@link BusError}.
 */
export async function acquireLease(
  bus: Bus,
  holder: Holder,
  takeOver: { has(experiment: string): boolean },
): Promise<{ lease: Lease } | { heldBy: Holder }> {
  const bucket = await bus.bucket(bucketName, { ttlMs: experimentPolicy.leaseMs, maxValueBytes: 1024 });
  const value = JSON.stringify(holder);
  let token = await bucket.create(key, value);
  if (token === null) {
    const found = await bucket.get(key);
    const heldBy = found === null ? null : readHolder(found.value);
    const isLeft =
      heldBy?.instance === holder.instance &&
      heldBy.life !== holder.life &&
      (heldBy.experiment === recovery ? holder.experiment === recovery : takeOver.has(heldBy.experiment));
    // Gone between the two questions, or left by our own former life.
    if (found === null) token = await bucket.create(key, value);
    else if (isLeft) token = await bucket.update(key, value, found.revision);
    if (token === null) return { heldBy: heldBy ?? { experiment: "unknown", instance: "another chaos-runner", life: "" } };
  }
  return { lease: keep(bus, bucket, value, token) };
}

function keep(bus: Bus, bucket: Bucket, value: string, first: number): Lease {
  const { leaseMs, leaseRenewMs } = experimentPolicy;
  let token = first;
  let renewedMs = performance.now();
  let lost = false;
  let renewing: Promise<boolean> = Promise.resolve(true);
  const renewOnce = async (): Promise<boolean> => {
    if (lost) return false;
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
      return false;
    }
    return !lost;
  };
  const renew = (): Promise<boolean> => {
    renewing = renewing.then(renewOnce);
    return renewing;
  };
  const timer = setInterval(renew, leaseRenewMs);
  return {
    get held() {
      return !lost && performance.now() - renewedMs < leaseMs;
    },
    renew,
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
      ? { experiment: value.experiment, instance: value.instance, life: typeof value.life === "string" ? value.life : "" }
      : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}
