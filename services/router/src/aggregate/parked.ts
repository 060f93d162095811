import { Ending, type EndSignal, eitherOf } from "../ending.ts";
import { AbortedByRouter, UpstreamError, type UpstreamResponse } from "../upstream-client.ts";
import { InnerError, isStream, type Listener, lostError, type Read, readMessages } from "./inner-answer.ts";

const failuresMax = 3;
const againMsMin = 500;
const againMsMax = 5000;
/** An upstream that has lost a call may never say so, and its client may have no deadline: then this ends it. */
const silentMs = 30 * 60_000;
/** Of the pause that a server asks for. */
const retryMsMin = 100;
const retryMsMax = 60_000;

/**
 * Reads a call's stream to its answer. One that ends before it is gone on with by its last event id: a server closes the stream of a long
 * call in good order, as often as it likes. Throws {@link InnerError}, as the call may have run:
 * F1  when nobody waits for the answer any more (`waited`);
 * F2  when more than `failuresMax` tries in a row fail, or the rest of the call is refused;
 * F3  when it is parked and the upstream has said nothing of it for `silentMsMax`.
 */
export async function listenToEnd(
  response: UpstreamResponse,
  call: {
    readonly upstream: string;
    readonly id: string | number;
    readonly listen: Listener;
    readonly waited: EndSignal;
    readonly silentMsMax?: number;
  },
  goOn: (lastEventId: string, waited: EndSignal) => Promise<UpstreamResponse>,
): Promise<void> {
  const { upstream, id } = call;
  const silence = new Ending();
  let silent: NodeJS.Timeout | undefined;
  const waited = eitherOf(call.waited, silence);
  const listen: Listener = (...heard) => {
    silent?.refresh();
    return call.listen(...heard);
  };
  const onFurther = (): void => {
    silent ??= setTimeout(() => silence.abort(new AbortedByRouter("deadline")), call.silentMsMax ?? silentMs).unref();
    silent.refresh();
  };
  try {
    await listenOn(response, { upstream, id, listen, waited }, (lastEventId) => goOn(lastEventId, waited), onFurther);
  } finally {
    clearTimeout(silent);
  }
}

async function listenOn(
  response: UpstreamResponse,
  call: { readonly upstream: string; readonly id: string | number; readonly listen: Listener; readonly waited: EndSignal },
  goOn: (lastEventId: string) => Promise<UpstreamResponse>,
  onFurther: () => void,
): Promise<void> {
  const { upstream, id, listen, waited } = call;
  let from: string | null = null;
  let retryMs: number | null = null;
  let failures = 0;
  let waitMs = againMsMin;
  let current: UpstreamResponse | null = response;
  for (;;) {
    const heard: Read | null = current === null ? null : await readMessages(current, id, listen);
    if (heard?.answered) return;
    const isFurther = heard !== null && heard.lastEventId !== null && heard.lastEventId !== from;
    if (isFurther) {
      waitMs = againMsMin;
      onFurther();
    }
    if (isFurther || heard?.inOrder) failures = 0;
    else failures += 1;
    from = heard?.lastEventId ?? from;
    retryMs = heard?.retryMs ?? retryMs;
    if (from === null || failures > failuresMax || waited.aborted) throw new InnerError(lostError(upstream));
    await pause(retryMs === null ? waitMs : Math.min(Math.max(retryMs, retryMsMin), retryMsMax), waited);
    waitMs = Math.min(2 * waitMs, againMsMax);
    current = waited.aborted ? null : await streamOf(goOn(from), upstream);
  }
}

/** Null: it could not be had now. */
async function streamOf(asked: Promise<UpstreamResponse>, upstream: string): Promise<UpstreamResponse | null> {
  let response: UpstreamResponse;
  try {
    response = await asked;
  } catch (error) {
    if (error instanceof UpstreamError) return null;
    throw error;
  }
  if (isStream(response)) return response;
  response.discard(100);
  if (response.status >= 500 || response.status === 429) return null;
  throw new InnerError(lostError(upstream));
}

/** Ends early with `signal`. */
function pause(ms: number, signal: EndSignal): Promise<void> {
  return new Promise((resolve) => {
    const over = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", over);
      resolve();
    };
    const timer = setTimeout(over, ms);
    timer.unref();
    if (signal.aborted) over();
    else signal.addEventListener("abort", over);
  });
}
