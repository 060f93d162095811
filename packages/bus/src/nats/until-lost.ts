import { BusError } from "../bus.ts";
import type { NatsLink } from "./link.ts";

/** Waits for what nats.js does by itself, which never ends when the connection is lost meanwhile. Throws {@link BusError} `unreachable` then. */
export async function untilLost<T>(link: NatsLink, what: string, work: Promise<T>): Promise<T> {
  const lost = Promise.withResolvers<never>();
  const off = link.onStatus(() => {
    if (link.connected) return;
    const message = `the connection was lost while ${what} was in use; a write may have happened: read it again`;
    lost.reject(new BusError("unreachable", message, { retriable: true }));
  });
  work.catch(() => undefined); // The race may be over before it fails.
  try {
    return await Promise.race([work, lost.promise]);
  } finally {
    off();
    lost.promise.catch(() => undefined);
  }
}
