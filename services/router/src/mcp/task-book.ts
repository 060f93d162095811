import { createHash } from "node:crypto";
import { isObject } from "./envelope.ts";
import type { SharedBucket } from "./shared-bucket.ts";

/**
 * Which endpoint runs a task (requirement R17): what a client asks of a task goes to that endpoint or nowhere, and a task whose endpoint is gone
 * is never made again. Guarantees:
 * K1  The process that saw a task begin knows its endpoint, with or without the bus.
 * K2  The client has its task only after the other processes can find it, where the bus answers within the bucket's time.
 * K3  At most {@link tasksMax} are kept, here and in the bucket for each process; the bucket forgets them after its own time.
 */
export interface TaskBook {
  /** From an answer; null: it made no task, or nobody has to be told. The promise never fails. */
  learn(upstream: string, principal: string, endpoint: string, result: unknown): Promise<void> | null;
  /** What this process knows. Null: no question about a task, or it saw it not begin. */
  endpointOf(upstream: string, principal: string, method: string, params: Readonly<Record<string, unknown>>): string | null;
  /** What any process knows. */
  find(upstream: string, principal: string, taskId: string): Promise<TaskPlace>;
}
type TaskPlace =
  | { readonly kind: "runs_on"; readonly endpoint: string }
  | { readonly kind: "unknown" }
  /** The other processes cannot be asked. */
  | { readonly kind: "out_of_reach" };

const tasksMax = 20_000;
const taskIdCharsMax = 256;

/** `shared`: what router processes have in common; null: this one is alone. */
export function createTaskBook(shared: SharedBucket | null = null): TaskBook {
  const endpoints = new Map<string, string>();
  return {
    learn(upstream, principal, endpoint, result) {
      if (!isObject(result)) return null;
      // Up to 2025-11-25 a task is inside the result; since 2026-07-28 the result is the task.
      const task = isObject(result["task"]) ? result["task"] : result;
      const taskId = task["taskId"];
      if (typeof taskId !== "string" || taskId.length > taskIdCharsMax) return null;
      const key = keyOf(upstream, principal, taskId);
      endpoints.delete(key);
      endpoints.set(key, endpoint);
      const oldest = endpoints.size > tasksMax ? (endpoints.keys().next().value as string) : null;
      if (oldest !== null) endpoints.delete(oldest);
      if (shared === null) return null;
      return shared(async (bucket) => {
        await bucket.put(key, endpoint);
        if (oldest !== null) await bucket.delete(oldest);
      }).then(() => undefined);
    },
    endpointOf(upstream, principal, method, { taskId }) {
      if (!method.startsWith("tasks/") || typeof taskId !== "string") return null;
      return endpoints.get(keyOf(upstream, principal, taskId)) ?? null;
    },
    async find(upstream, principal, taskId) {
      if (shared === null) return { kind: "unknown" };
      const key = keyOf(upstream, principal, taskId);
      const found = await shared((bucket) => bucket.get(key));
      if (found === null) return { kind: "out_of_reach" };
      return found.value === null ? { kind: "unknown" } : { kind: "runs_on", endpoint: found.value.value };
    },
  };
}

/** Says nothing of the task to those who see the bucket. */
function keyOf(upstream: string, principal: string, taskId: string): string {
  return `task-${createHash("sha256")
    .update(JSON.stringify([upstream, principal, taskId]))
    .digest("base64url")}`;
}
