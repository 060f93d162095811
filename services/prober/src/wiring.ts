import { BusError } from "@mcp-failover/bus";
import type { Topology } from "@mcp-failover/contracts";
import { defaultPolicy, fractionOf, gridSlot, maintenanceAt, type ProberPolicy, proberPolicy } from "@mcp-failover/domain";
import { type AppliedTopology, followTopology, type Kit, type Running, readProbeTokens } from "@mcp-failover/service-kit";
import type { ProberEnvironment } from "./config.ts";
import { joinFleet } from "./fleet.ts";
import { followHealth } from "./health-log.ts";
import { createKeeper, type Keeper } from "./keeper.ts";
import { createLimits } from "./limits.ts";
import { proberMetrics } from "./metrics.ts";
import { openObservationLog } from "./observations.ts";
import { createPerformer } from "./perform.ts";
import { openProbeRunner } from "./probes/run-probe.ts";
import { createProbing, type Probing } from "./probing.ts";
import { createQuestions, type Questions } from "./questions.ts";
import { reach } from "./reference.ts";
import { openReporting } from "./reporting.ts";
import { createSchedule } from "./schedule.ts";
import { openSelfCheck, type SelfCheck } from "./self-check.ts";
import { addressesOf, type Target, targetsOf } from "./targets.ts";

/** Endpoints that are taken over at once are first probed within this time, so that thousands of them do not start in one instant. */
const takeOverMsMax = 1000;
const takeOverMsEach = 4;
const watchMs = 1000;
/** Until the grace after start has ended: a stack that starts waits for it. */
const graceWatchMs = 250;
const sweepMs = 30_000;

/**
 * The whole prober at a glance:
 *
 * config.applied   -> targets -> which of them are ours -> schedule
 * prober.heartbeat -> who lives -> which targets are ours
 * schedule         -> probe -> probe.observed; decideHealth -> (ask the peers) -> health.changed, fenced
 * probe.requested  -> probe -> probe.observed and a reply
 * POST /report     -> endpoint.reported -> what a heartbeat probe finds
 * health.changed   -> what the next decision starts from
 */
export async function startProber(
  kit: Kit<ProberEnvironment>,
  policy: ProberPolicy = proberPolicy,
  openRunner: typeof openProbeRunner = openProbeRunner,
  reachReference: typeof reach = reach,
): Promise<Running> {
  const { bus, log, instance } = kit;
  const metrics = proberMetrics(kit.registry);
  const startedAtMs = Math.floor(kit.nowMs());
  const connected = (): boolean => bus.status.kind === "connected";
  let targets: ReadonlyMap<string, Target> = new Map();
  let maintenance: NonNullable<Topology["maintenance"]> = [];
  let references: readonly string[] = kit.config.MCPF_REFERENCE_URLS ?? [];
  let addresses: readonly string[] = [];
  let configured = false;
  let graceUntilMs = startedAtMs + defaultPolicy.health.graceMs;
  let stopped = false;

  const performer = createPerformer(kit, policy, startedAtMs);
  const reporting = await openReporting(kit, () => targets);
  const { reports } = reporting;
  const execAllow = kit.config.MCPF_EXEC_ALLOW ?? new Map();
  const routerToken = (): string | null => readProbeTokens(kit.secrets, kit.config.MCPF_CREDENTIALS_DIR)[0] ?? null;
  // One that cannot be used is said now, and not at the first process of a router.
  routerToken();
  const runner = openRunner({ policy, secrets: kit.secrets, nowMs: kit.nowMs, reports, execAllow, routerToken });
  const observations = openObservationLog({
    policy,
    event: performer.observed,
    farewell: performer.farewell,
    reachable: connected,
    append: performer.append,
    onDropped: (count) => metrics.dropped.inc(count),
    onFailed: (err) => log.debug({ err }, "observations could not be published yet"),
  });
  const health = followHealth(
    bus,
    (key, said) => keeper.other(key, said),
    (err) => log.error({ err }, "an event of the log could not be taken in"),
  );
  const keeper: Keeper = createKeeper({
    log: health,
    nowMs: kit.nowMs,
    graceUntilMs: () => graceUntilMs,
    maintenanceOf: ({ upstream, endpoint }, nowMs) => maintenanceAt({ maintenance }, upstream, endpoint, nowMs),
    canDecide: () => connected() && health.caughtUp && !stopped,
    ask: (target) => questions.ask(target),
    say: performer.sayHealth,
    onDecision: (target, { rule, reason, publish, state }) => {
      metrics.decisions.inc({ rule });
      log[publish ? "info" : "warn"]({ target: target.key, rule, status: state.status }, reason);
    },
    onLost: () => metrics.lost.inc(),
    onError: (err, target) => {
      if (err instanceof BusError) log.warn({ err, target: target.key }, "the log is out of reach; nothing is decided on this evidence");
      else log.error({ err, target: target.key }, "a decision failed");
    },
  });
  const self: SelfCheck = openSelfCheck({
    policy,
    references: () => references,
    targets: () => addresses,
    reach: reachReference,
    clockMs: () => performance.now(),
    onChange: noteCondition,
  });
  const probing: Probing = createProbing({
    instance,
    policy,
    targets: () => targets,
    runner,
    limits: createLimits(policy),
    keeper,
    health,
    observations,
    metrics,
    self,
    nowMs: kit.nowMs,
    clockMs: () => performance.now(),
    onNotMade: (target, { reason, detail }) => log.warn({ target: target.key, reason }, kit.secrets.redact(detail)),
  });
  const questions: Questions = createQuestions({
    instance,
    policy,
    targets: () => targets,
    probing,
    performer,
    peers: () => (self.referencesFail ? [...fleet.peers(), ...fleet.isolatedPeers()] : fleet.peers()),
    zoneOf: (prober) => fleet.zoneOf(prober),
    isolated: () => self.isolated,
  });
  const schedule = createSchedule({
    nowMs: kit.nowMs,
    clockMs: () => performance.now(),
    run: probing.scheduled,
    onLag: (lagMs) => {
      metrics.lag.observe(lagMs / 1000);
      // So late it is as good as without a place: this process cannot keep to its schedule.
      if (lagMs > policy.lateMsMax) self.due(true);
    },
    onError: (err, key) => log.error({ err, target: key }, "a probe failed by our own fault"),
    errorWaitMs: defaultPolicy.health.intervalMs,
  });
  const fleet = joinFleet({
    self: instance,
    zone: kit.config.MCPF_ZONE ?? null,
    startedAtMs,
    policy,
    clockMs: () => performance.now(),
    send: ({ settled, leaving, isolated }) => {
      if (!connected()) return;
      performer.sendHeartbeat({
        prober: instance,
        zone: kit.config.MCPF_ZONE ?? null,
        startedAtMs,
        sentAtMs: Math.floor(kit.nowMs()),
        endpointsOwned: schedule.size,
        ready: settled && configured,
        ...(isolated ? { isolated } : {}),
        ...(self.overloaded ? { overloaded: true } : {}),
        ...(leaving ? { leaving } : {}),
      });
    },
    onChange: assign,
    onImpostor: () => log.error({ instance }, "another prober has the same MCPF_INSTANCE; give each its own"),
  });
  /** Our own trouble is told as ours: to operators by readiness, metrics and log, to the other probers by the heartbeat. */
  function noteCondition(): void {
    const { isolated, overloaded, lagMs } = self;
    metrics.isolated.set(isolated ? 1 : 0);
    metrics.overloaded.set(overloaded ? 1 : 0);
    fleet.setIsolated(isolated);
    const cutOff = `none of ${references.join(", ")} can be reached from here, and no target answers: failures are not told, others probe what was ours`;
    const late =
      "this prober cannot keep to its schedule: start more of them, or give it more CPU, or of what its log says that it has run out of";
    kit.ready("network", !isolated, isolated ? cutOff : "", { required: false });
    kit.ready("load", !overloaded, overloaded ? late : "", { required: false });
    if (isolated) log.warn({ references }, cutOff);
    if (overloaded) log.warn({ lagMs }, late);
    if (!isolated && !overloaded) log.info("this prober is well again");
  }

  /** Starts what has become ours, at once, and lets go of what has not stayed so. */
  function assign(): void {
    if (stopped) return;
    metrics.live.set(fleet.peers().length + 1);
    const mine = [...targets.values()].filter((target) => fleet.owns(target.key));
    const mineKeys = new Set(mine.map((target) => target.key));
    for (const key of [...keeper.keys()]) {
      if (mineKeys.has(key)) continue;
      schedule.remove(key);
      keeper.disown(key);
    }
    const taken = mine.filter((target) => !keeper.owns(target.key));
    const spreadMs = Math.min(takeOverMsMax, taken.length * takeOverMsEach);
    for (const target of mine) keeper.own(target);
    for (const { key, policy: own } of mine) if (!own.monitored) schedule.remove(key);
    const started = mine.filter((target) => target.policy.monitored && !schedule.has(target.key));
    for (const { key } of started) schedule.plan(key, { atMs: kit.nowMs() + fractionOf(key) * spreadMs, purpose: "scheduled" });
    metrics.owned.set(mine.length);
    if (taken.length > 0) log.info({ taken: taken.length, owned: schedule.size, peers: fleet.peers() }, "endpoints taken over");
  }

  function configure({ topology, environment, version }: AppliedTopology): void {
    const before = targets;
    targets = targetsOf(topology, environment, kit.config.MCPF_ROUTER_URL);
    maintenance = topology.maintenance ?? [];
    references = kit.config.MCPF_REFERENCE_URLS ?? topology.probes.reference_urls ?? [];
    addresses = references.length === 0 ? [] : addressesOf(targets, fractionOf(instance));
    configured = true;
    kit.ready("configuration", true);
    runner.retain(targets);
    // Another server under an old name is a new endpoint: nothing seen of the old one counts for it.
    for (const [key, target] of targets) if (before.has(key) && before.get(key)?.identity !== target.identity) keeper.disown(key);
    log.info({ version, endpoints: targets.size }, "configuration applied");
    assign();
    for (const target of targets.values()) hasten(target, before.get(target.key));
  }

  /** What was planned by an interval that is longer than the one now, or for the server before, is not waited for: it could be an hour. */
  function hasten({ key, policy: own, identity }: Target, before: Target | undefined): void {
    if (before === undefined || !schedule.has(key)) return;
    const nowMs = kit.nowMs();
    if (before.identity !== identity) schedule.hasten(key, { atMs: nowMs + fractionOf(key) * takeOverMsMax, purpose: "scheduled" });
    else if (own.intervalMs < before.policy.intervalMs) schedule.hasten(key, { atMs: gridSlot(key, own, nowMs), purpose: "scheduled" });
  }

  let watching: NodeJS.Timeout;
  let watchDueMs = kit.nowMs();
  function watch(): void {
    const nowMs = kit.nowMs();
    if (Math.abs(nowMs - watchDueMs) > defaultPolicy.failover.clockGapMs) keeper.resetSilence();
    keeper.lookForSilence();
    metrics.sessions.set(runner.openSessions);
    metrics.loopLag.set(self.lagMs / 1000);
    // A clock that is set back must not begin a grace that lasts until it has caught up.
    const setBack = graceUntilMs - nowMs > defaultPolicy.health.graceMs;
    const early = graceUntilMs > nowMs && (setBack || (configured && fleet.settled && keeper.allProven()));
    if (early) graceUntilMs = Math.floor(nowMs);
    const graceEnded = configured && fleet.settled && nowMs >= graceUntilMs;
    kit.ready("grace", graceEnded, graceEnded ? "" : "the grace after start has not ended");
    const waitMs = graceEnded ? watchMs : graceWatchMs;
    watchDueMs = nowMs + waitMs;
    watching = setTimeout(watch, waitMs);
  }

  kit.ready("configuration", false, "no configuration has been applied yet: run bootstrap, or `mcpf config apply`");
  const following = followTopology(kit, configure);
  const heard = bus.subscribe("prober.heartbeat", (event) => fleet.hear(event.data));
  const asked = bus.subscribe("probe.requested", (event, respond) => {
    questions.answer(event, respond).catch((err: unknown) => log.error({ err }, "a probe that was asked for failed"));
  });
  const stopListening = bus.onStatus(() => {
    fleet.setConnected(connected());
    if (connected()) observations.resume();
  });
  fleet.setConnected(connected());
  const sweeping = setInterval(() => runner.retain(targets), sweepMs);
  watch();

  return {
    async stop() {
      stopped = true;
      clearTimeout(watching);
      clearInterval(sweeping);
      stopListening();
      heard.stop();
      asked.stop();
      schedule.stop();
      self.stop();
      fleet.stop();
      await Promise.all([runner.close(), observations.close(), following.stop(), health.stop(), reporting.stop()]);
    },
  };
}
