import { setTimeout as sleep } from "node:timers/promises";
import { type Bus, BusError, RefusedError, readFleetStatus } from "@mcp-failover/bus";
import { type ProcessInfo, processInfo, type RequestInput, type StatusView } from "@mcp-failover/contracts";
import { experimentPolicy } from "@mcp-failover/domain";
import type { Kit } from "@mcp-failover/service-kit";
import { z } from "zod";

/** What the runner asks of the others. */
const askMs = 2000;

/** A request whose refusal and silence both throw: {@link RefusedError} as the other said it, {@link BusError} where nobody answered. */
async function ask<S extends "launcher.processes" | "launcher.kill" | "launcher.start" | "fault.set" | "fault.clear" | "fault.list">(
  bus: Bus,
  subject: S,
  body: RequestInput<S>,
  timeoutMs: number = askMs,
): Promise<unknown> {
  const reply = await bus.request(subject, body, { timeoutMs });
  if (!reply.ok) throw new RefusedError(reply.error.code, reply.error.message, reply.error.retriable);
  return reply.result;
}

export async function askStatus(bus: Bus, timeoutMs: number = askMs): Promise<StatusView> {
  return (await readFleetStatus(bus, { timeoutMs })).status;
}

export async function askProcesses(bus: Bus, timeoutMs: number = askMs): Promise<readonly ProcessInfo[]> {
  const answer = z.looseObject({ processes: z.array(processInfo) });
  return answer.parse(await ask(bus, "launcher.processes", {}, timeoutMs)).processes;
}

/** What is done to one endpoint, and how it is undone. Both may be repeated; the fault ends by itself at its lease's end. */
export type Fault =
  /** SIGKILL; the supervisor brings the process back at the lease's end, or when it is asked to. */
  | { readonly kind: "kill"; readonly process: string }
  | { readonly kind: "slow"; readonly process: string; readonly proxy: string; readonly delayMs: number };

export function sayFault(fault: Fault): { readonly inject: string; readonly revert: string } {
  return fault.kind === "kill"
    ? { inject: `SIGKILL to the process ${fault.process}`, revert: `start the process ${fault.process}` }
    : {
        inject: `${fault.delayMs} ms added to every answer of ${fault.process}, in its fault proxy`,
        revert: `clear the fault of the proxy ${fault.proxy}`,
      };
}

export async function inject(bus: Bus, fault: Fault, leaseMs: number): Promise<void> {
  if (fault.kind === "kill") await ask(bus, "launcher.kill", { process: fault.process, restartAfterMs: leaseMs });
  else await ask(bus, "fault.set", { proxy: fault.proxy, latencyMs: fault.delayMs, ttlMs: leaseMs });
}

async function revert(bus: Bus, fault: Fault): Promise<void> {
  if (fault.kind === "kill") await ask(bus, "launcher.start", { process: fault.process });
  else await ask(bus, "fault.clear", { proxy: fault.proxy });
}

/** Whether nothing is left of the fault: the process does its work again, the proxy delays nothing. */
async function isGone(bus: Bus, fault: Fault, timeoutMs: number = askMs): Promise<boolean> {
  if (fault.kind === "kill")
    return (await askProcesses(bus, timeoutMs)).some(({ name, state }) => name === fault.process && state === "running");
  const answer = z.looseObject({ proxies: z.array(z.looseObject({ proxy: z.string(), fault: z.unknown() })) });
  const { proxies } = answer.parse(await ask(bus, "fault.list", {}, timeoutMs));
  return proxies.some(({ proxy, fault: left }) => proxy === fault.proxy && left === null);
}

/** Whether a fault that is about to be taken back is still there; null: nobody says so within its slack. */
export async function isThereYet(bus: Bus, fault: Fault): Promise<boolean | null> {
  for (let tries = 0; tries < 2; tries += 1) {
    try {
      return !(await isGone(bus, fault, experimentPolicy.faultSlackMs / 2));
    } catch (error) {
      if (!isTransient(error)) throw error;
    }
  }
  return null;
}

/** Nobody there, or a refusal that a later try may not get: what a revert waits for. */
export function isTransient(error: unknown): boolean {
  return error instanceof BusError || error instanceof RefusedError || error instanceof z.ZodError;
}

const retryMs = 300;

/** Takes a fault back, again and again, until it is seen to be gone or the time for it is over; a process that stops has less time. */
export async function revertUntilGone(kit: Pick<Kit, "bus" | "log">, fault: Fault, stop: AbortSignal): Promise<boolean> {
  const { revertMsMax, revertMsMaxOnStop } = experimentPolicy;
  const startedMs = performance.now();
  for (;;) {
    const unreachable = kit.bus.status.kind !== "connected";
    const leftMs =
      (stop.aborted ? (unreachable ? revertMsMaxOnStop / 4 : revertMsMaxOnStop) : revertMsMax) - (performance.now() - startedMs);
    if (leftMs <= 0) return false;
    try {
      // On a cut connection every question would wait for its whole time-out.
      if (unreachable) throw new BusError("unreachable", "NATS is out of reach", { retriable: true });
      // In every round: a fault whose injection was late may have begun after the revert before.
      await revert(kit.bus, fault);
      if (await isGone(kit.bus, fault)) return true;
    } catch (error) {
      if (!isTransient(error)) throw error;
      kit.log.warn({ err: error, fault }, "the fault is not taken back yet");
    }
    await sleep(retryMs);
  }
}

export function reasonOf(stop: AbortSignal): string {
  return typeof stop.reason === "string" ? stop.reason : "the runner was stopped";
}
