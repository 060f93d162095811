import type { AdmissionPolicy } from "@mcp-failover/domain";
import { UpstreamAdmission } from "./admission.ts";
import { legacyConnectionsMax } from "./legacy.ts";

/**
 * Each call at an API has a connection of its own. Of those beyond, a thousand may wait, as long as a person hardly notices: an API that does not keep
 * up with so many does not keep up with more, and who is refused has not been sent and may come again.
 */
export const legacyPlaces: AdmissionPolicy = { concurrencyMax: legacyConnectionsMax, queueMax: 1000, queueMsMax: 2000 };

/** Why a call got no place at a legacy API. */
export type NoPlace = "legacy_queue" | "legacy_wait";

/**
 * The calls of this process that run and wait at each legacy API (one origin, whatever tools it serves). Guarantees:
 * L1  No call waits inside the HTTP client, where nobody could say whether it was sent: who has a place has a connection to itself.
 * L2  A wait ends with a place, by its time, or with its call; who was let in leaves once.
 */
export class LegacyPlaces {
  readonly #apis = new Map<string, UpstreamAdmission>();

  /** APIs at which a call runs or waits. */
  get size(): number {
    return this.#apis.size;
  }

  /** How to leave, or why there is no place. `deadlineMs` is by the clock of `nowMs`, which does not jump. */
  async enter(
    url: string,
    call: { readonly critical: boolean; readonly deadlineMs: number; readonly signal: AbortSignal; onWait(): void },
    nowMs: () => number,
  ): Promise<(() => void) | NoPlace> {
    const { origin } = new URL(url);
    const api = this.#apis.get(origin) ?? new UpstreamAdmission();
    this.#apis.set(origin, api);
    const leave = (): void => {
      api.leave(legacyPlaces, nowMs());
      this.#forget(origin, api);
    };
    const entry = api.enter(call, legacyPlaces, nowMs());
    if (entry.kind === "run") return leave;
    if (entry.kind === "refuse") return this.#noPlace(origin, api, "legacy_queue");
    call.onWait();
    call.signal.addEventListener("abort", entry.stop, { once: true });
    if (call.signal.aborted) entry.stop();
    const turn = await entry.turn;
    call.signal.removeEventListener("abort", entry.stop);
    if (turn === "in") return leave;
    return this.#noPlace(origin, api, turn === "late" ? "legacy_wait" : "legacy_queue");
  }

  #noPlace(origin: string, api: UpstreamAdmission, why: NoPlace): NoPlace {
    this.#forget(origin, api);
    return why;
  }

  /** An API that left the configuration is kept no longer than its calls. */
  #forget(origin: string, api: UpstreamAdmission): void {
    if (api.running === 0 && api.waiting === 0 && this.#apis.get(origin) === api) this.#apis.delete(origin);
  }
}
