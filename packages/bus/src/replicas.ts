import { BusError } from "./bus.ts";

/** B8. Throws {@link BusError} `replicas_unsafe`: on a three-node 2.9.10 cluster 299 of 300 races had more than one winner (nats-server #4320). */
export function refuseReplicas(replicas: number, serverVersion: string): void {
  if (replicas <= 1) return;
  const [major = 0, minor = 0] = serverVersion.split(".").map((part) => Number.parseInt(part, 10));
  if (major > 2 || (major === 2 && minor >= 11)) return;
  throw new BusError(
    "replicas_unsafe",
    `nats-server ${serverVersion} does not keep the fence of a replicated stream: use 2.11 or newer, or one replica`,
    { retriable: false },
  );
}
