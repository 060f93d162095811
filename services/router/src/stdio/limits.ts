import type { ChildLimits } from "./child.ts";

/** What one stdio endpoint may take. `sessions_max` of the configuration stands over `sessionsMax`. */
export interface StdioLimits extends ChildLimits {
  readonly sessionsMax: number;
  /** Requests of one process that wait for an answer. */
  readonly pendingMax: number;
  /** What a server said for a session's own stream while there is none. */
  readonly waitingMax: number;
  readonly waitingCharsMax: number;
  /** A session that nobody used for so long is ended. */
  readonly idleMs: number;
  /** One that rested for so long may give its place to another. */
  readonly roomIdleMs: number;
  /** A process that stands by has to answer within this time. */
  readonly readyMs: number;
  readonly discoverMs: number;
  /** One that was asked by the router itself, and has said nothing at all for so long, hangs. */
  readonly hungMs: number;
  /** The same for the one that stands by, which nobody uses. */
  readonly spareHungMs: number;
  /** How long one that is silent has for an answer before it is asked again. */
  readonly hungAskMs: number;
  /** How often it is looked for what is idle or hangs. */
  readonly sweepMs: number;
  /** How soon after one was taken the next is started: not in the moment in which the first is busiest. */
  readonly spareAfterMs: number;
  readonly restMsMin: number;
  readonly restMsMax: number;
}

/** A line may be as long as an event of a stream (`mcp/sse.ts`): images travel in it. */
export const stdioLimits: StdioLimits = {
  lineBytesMax: 8 * 1024 * 1024,
  errorLineBytesMax: 4096,
  errorLinesASecond: 20,
  inputBytesMax: 8 * 1024 * 1024,
  stopMs: 2000,
  sessionsMax: 32,
  pendingMax: 256,
  waitingMax: 1000,
  waitingCharsMax: 1024 * 1024,
  idleMs: 10 * 60_000,
  roomIdleMs: 5000,
  readyMs: 30_000,
  discoverMs: 3000,
  hungMs: 60_000,
  spareHungMs: 10_000,
  hungAskMs: 5000,
  sweepMs: 15_000,
  spareAfterMs: 250,
  restMsMin: 250,
  restMsMax: 30_000,
};
