import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { BusError, busHealth, type Following, RefusedError, type Stored } from "@mcp-failover/bus";
import { type StatusPageRequest, type StatusView, statusLimits, type UpstreamConfig } from "@mcp-failover/contracts";
import {
  type FailoverRecord,
  healthReport,
  ownReadModel,
  pageStatus,
  type ReadModel,
  viewStatus,
  viewUpstream,
} from "@mcp-failover/domain";
import type { Kit, Running } from "@mcp-failover/service-kit";
import {
  type Backup,
  encodeBackup,
  encodeBucketBackup,
  readBucketBackup,
  readDiskBackup,
  removeDraft,
  writeBucketBackup,
  writeDiskBackup,
} from "./backup.ts";
import type { StateStoreConfig } from "./config.ts";
import { openRedisViews } from "./redis-views.ts";
import { paced, task } from "./task.ts";

/** Changes are written together this long after the first of them. */
const flushMs = 20;
const diskBackupMs = 500;
const bucketBackupMs = 5000;
/** Making a backup's text holds everything else up: after it that many times as long goes by until the next. */
const backupRests = 20;
/** Redis is asked this often whether it still has what was written; well under the 5 s in which the views have to be whole again. */
const markMs = 1000;
/** State keys live for an hour; refreshed six times an hour while configured. */
const refreshMs = 600_000;
const servicesMs = 2000;
const retryMs = 500;
const stopMsMax = 1000;

/**
 * AUDIT -> read model -> Redis, disk and bucket. Everything it holds can be thrown away and rebuilt: the log wins over the backups,
 * and a backup is used only until the log is in reach.
 */
export async function startStateStore(kit: Kit<StateStoreConfig>): Promise<Running> {
  const backupPath = join(kit.dataDir, "state-store", "read-model.json");
  const redis = openRedisViews(kit.config.REDIS_URL, kit.config.REDIS_CREDENTIALS_DIR ?? null);
  let own = ownReadModel();
  let following: Following | null = null;
  /** All that was in the log at the start is folded. */
  let caughtUp = false;
  const dirty = {
    all: true,
    disk: false,
    bucket: false,
    upstreams: new Set<string>(),
    removed: new Set<string>(),
    failovers: [] as FailoverRecord[],
  };
  let services: { name: string; instances: number }[] = [];
  let stopped = false;
  const complain = (what: string) => (error: unknown) => kit.log.error({ err: error, what }, "a background task failed; it is tried again");

  /**
   * What may be shown: to who asks, in Redis, in a backup. A model that is half folded is the past, and nobody could tell it from the
   * present; a backup can be told by what it goes up to.
   */
  const shown = (): ReadModel | null => (caughtUp || (following === null && own.model.seq > 0) ? own.model : null);
  /** What Redis holds of this model must not outrank what is folded anew. */
  const beginAnew = (why: string): void => {
    const { seq, generation, topology } = own.model;
    if (seq > 0) kit.log.warn({ seq, generation, why }, "the log is folded from its start");
    for (const name of Object.keys(topology?.upstreams ?? {})) dirty.removed.add(name);
    own = ownReadModel();
    dirty.all = true;
    dirty.failovers = [];
  };
  const onStored = (stored: Stored): void => {
    if (stored.content.kind !== "event") return;
    const { event } = stored.content;
    const { model } = own;
    const before = model.topology;
    own.fold({ seq: stored.seq, subject: stored.subject, timeMs: stored.timeMs, event });
    if (model.topology !== before) {
      dirty.all = true;
      const names = new Set(Object.keys(model.topology?.upstreams ?? {}));
      for (const name of Object.keys(before?.upstreams ?? {})) if (!names.has(name)) dirty.removed.add(name);
    }
    dirty.disk = true;
    dirty.bucket = true;
    flush.soon();
    // Everything is written anyway; a long log must not pile up here what is not written before its end.
    if (dirty.all) return;
    const service = (event.data as { service?: unknown }).service;
    if (typeof service === "string") dirty.upstreams.add(service);
    if (event.type === "failover.executed") {
      const newest = model.history[event.data.service]?.[0];
      if (newest?.seq === stored.seq) dirty.failovers.push(newest);
    }
  };

  /** What Redis holds of a log that was lost when this one was restored to an earlier place: its places are no earlier than ours. */
  const forgetLost = async (whole: ReadModel, removed: readonly string[]): Promise<void> => {
    try {
      const mark = await redis.mark();
      if (mark === null || (await isInLog(kit, mark))) return;
      kit.log.warn({ seq: mark.seq, id: mark.last.id }, "what Redis holds is of another log: it is written anew");
      await redis.forget(mark, [...Object.keys(whole.topology?.upstreams ?? {}), ...removed]);
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
      kit.log.debug({ err: error }, "whether Redis is of this log is looked up when NATS is back");
    }
  };

  const flush = task(
    flushMs,
    async () => {
      const whole = shown();
      if (whole === null) return;
      const { all } = dirty;
      const upstreams = [...dirty.upstreams];
      const removed = [...dirty.removed];
      const failovers = dirty.failovers.splice(0);
      dirty.upstreams.clear();
      dirty.all = false;
      try {
        if (all && caughtUp) await forgetLost(whole, removed);
        const configured = whole.topology?.upstreams ?? {};
        await redis.remove(
          whole,
          removed.filter((name) => !Object.hasOwn(configured, name)),
        );
        for (const name of removed) dirty.removed.delete(name);
        if (all) await redis.writeAll(whole);
        else await redis.write(whole, upstreams, failovers);
        kit.ready("redis", true, "", { required: false });
      } catch (error) {
        // Nothing is queued for Redis: all of it is in the model, and is written anew once Redis is back.
        dirty.all = true;
        kit.ready("redis", false, `Redis cannot be written: ${(error as Error).message}`, { required: false });
      }
    },
    complain("redis"),
  );
  const diskPace = paced(backupRests, () => performance.now());
  const bucketPace = paced(backupRests, () => performance.now());
  const disk = task(
    diskBackupMs,
    async () => {
      const whole = shown();
      if (!dirty.disk || whole === null || !(stopped || diskPace.due())) return;
      dirty.disk = false;
      try {
        const text = diskPace.timed(() => encodeBackup(whole));
        await writeDiskBackup(backupPath, text, kit.instance);
        kit.ready("disk_backup", true, "", { required: false });
      } catch (error) {
        dirty.disk = true;
        kit.ready("disk_backup", false, `the backup cannot be written to ${backupPath}: ${(error as Error).message}`, { required: false });
      }
    },
    complain("disk backup"),
  );
  const bucket = task(
    bucketBackupMs,
    async () => {
      const whole = shown();
      if (!dirty.bucket || whole === null || kit.bus.status.kind !== "connected" || !bucketPace.due()) return;
      dirty.bucket = false;
      try {
        const text = bucketPace.timed(() => encodeBucketBackup(whole));
        const kept = await writeBucketBackup(kit.bus, text);
        const reason = kept ? "" : "the read model is too large for the bucket; it is backed up on disk alone";
        kit.ready("bucket_backup", kept, reason, { required: false });
      } catch (error) {
        if (!(error instanceof BusError)) throw error;
        dirty.bucket = true;
        kit.ready("bucket_backup", false, `the backup cannot be kept in the bucket: ${error.message}`, { required: false });
      }
    },
    complain("bucket backup"),
  );
  /** Redis that came back empty is written whole, from memory. */
  const watchMark = task(
    markMs,
    async () => {
      try {
        const marked = await redis.hasMark();
        if (marked && !dirty.all) return;
        dirty.all = true;
        if (shown() === null) kit.ready("redis", true, "", { required: false });
        else await flush.now();
      } catch (error) {
        dirty.all = true;
        kit.ready("redis", false, `Redis is out of reach: ${(error as Error).message}`, { required: false });
      }
    },
    complain("redis"),
  );
  const listServices = task(
    servicesMs,
    async () => {
      if (kit.bus.status.kind !== "connected") return;
      try {
        services = countByName(await kit.bus.services({ timeoutMs: 500 }));
      } catch (error) {
        if (!(error instanceof BusError)) throw error;
      }
    },
    complain("services"),
  );
  const stopListening = kit.bus.onStatus(({ kind }) => {
    // Whether what Redis holds is of this log could not be looked up while NATS was away.
    if (kind === "connected") dirty.all = true;
  });
  redis.onConnection((connected, reason) => {
    if (!connected) {
      if (!stopped) kit.ready("redis", false, reason, { required: false });
      return;
    }
    // It may have come back with an older snapshot, or be a replica that lagged, whose mark says nothing on what was written since.
    dirty.all = true;
    void watchMark.now();
  });

  /** The model of a backup, or null; one that is not whole is said, and not used. */
  const usable = (backup: Backup, where: string): ReadModel | null => {
    if (backup.kind === "refused") kit.log.error({ where, reason: backup.reason }, "a backup is not whole and is not used");
    return backup.kind === "found" ? backup.model : null;
  };
  const show = (backup: ReadModel | null): void => {
    if (backup === null) return;
    own = ownReadModel(backup);
    dirty.all = true;
    flush.soon();
  };
  /** A disk that fails keeps nobody from the log. */
  const fromDisk = async (): Promise<ReadModel | null> => {
    try {
      return usable(await readDiskBackup(backupPath), backupPath);
    } catch (error) {
      kit.ready("disk_backup", false, `the backup ${backupPath} cannot be read: ${(error as Error).message}`, { required: false });
      return null;
    }
  };
  const startFollowing = async (): Promise<void> => {
    if (own.model.seq === 0) show(usable(await readBucketBackup(kit.bus), "the bucket state-backup"));
    const from = await whereToStart(kit, own.model);
    if (stopped) return;
    if (from.fromStart) beginAnew("it is another log than the backup's");
    const onCaughtUp = (): void => {
      caughtUp = true;
      kit.ready("audit", true, "", { required: false });
      flush.soon();
    };
    const onAnotherLog = (): void => {
      caughtUp = false;
      kit.ready("audit", false, "the log is another one than before, and is still being read", { required: false });
      beginAnew("the log was replaced");
    };
    following = kit.bus.follow("AUDIT", { from: { seq: from.seq }, onCaughtUp, onAnotherLog }, onStored);
  };

  // Where that fails the next backup cannot be written either, which is told.
  await removeDraft(backupPath, kit.instance).catch(() => undefined);
  show(await fromDisk());
  const { seq } = own.model;
  const showing = seq > 0 ? `showing the backup up to event ${seq} until the log is in reach` : "the log has not been read yet";
  kit.ready("audit", false, showing, { required: false });
  const starting = untilDone(kit, () => stopped, startFollowing);
  const timers = [
    setInterval(() => void disk.now(), diskBackupMs),
    setInterval(() => void bucket.now(), bucketBackupMs),
    setInterval(() => void watchMark.now(), markMs),
    setInterval(() => void listServices.now(), servicesMs),
    setInterval(() => {
      dirty.all = true;
    }, refreshMs),
  ];

  const answerable = (): ReadModel => {
    const whole = shown();
    if (whole !== null) return whole;
    throw new RefusedError("not_ready", "the state-store is still reading the log, or cannot reach it: ask again in a second", true);
  };
  const pageOf = (whole: ReadModel, page: StatusPageRequest): StatusView => {
    const made = pageStatus(whole, services, kit.nowMs(), page);
    if (made.kind === "page") return made.view;
    const what = `of ${made.name} alone there are ${made.bytes} bytes, more than the ${statusLimits.upstreamBytesMax} that an answer takes`;
    const message = `${what}: read the log, as \`mcpf status\` does, or go on with {"page":{"after":"${made.name}"}}`;
    throw new RefusedError("upstream_too_large", message);
  };
  const known = (upstream: string): UpstreamConfig => {
    const upstreams = answerable().topology?.upstreams ?? {};
    const configured = Object.hasOwn(upstreams, upstream) ? upstreams[upstream] : undefined;
    if (configured !== undefined) return configured;
    const names = Object.keys(upstreams);
    const quoted = JSON.stringify(upstream.slice(0, 100));
    throw new RefusedError("unknown_upstream", `no upstream ${quoted} is configured; known: ${names.join(", ") || "none"}`);
  };
  return {
    handlers: {
      "state.status": async ({ page }) => {
        answerable();
        if (services.length === 0) await listServices.now();
        const view = page === undefined ? viewStatus(answerable(), services, kit.nowMs()) : pageOf(answerable(), page);
        // What nobody hears any more of is a backup too, though it was the present once.
        const isCurrent = caughtUp && busHealth(kit.bus).deaf.length === 0;
        return isCurrent ? view : { ...view, backupUpToSeq: own.model.seq };
      },
      "state.health_report": async () => healthReport(answerable(), kit.nowMs()),
      "state.get": async ({ upstream }) => {
        const configured = known(upstream);
        return viewUpstream(own.model, upstream, configured, kit.nowMs());
      },
      "state.history": async ({ upstream, limit }) => {
        known(upstream);
        const { model } = own;
        return { upstream, failovers: (Object.hasOwn(model.history, upstream) ? (model.history[upstream] ?? []) : []).slice(0, limit) };
      },
    },
    async stop() {
      stopped = true;
      stopListening();
      for (const timer of timers) clearInterval(timer);
      // A log out of reach may keep it waiting; it begins nothing any more.
      await Promise.race([starting, sleep(stopMsMax, undefined, { ref: false })]);
      await following?.stop();
      flush.cancel();
      await disk.now();
      await Promise.race([flush.now(), sleep(stopMsMax, undefined, { ref: false })]);
      await redis.close();
    },
  };
}

/** Goes on after the backup where the log still is the one that it was made from; otherwise from the log's start. */
async function whereToStart(kit: Kit, model: ReadModel): Promise<{ seq: number; fromStart: boolean }> {
  const info = await kit.bus.info("AUDIT");
  return (await isInLog(kit, model)) ? { seq: model.seq + 1, fromStart: false } : { seq: Math.max(1, info.firstSeq), fromStart: true };
}

/** Whether AUDIT has this very event at its place. Restored to an earlier place and gone on with, it has the same beginning and another one there. */
async function isInLog(kit: Kit, { seq, last }: Pick<ReadModel, "seq" | "last">): Promise<boolean> {
  const there = last === null ? null : await kit.bus.at("AUDIT", seq);
  return there?.content.kind === "event" && there.content.event.id === last?.id && there.timeMs === last.atMs;
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
      await sleep(retryMs);
    }
  }
}

function countByName(found: readonly { name: string; id: string }[]): { name: string; instances: number }[] {
  const counts = new Map<string, number>();
  for (const { name } of found) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].map(([name, instances]) => ({ name, instances })).sort((a, b) => a.name.localeCompare(b.name));
}
