import { join } from "node:path";
import { BusError, type Following, RefusedError, type Stored } from "@mcp-failover/bus";
import { emptyReadModel, type FailoverRecord, foldReadModel, type ReadModel, viewStatus } from "@mcp-failover/domain";
import type { Kit, Running } from "@mcp-failover/service-kit";
import { readBucketBackup, readDiskBackup, writeBucketBackup, writeDiskBackup } from "./backup.ts";
import type { StateStoreConfig } from "./config.ts";
import { openRedisViews } from "./redis-views.ts";

/** Changes are written together this long after the first of them. */
const flushMs = 20;
const diskBackupMs = 500;
const bucketBackupMs = 5000;
/** Redis is asked this often whether it still has what was written; well under the 5 s in which the views have to be whole again. */
const markMs = 1000;
/** State keys live for an hour; refreshed six times an hour while configured. */
const refreshMs = 600_000;
const servicesMs = 2000;

/**
 * AUDIT -> read model -> Redis, disk and bucket. Everything it holds can be thrown away and rebuilt: the log wins over the backups,
 * and a backup is used only until the log is in reach.
 */
export async function startStateStore(kit: Kit<StateStoreConfig>): Promise<Running> {
  const backupPath = join(kit.dataDir, "state-store", "read-model.json");
  const redis = openRedisViews(kit.config.REDIS_URL);
  let model: ReadModel = emptyReadModel;
  let following: Following | null = null;
  const dirty = { upstreams: new Set<string>(), failovers: [] as FailoverRecord[], all: true, disk: false, bucket: false };
  let services: { name: string; instances: number }[] = [];
  let stopped = false;

  const onStored = (stored: Stored): void => {
    if (stored.content.kind !== "event") return;
    const { event } = stored.content;
    const before = model;
    model = foldReadModel(model, { seq: stored.seq, subject: stored.subject, timeMs: stored.timeMs, event });
    if (model.topology !== before.topology) dirty.all = true;
    const service = (event.data as { service?: unknown }).service;
    if (typeof service === "string") dirty.upstreams.add(service);
    if (model.history !== before.history && typeof service === "string") {
      const record = model.history[service]?.[0];
      if (record) dirty.failovers.push(record);
    }
    dirty.disk = true;
    dirty.bucket = true;
    flush.soon();
  };

  const flush = task(flushMs, async () => {
    const { all } = dirty;
    const upstreams = [...dirty.upstreams];
    const failovers = dirty.failovers.splice(0);
    dirty.upstreams.clear();
    dirty.all = false;
    try {
      if (all) await redis.writeAll(model);
      else await redis.write(model, upstreams, failovers);
      kit.ready("redis", true, "", { required: false });
    } catch (error) {
      // Nothing is queued for Redis: all of it is in the model, and is written anew once Redis is back.
      dirty.all = true;
      kit.ready("redis", false, `Redis cannot be written: ${(error as Error).message}`, { required: false });
    }
  });
  const disk = task(diskBackupMs, async () => {
    if (!dirty.disk) return;
    dirty.disk = false;
    try {
      await writeDiskBackup(backupPath, model);
      kit.ready("disk_backup", true, "", { required: false });
    } catch (error) {
      dirty.disk = true;
      kit.ready("disk_backup", false, `the backup cannot be written to ${backupPath}: ${(error as Error).message}`, { required: false });
    }
  });
  const bucket = task(bucketBackupMs, async () => {
    if (!dirty.bucket || kit.bus.status.kind !== "connected") return;
    dirty.bucket = false;
    try {
      const kept = await writeBucketBackup(kit.bus, model);
      kit.ready("bucket_backup", kept, kept ? "" : "the read model is too large for the bucket; it is backed up on disk alone", {
        required: false,
      });
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
      dirty.bucket = true;
    }
  });

  /** Redis that came back empty is written whole, from memory. */
  const watchMark = task(markMs, async () => {
    try {
      if (dirty.all || !(await redis.hasMark())) {
        dirty.all = true;
        await flush.now();
      }
    } catch (error) {
      dirty.all = true;
      kit.ready("redis", false, `Redis is out of reach: ${(error as Error).message}`, { required: false });
    }
  });
  redis.onConnection((connected, reason) => {
    if (connected) watchMark.now().catch(reportTo(kit, "redis"));
    else if (!stopped) kit.ready("redis", false, reason, { required: false });
  });

  const listServices = task(servicesMs, async () => {
    if (kit.bus.status.kind !== "connected") return;
    try {
      services = countByName(await kit.bus.services({ timeoutMs: 500 }));
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
    }
  });

  const startFollowing = async (): Promise<void> => {
    const from = await whereToStart(kit, model);
    if (from.fromStart) {
      // Another log than the backup's: what Redis holds of the old one must not outrank it.
      if (model.seq > 0) await redis.forget(Object.keys(model.topology?.upstreams ?? {})).catch(reportTo(kit, "redis"));
      model = emptyReadModel;
      dirty.all = true;
    }
    following = kit.bus.follow(
      "AUDIT",
      { from: { seq: from.seq }, onCaughtUp: () => kit.ready("audit", true, "", { required: false }) },
      onStored,
    );
  };

  model = (await readDiskBackup(backupPath)) ?? emptyReadModel;
  kit.ready(
    "audit",
    false,
    model.seq > 0 ? `showing the backup up to event ${model.seq} until the log is in reach` : "the log has not been read yet",
    { required: false },
  );
  const starting = untilDone(
    kit,
    () => stopped,
    async () => {
      if (model.seq === 0) model = (await readBucketBackup(kit.bus)) ?? emptyReadModel;
      await startFollowing();
    },
  );
  const timers = [
    setInterval(() => disk.now().catch(reportTo(kit, "disk backup")), diskBackupMs),
    setInterval(() => bucket.now().catch(reportTo(kit, "bucket backup")), bucketBackupMs),
    setInterval(() => watchMark.now().catch(reportTo(kit, "redis")), markMs),
    setInterval(() => listServices.now().catch(reportTo(kit, "services")), servicesMs),
    setInterval(() => {
      dirty.all = true;
    }, refreshMs),
  ];

  const known = (upstream: string): void => {
    const names = Object.keys(model.topology?.upstreams ?? {});
    if (!names.includes(upstream))
      throw new RefusedError(
        "unknown_upstream",
        `no upstream ${JSON.stringify(upstream)} is configured; known: ${names.join(", ") || "none"}`,
      );
  };
  return {
    handlers: {
      "state.status": async () => {
        if (services.length === 0) await listServices.now();
        return viewStatus(model, services, kit.nowMs());
      },
      "state.get": async ({ upstream }) => {
        known(upstream);
        return viewStatus(model, [], kit.nowMs()).upstreams.find(({ name }) => name === upstream);
      },
      "state.history": async ({ upstream, limit }) => {
        known(upstream);
        return { upstream, failovers: (model.history[upstream] ?? []).slice(0, limit) };
      },
    },
    async stop() {
      stopped = true;
      for (const timer of timers) clearInterval(timer);
      await starting;
      await following?.stop();
      await disk.now();
      flush.cancel();
      await redis.close();
    },
  };
}

/** Goes on after the backup where the log still is the one that it was made from; otherwise from the log's start. */
async function whereToStart(kit: Kit, model: ReadModel): Promise<{ seq: number; fromStart: boolean }> {
  const info = await kit.bus.info("AUDIT");
  const started = await kit.bus.lastOf("AUDIT", "log.started");
  const generation =
    started?.content.kind === "event" && started.content.event.type === "log.started" ? started.content.event.data.generation : 0;
  const sameLog = model.seq > 0 && model.seq <= info.lastSeq && generation === model.generation;
  return sameLog ? { seq: model.seq + 1, fromStart: false } : { seq: Math.max(1, info.firstSeq), fromStart: true };
}

/** Tries until the log answers; each attempt has the bus's own bound. */
async function untilDone(kit: Kit, stopped: () => boolean, attempt: () => Promise<void>): Promise<void> {
  while (!stopped()) {
    try {
      await attempt();
      return;
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
      kit.log.debug({ err: error }, "the log is not in reach yet");
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }
}

function countByName(found: readonly { name: string; id: string }[]): { name: string; instances: number }[] {
  const counts = new Map<string, number>();
  for (const { name } of found) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].map(([name, instances]) => ({ name, instances })).sort((a, b) => a.name.localeCompare(b.name));
}

function reportTo(kit: Kit, what: string): (error: unknown) => void {
  return (error) => kit.log.error({ err: error, what }, "a background task failed");
}

/** One run at a time; a call during a run waits for it and runs once more. `soon` runs after `delayMs`, however often it is called. */
function task(delayMs: number, run: () => Promise<void>): { now(): Promise<void>; soon(): void; cancel(): void } {
  let running: Promise<void> | null = null;
  let again = false;
  let timer: NodeJS.Timeout | null = null;
  const now = async (): Promise<void> => {
    if (running) {
      again = true;
      return running;
    }
    running = (async () => {
      do {
        again = false;
        await run();
      } while (again);
    })();
    try {
      await running;
    } finally {
      running = null;
    }
  };
  return {
    now,
    soon() {
      timer ??= setTimeout(() => {
        timer = null;
        // `run` reports its own failures; what remains is a defect and ends the process.
        void now();
      }, delayMs);
    },
    cancel() {
      if (timer) clearTimeout(timer);
      timer = null;
    },
  };
}
