import { isObject } from "./envelope.ts";

/**
 * Which endpoint runs a task (requirement R17): what a client asks of a task goes to that endpoint or nowhere, and a task whose endpoint is gone
 * is never made again. Kept by the process that saw the task begin; another one sends the question to the active endpoint.
 */
export interface TaskBook {
  /** From an answer that made a task. */
  learn(upstream: string, principal: string, endpoint: string, result: unknown): void;
  /** Null: not a question about a task, or nothing is known of it. */
  endpointOf(upstream: string, principal: string, method: string, params: Readonly<Record<string, unknown>>): string | null;
}

const tasksMax = 20_000;
const taskIdCharsMax = 256;

export function createTaskBook(): TaskBook {
  const endpoints = new Map<string, string>();
  const keyOf = (upstream: string, principal: string, taskId: string): string => JSON.stringify([upstream, principal, taskId]);
  return {
    learn(upstream, principal, endpoint, result) {
      if (!isObject(result)) return;
      // Up to 2025-11-25 a task is inside the result; since 2026-07-28 the result is the task.
      const task = isObject(result["task"]) ? result["task"] : result;
      const taskId = task["taskId"];
      if (typeof taskId !== "string" || taskId.length > taskIdCharsMax) return;
      const key = keyOf(upstream, principal, taskId);
      endpoints.delete(key);
      endpoints.set(key, endpoint);
      if (endpoints.size > tasksMax) endpoints.delete(endpoints.keys().next().value as string);
    },
    endpointOf(upstream, principal, method, { taskId }) {
      if (!method.startsWith("tasks/") || typeof taskId !== "string") return null;
      return endpoints.get(keyOf(upstream, principal, taskId)) ?? null;
    },
  };
}
