import type { Turn } from "./admission.ts";
import type { CallWorld } from "./call-world.ts";
import type { CallDescription, CallProblem } from "./port.ts";
import type { UpstreamState } from "./upstream-state.ts";

/** What costs a server work. Lists, sessions and notifications are small, and without them nobody could call anything. */
const workMethods: ReadonlySet<string> = new Set(["tools/call", "resources/read", "prompts/get", "completion/complete"]);

/** One call under the limits of its agent and of its upstream. Who was let in leaves once, whatever becomes of the call. */
export class CallEntry {
  readonly #world: CallWorld;
  readonly #upstream: UpstreamState;
  readonly #call: CallDescription;
  #inside = false;
  #stopped = false;
  #stopWaiting: (() => void) | null = null;

  constructor(world: CallWorld, upstream: UpstreamState, call: CallDescription) {
    this.#world = world;
    this.#upstream = upstream;
    this.#call = call;
  }

  /** Named critical by the operator, itself or its agent. */
  get isCritical(): boolean {
    const { agent, tool } = this.#call;
    const limits = this.#upstream.policy.router.admission;
    if (limits === null) return false;
    return (tool !== null && limits.criticalTools.includes(tool)) || (agent !== null && limits.criticalAgents.includes(agent));
  }

  /** `null`: the call may be made; else why not. */
  enter(leftMs: number): CallProblem | null | Promise<CallProblem | null> {
    const { kind, method, agent } = this.#call;
    if (kind !== "http" && !workMethods.has(method)) return null;
    const rate = this.#world.rateOf(agent);
    const { admission, policy } = this.#upstream;
    const limits = policy.router.admission;
    if (rate === null && limits === null) return null;
    const nowMs = this.#world.monotonicMs();
    const laterMs = rate === null ? null : this.#world.accounts.take(agent ?? "", rate, nowMs);
    if (laterMs !== null) return this.#refusal("agent_rate", laterMs);
    if (limits === null) return null;
    const entry = admission.enter({ critical: this.isCritical, deadlineMs: nowMs + leftMs }, limits, nowMs);
    if (entry.kind === "refuse") return this.#refusal("queue", entry.retryAfterMs);
    if (entry.kind === "run") {
      this.#inside = true;
      return null;
    }
    this.#stopWaiting = entry.stop;
    return entry.turn.then((turn) => this.#afterWait(turn, limits.queueMsMax));
  }

  #afterWait(turn: Turn, queueMsMax: number): CallProblem | null {
    this.#stopWaiting = null;
    if (turn !== "in") return this.#refusal(turn === "late" ? "wait" : "queue", queueMsMax);
    this.#inside = true;
    // The call ended in the moment in which its turn came.
    if (this.#stopped) this.leave();
    return null;
  }

  /** The call is over: it does not wait, and takes no room any more. */
  leave(): void {
    this.#stopped = true;
    this.#stopWaiting?.();
    if (!this.#inside) return;
    this.#inside = false;
    this.#upstream.admission.leave(this.#upstream.policy.router.admission, this.#world.monotonicMs());
  }

  #refusal(why: "agent_rate" | "queue" | "wait", retryAfterMs: number): CallProblem {
    const { name } = this.#upstream;
    if (!this.#stopped) this.#world.shed(name, why);
    const message =
      why === "agent_rate"
        ? `${this.#call.agent ?? "an agent without a name"} calls too often; the call was not sent`
        : `${name} has as many calls under way and waiting as it may have; the call was not sent`;
    return { code: "overloaded", message, retriable: true, retryAfterMs, httpStatus: why === "agent_rate" ? 429 : 503 };
  }
}
