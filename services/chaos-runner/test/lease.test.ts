import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryBroker } from "@mcp-failover/bus";
import { experimentPolicy } from "@mcp-failover/domain";
import { acquireLease, type Lease, recovery } from "../src/lease.ts";

const nothing = new Set<string>();
const holder = (experiment: string, life = "now") => ({ experiment, instance: "chaos-runner-1", life });

async function acquired(of: ReturnType<typeof acquireLease>): Promise<Lease> {
  const got = await of;
  if ("heldBy" in got) assert.fail(`${got.heldBy.instance} has it for ${got.heldBy.experiment}`);
  return got.lease;
}

test("nobody takes the lease from a living experiment of its own process", async () => {
  const bus = memoryBroker().connect();
  const running = await acquired(acquireLease(bus, holder("chaos-1"), nothing));
  const sweep = await acquireLease(bus, holder(recovery), new Set(["chaos-1"]));
  assert.ok("heldBy" in sweep);
  assert.equal(sweep.heldBy.experiment, "chaos-1");
  assert.equal(await running.renew(), true);
  await running.release();
  await bus.close();
});

test("a lease that a former life left is taken over for a recovery, of experiments without an end alone; its old holder knows at once", async () => {
  const bus = memoryBroker().connect();
  const left = await acquired(acquireLease(bus, holder("chaos-1", "before"), nothing));
  assert.ok("heldBy" in (await acquireLease(bus, holder(recovery), nothing)), "it may be measuring its baseline");
  assert.ok("heldBy" in (await acquireLease(bus, holder("chaos-2"), nothing)));
  assert.ok("heldBy" in (await acquireLease(bus, { ...holder(recovery), instance: "chaos-runner-2" }, new Set(["chaos-1"]))));
  const sweep = await acquired(acquireLease(bus, holder(recovery), new Set(["chaos-1"])));
  assert.equal(await left.renew(), false);
  assert.equal(left.held, false);
  await left.release();
  assert.equal(await sweep.renew(), true, "what is not its own any more, it does not give back");
  const next = await acquired(acquireLease(bus, holder(recovery, "later"), nothing));
  await next.release();
  await sweep.release();
  await bus.close();
});

test("a lease that ran out unnoticed, and is somebody else's now, is not given back by whoever had it", async () => {
  const bus = memoryBroker().connect();
  const first = await acquired(acquireLease(bus, holder("chaos-1"), nothing));
  // As its time-to-live does.
  await (await bus.bucket("chaos-lease", { ttlMs: experimentPolicy.leaseMs, maxValueBytes: 1024 })).delete("active");
  const second = await acquired(acquireLease(bus, { ...holder("chaos-2"), instance: "chaos-runner-2" }, nothing));
  await first.release();
  const kept = await second.renew();
  await second.release();
  await bus.close();
  assert.equal(kept, true);
});
