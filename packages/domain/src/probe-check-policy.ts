/** Defaults of what single checks look at; when an endpoint is probed and how its health follows is in `HealthPolicy`. */
export interface ProbeCheckPolicy {
  /** A tool list is asked for this often, a ping in between: it costs a legacy server 15 KB a call (measured), and changes with releases. */
  readonly toolsEveryMs: number;
  /** Pages of one list, and tools in it. */
  readonly toolPagesMax: number;
  readonly toolsMax: number;
  /** A canary tool does real work at the server; a ping shows in between that it lives. */
  readonly canaryEveryMs: number;
  /** `tls` without an assertion of its own: the last 14 days degrade. Uptime Kuma warns at 21, 14 and 7. */
  readonly certificateDaysMin: number;
  /** Certificates change with days; a handshake made for their sake alone is worth a minute. */
  readonly certificateEveryMs: number;
  /** Reference, `memory_usage`. */
  readonly resourceRatioMax: number;
  /** So much of a body, an output, a message is read for assertions. */
  readonly documentBytesMax: number;
}

export const probeCheckPolicy: ProbeCheckPolicy = {
  toolsEveryMs: 60_000,
  toolPagesMax: 50,
  toolsMax: 5000,
  canaryEveryMs: 30_000,
  certificateDaysMin: 14,
  certificateEveryMs: 60_000,
  resourceRatioMax: 0.8,
  documentBytesMax: 1024 * 1024,
};
