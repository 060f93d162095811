import type { Book, Outcome } from "./book.ts";

/** The part of an SDK's transport through which messages come and go; that of 1.x and that of 2.x. */
interface Transport {
  // biome-ignore lint/suspicious/noExplicitAny: both SDKs' types of a message, with different further arguments.
  onmessage?: ((message: any, extra?: any) => void) | undefined;
}

const textKept = 300;

/** Looks at each message that comes before the SDK does: a second answer to one request is seen, which an SDK ignores. */
export function countAnswers(transport: Transport, name: string, book: Book): void {
  const answered = new Map<string | number, string>();
  let handler: Transport["onmessage"];
  Object.defineProperty(transport, "onmessage", {
    configurable: true,
    get: () => handler && look,
    set: (given: Transport["onmessage"]) => {
      handler = given;
    },
  });
  const look = (message: { id?: string | number; method?: string }, extra: unknown): void => {
    if (message.method === undefined && message.id !== undefined) {
      const text = JSON.stringify(message).slice(0, textKept);
      const before = answered.get(message.id);
      if (before !== undefined) book.answeredTwice(name, `${before} and then ${text}`);
      answered.set(message.id, text);
    }
    handler?.(message, extra);
  };
}

/** What an SDK's error, or that of `fetch`, says of the request. */
export function outcomeOf(error: unknown): { readonly outcome: Outcome; readonly detail: string } {
  const { name, message, code, status, data } = error as {
    name: string;
    message: string;
    code?: number | string;
    status?: number;
    data?: { code?: unknown };
  };
  const detail = `${name} ${code ?? ""}: ${message}${causeOf(error)}`;
  if (/timed out|timeout/i.test(message) && data?.code === undefined) return { outcome: "unanswered", detail };
  if (typeof data?.code === "string") return { outcome: `error ${data.code}`, detail };
  if (name === "StreamableHTTPError" || name === "SdkHttpError") return { outcome: `http ${status ?? code}`, detail };
  if (typeof code === "number" && !/Connection closed/.test(message)) return { outcome: `error ${code}`, detail };
  return { outcome: "broken", detail };
}

function causeOf(error: unknown): string {
  const { cause } = error as { cause?: unknown };
  return cause instanceof Error ? ` (${cause.message})` : "";
}
