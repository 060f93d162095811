/** How a prober process works, whatever it probes; what is decided about one endpoint is in `HealthPolicy`. */
export interface ProberPolicy {
  /** A killed prober's endpoints are probed again within 3 s: silence of three heartbeats, then at once. */
  readonly heartbeatMs: number;
  readonly deadAfterMs: number;
  /** A new prober listens this long for others before it takes endpoints: two heartbeats. */
  readonly settleMs: number;
  readonly batchMs: number;
  /** Below the contract's 1000, so that a batch of long errors stays under NATS' 1 MiB. */
  readonly batchMax: number;
  /** Observations kept while the log is out of reach; the oldest are dropped, and counted. */
  readonly bufferMax: number;
  /**
   * Probes in flight: in all, of these kept for confirming ones, and of one host. Gatus and Uptime Kuma fall behind without such limits.
   * 10,000 endpoints every 5 s that answer in 350 ms on average have 700 in flight.
   */
  readonly inFlightMax: number;
  readonly inFlightReserved: number;
  /** Of the rest, kept for critical upstreams: when there is not enough for all, the others are skipped first. */
  readonly inFlightCritical: number;
  readonly inFlightPerHostMax: number;
  /** Confirming probes of one host: a question may name many endpoints of one gateway, and is rare. */
  readonly confirmPerHostMax: number;
  /** Questions to the peers under way at once; what is over waits for the next failing probe. */
  readonly questionsMax: number;
  /** Added to the probe's time-out when waiting for the peers' words. */
  readonly answerMarginMs: number;
  /** MCP: how long a found protocol era is believed, and how long one probe session is used (each leaked one costs 67 KB, measured). */
  readonly eraMs: number;
  readonly sessionMs: number;
  /** How long the answer to `initialize` is waited for, whose probe may have ended long before: the session in it has to be ended. */
  readonly handshakeMs: number;
  readonly answerBytesMax: number;
  /** How long the end of a session, and a fenced word, may take. */
  readonly endSessionMs: number;
  readonly sayMs: number;
  /**
   * References are tried this often, every `referenceFailingMs` while they fail, and at once when a probe gets no answer; for so long. While
   * they fail, so are a few targets, unless one has answered within `referenceFailingMs`.
   */
  readonly referenceEveryMs: number;
  readonly referenceFailingMs: number;
  readonly referenceTimeoutMs: number;
  /** A target's answer shows for this long that the network is there: one default interval. */
  readonly answerProvesMs: number;
  /** Seconds that overload has to last, and to be over. */
  readonly conditionSamples: number;
  /** Later than this on average, what we measure is ourselves; the schedule's own bound is the same. */
  readonly lagMsMax: number;
  /** Of the due probes, those without a place or begun over `lateMsMax` late. */
  readonly refusedShareMax: number;
  readonly lateMsMax: number;
  /** A process that stood still this long inside a probe knows nothing of a time-out. */
  readonly stallMs: number;
}

export const proberPolicy: ProberPolicy = {
  heartbeatMs: 500,
  deadAfterMs: 1500,
  settleMs: 1000,
  batchMs: 250,
  batchMax: 500,
  bufferMax: 10_000,
  inFlightMax: 1024,
  inFlightReserved: 128,
  inFlightCritical: 128,
  inFlightPerHostMax: 4,
  confirmPerHostMax: 16,
  questionsMax: 64,
  answerMarginMs: 150,
  eraMs: 600_000,
  sessionMs: 300_000,
  handshakeMs: 30_000,
  answerBytesMax: 1024 * 1024,
  endSessionMs: 2000,
  sayMs: 2000,
  referenceEveryMs: 5000,
  referenceFailingMs: 1000,
  referenceTimeoutMs: 500,
  answerProvesMs: 5000,
  conditionSamples: 3,
  lagMsMax: 100,
  refusedShareMax: 0.05,
  lateMsMax: 1000,
  stallMs: 250,
};
