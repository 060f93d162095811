/** The request may have reached the server, or certainly has not; either way there is no answer to it. */
export class UnansweredError extends Error {
  override readonly name = "UnansweredError";
  readonly sent: boolean;
  readonly reason: "disconnected" | "timeout" | "no_responders";
  constructor(reason: UnansweredError["reason"], sent: boolean, message: string, cause?: unknown) {
    super(message, { cause });
    this.reason = reason;
    this.sent = sent;
  }
}
