import { BusError } from "@mcp-failover/bus";
import type { Kit } from "../kit.ts";

/** Evaluates keys on their own: one evaluation of a key at a time, and one more where it was asked for meanwhile. Never throws. */
export interface OneAtATime {
  evaluate(key: string): void;
}

/** `run` decides about one key until it has won or nothing changes; a log out of reach is said and left to the next second. */
export function oneAtATime(kit: Pick<Kit, "log">, run: (key: string) => Promise<void>): OneAtATime {
  const running = new Set<string>();
  const again = new Set<string>();
  const evaluate = (key: string): void => {
    if (running.has(key)) {
      again.add(key);
      return;
    }
    running.add(key);
    run(key)
      .catch((error: unknown) => {
        const level = error instanceof BusError && error.retriable ? "warn" : "error";
        kit.log[level]({ err: error, key }, "a decision could not be taken; it is tried again within a second");
      })
      .finally(() => {
        running.delete(key);
        if (again.delete(key)) evaluate(key);
      });
  };
  return { evaluate };
}
